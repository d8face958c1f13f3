// The edge vector on CUDA: op.h's, to the last bit, so that nothing is fused.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace uqforce::neighbor_list {

__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float minus(float a, float b) { return __fsub_rn(a, b); }
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double plus(double a, double b) { return __dadd_rn(a, b); }
__device__ inline double minus(double a, double b) { return __dsub_rn(a, b); }
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }

// (r_j - r_i) + shift @ cell, the last term only where the shift is not zero.
template <typename T>
__device__ void edge_vector(const T* centre, const T* neighbor, const int64_t (&shift)[3], const T* cell,
                            T (&vec)[3]) {
  const bool moved = (shift[0] | shift[1] | shift[2]) != 0;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    vec[k] = minus(neighbor[k], centre[k]);
    if (!moved) continue;
    const T a = times(T(shift[0]), cell[k]), b = times(T(shift[1]), cell[3 + k]),
            c = times(T(shift[2]), cell[6 + k]);
    vec[k] = plus(vec[k], plus(plus(a, b), c));
  }
}

}  // namespace uqforce::neighbor_list
