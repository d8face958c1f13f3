// The part of CUDA that csrc's kernels use, on the host: stands first in the include path where the tests
// compile csrc/*/cuda.cu with a C++ compiler. A block's threads are fibres that switch at barriers and
// shuffles; blocks, and the threads between two barriers, run in another order at every launch, so that a
// missing barrier or a race between blocks shows as a result that is not bitwise the same twice. Shared
// memory starts as NaN.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

using std::abs;
using std::isfinite;
using std::isnan;
using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMULATION_VECTOR(T, name)                                    \
  struct alignas(2 * sizeof(T)) name##2 {                            \
    T x, y;                                                          \
  };                                                                 \
  struct name##3 {                                                   \
    T x, y, z;                                                       \
  };                                                                 \
  struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) name##4 {      \
    T x, y, z, w;                                                    \
  };                                                                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATION_VECTOR(float, float)
EMULATION_VECTOR(double, double)
EMULATION_VECTOR(int, int)
EMULATION_VECTOR(unsigned, uint)
#undef EMULATION_VECTOR

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

void* shared_memory();
void block_barrier();
void warp_barrier(unsigned mask);
// Lane `source`'s 8 bytes of those that the lanes of `mask` bring.
uint64_t exchange(unsigned mask, uint64_t bits, int source);
unsigned ballot(unsigned mask, bool vote);
// Copies to shared memory that become visible when they are waited for, not earlier.
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(size_t but_groups);
void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel);
// Remembers a launch; tests ask by uqforce_emulation_launches() and uqforce_emulation_blocks().
void count_launch(const char* name, int64_t blocks);
// What a test has set in the environment, else what an H200 has.
inline int64_t setting(const char* name, int64_t usual) {
  const char* const value = std::getenv(name);
  return value ? std::atoll(value) : usual;
}
// Bytes that a block can have: sm_90's, or for example 101376 of sm_86, sm_89 and sm_120.
inline int most_shared_memory() { return int(setting("UQFORCE_EMULATED_SHARED_MEMORY", 227 * 1024)); }

inline int lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

constexpr int warpSize = 32;

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { emulation::warp_barrier(mask); }
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned mask, bool vote) { return emulation::ballot(mask, vote); }
inline bool __any_sync(unsigned mask, bool vote) { return emulation::ballot(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return emulation::ballot(mask, vote) == mask; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(bits); }

// As CUDA has it, lanes count within segments of `width`, and a source outside the segment is one's own lane.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(mask, value, lane / width * width + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
  const int lane = emulation::lane(), source = lane ^ other;
  return emulation::shuffle(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulation::lane(), source = lane + int(delta);
  return emulation::shuffle(mask, value, source / width == lane / width ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulation::lane(), source = lane - int(delta);
  return emulation::shuffle(mask, value, source >= lane / width * width ? source : lane);
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

// One fibre runs at a time: a plain update is atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  *address = max(old, value);
  return old;
}
template <typename T>
T atomicMin(T* address, T value) {
  const T old = *address;
  *address = min(old, value);
  return old;
}
template <typename T>
T atomicOr(T* address, T value) {
  const T old = *address;
  *address = old | value;
  return old;
}

// Arithmetic that the compiler must not fuse.
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
template <typename To, typename From>
To reinterpreted(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline int __float_as_int(float x) { return reinterpreted<int>(x); }
inline float __int_as_float(int x) { return reinterpreted<float>(x); }
inline long long __double_as_longlong(double x) { return reinterpreted<long long>(x); }
inline double __longlong_as_double(long long x) { return reinterpreted<double>(x); }

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : emulation::most_shared_memory();
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= emulation::most_shared_memory() ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = size_t(141) << 30;
  *free = size_t(emulation::setting("UQFORCE_EMULATED_FREE_MEMORY", int64_t(*total)));
  return cudaSuccess;
}
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const auto within = [](unsigned n, unsigned most) { return 0 < n && n <= most; };
  if (!within(grid.x, 2147483647u) || !within(grid.y, 65535) || !within(grid.z, 65535) ||
      !within(block.x * block.y * block.z, 1024)) {
    return cudaErrorInvalidValue;
  }
  emulation::run(grid, block, config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}
