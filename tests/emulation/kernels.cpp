// Kernels with known faults and without: the emulation must tell them apart. Prints one line for each.
#include <cstdio>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/cuda.h"

namespace {

constexpr int kThreads = 96, kBlocks = 3;

// Sum of the block's values by a tree in shared memory.
template <bool kBarrier>
__global__ void block_sum(const float* in, float* out) {
  float* shared = uqforce::shared_memory<float>();
  const int i = threadIdx.x, n = blockDim.x;
  shared[i] = in[blockIdx.x * n + i];
  for (int step = 64; step > 0; step /= 2) {
    if (kBarrier) __syncthreads();
    if (i < step && i + step < n) shared[i] += shared[i + step];
  }
  if (i == 0) out[blockIdx.x] = shared[0];
}

__global__ void warp_sum(const float* in, float* out) {
  float value = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  const unsigned large = __ballot_sync(~0u, threadIdx.x % 32 >= 16);
  if (threadIdx.x % 32 == 0) atomicAdd(out + blockIdx.x, large == 0xffff0000u ? value : NAN);
}

__global__ void block_race(const float* in, float* out) {
  if (threadIdx.x == 0) out[0] = in[blockIdx.x];
}

__global__ void unset_memory(const float*, float* out) {
  out[blockIdx.x] = uqforce::shared_memory<float>()[threadIdx.x];
}

__global__ void deadlock(const float*, float*) {
  if (threadIdx.x < 32) __syncwarp(3);
  if (threadIdx.x == 0) __syncthreads();
  if (threadIdx.x == 1) __syncwarp(3);
}

__global__ void wrong_mask(const float*, float* out) {
  if (threadIdx.x < 16) out[0] = __shfl_sync(0xffffu, 1.0f, 20);
}

__global__ void copy_ahead(const float* in, float* out, bool wait) {
  float* shared = uqforce::shared_memory<float>();
  if (threadIdx.x < 4) emulation::copy_later(shared + 4 * threadIdx.x, in + 4 * threadIdx.x, 16);
  emulation::commit_copies();
  if (wait) emulation::wait_for_copies(0);
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = shared[15];
}

void run(const char* name, const std::function<void(const float*, float*)>& launch) {
  std::vector<float> in(kThreads * kBlocks);
  for (size_t i = 0; i < in.size(); ++i) in[i] = float(i % 17);
  std::set<std::vector<unsigned>> results;
  std::string error;
  for (int repeat = 0; repeat < 20 && error.empty(); ++repeat) {
    std::vector<float> out(kBlocks);
    try {
      launch(in.data(), out.data());
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    std::vector<unsigned> bits(kBlocks);
    std::memcpy(bits.data(), out.data(), sizeof(float) * kBlocks);
    results.insert(bits);
    if (repeat == 0 && error.empty()) std::printf("%s: %g %g %g", name, out[0], out[1], out[2]);
  }
  if (!error.empty()) std::printf("%s: %s\n", name, error.c_str());
  if (error.empty()) std::printf(results.size() == 1 ? ", always\n" : ", and others\n");
}

template <typename Kernel, typename... More>
auto launcher(Kernel kernel, More... more) {
  return [=](const float* in, float* out) {
    uqforce::launch("test", kernel, kBlocks, kThreads, sizeof(float) * kThreads, nullptr, in, out, more...);
  };
}

}  // namespace

int main() {
  run("block_sum", launcher(block_sum<true>));
  run("block_sum without barriers", launcher(block_sum<false>));
  run("warp_sum", launcher(warp_sum));
  run("block_race", launcher(block_race));
  run("unset_memory", launcher(unset_memory));
  run("deadlock", launcher(deadlock));
  run("wrong_mask", launcher(wrong_mask));
  run("copy_ahead", launcher(copy_ahead, true));
  run("copy_ahead without wait", launcher(copy_ahead, false));
}
