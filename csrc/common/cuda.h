// What the CUDA kernels share. No torch header; the tests compile kernels for the host too (tests/emulation).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace uqforce {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Bytes of shared memory that a block of the current device can have.
inline int64_t most_shared_memory() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "current device");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "shared memory");
  return bytes;
}

// Threads of a block where nothing speaks for another number, and the blocks that hold `size` of them.
constexpr int kThreads = 256;
inline int64_t blocks_of(int64_t size, int64_t each = kThreads) { return (size + each - 1) / each; }

constexpr int kWarp = 32;
constexpr unsigned kAll = ~0u;  // lanes

// The thread's number in a grid of one dimension.
__device__ inline int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// Launches `kernel` on `stream` with `shared` bytes of dynamic shared memory; nothing where there are no
// blocks.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            void* stream, const Arguments&... arguments) {
  if (blocks == 0) return;
  if (blocks > 2147483647) throw std::runtime_error(std::string(name) + ": too many blocks");
  if (shared > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), name);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
#ifndef __CUDACC__
  emulation::count_launch(name, blocks);
#endif
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

// The block's dynamic shared memory, 16-byte aligned.
template <typename T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
#else
  return static_cast<T*>(emulation::shared_memory());
#endif
}

// Numbers of shared memory that a warp needs to sum `size` numbers.
constexpr int warp_sum_size(int size) { return kWarp * (size | 1); }

// Lane k < n gets the sum of sums[k] over the warp's lanes, in their order.
template <typename T, int n>
__device__ T warp_sum(const T (&sums)[n], T* shared) {
  constexpr int stride = n | 1;  // spares bank conflicts
  const int lane = threadIdx.x % kWarp;
  __syncwarp();
#pragma unroll
  for (int k = 0; k < n; ++k) shared[lane * stride + k] = sums[k];
  __syncwarp();
  T total(0);
  if (lane < n) {
    for (int other = 0; other < kWarp; ++other) total += shared[other * stride + lane];
  }
  return total;
}

}  // namespace uqforce
