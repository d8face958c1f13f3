// The tensor cores of the emulation, see cuda_runtime.h: mma.m16n8k8 of tf32, fragments as PTX has them.
#pragma once

#include <array>

#include "cuda_runtime.h"

namespace emulation {

// What all lanes of the warp bring, until it gathers again.
const uint64_t* gather(uint64_t bits);

inline float as_tf32(float x) {  // the hardware does not look at the last 13 bits
  return __int_as_float(__float_as_int(x) & ~0x1fff);
}

// sum += a b. Products are exact, their sum with what was there is cut off to a float.
inline void multiply_tf32(float (&sum)[4], const std::array<float, 4>& a, const std::array<float, 2>& b) {
  struct Pair {
    float of[2];
  };
  double left[2][8], right[2][8];  // rows `row` and `row + 8`; columns 2 pair and 2 pair + 1
  const int row = lane() / 4, pair = lane() % 4;
  for (int half = 0; half < 2; ++half) {
    const uint64_t* const brought =
        gather(reinterpreted<uint64_t>(Pair{as_tf32(a[2 * half]), as_tf32(a[2 * half + 1])}));
    for (int k = 0; k < 4; ++k) {
      const Pair its = reinterpreted<Pair>(brought[4 * row + k]);
      left[0][4 * half + k] = its.of[0], left[1][4 * half + k] = its.of[1];
    }
  }
  const uint64_t* const brought = gather(reinterpreted<uint64_t>(Pair{as_tf32(b[0]), as_tf32(b[1])}));
  for (int k = 0; k < 4; ++k) {
    for (int c = 0; c < 2; ++c) {
      const Pair its = reinterpreted<Pair>(brought[4 * (2 * pair + c) + k]);
      right[c][k] = its.of[0], right[c][4 + k] = its.of[1];
    }
  }
  for (int k = 0; k < 4; ++k) {
    double total = sum[k];
    for (int i = 0; i < 8; ++i) total += left[k / 2][i] * right[k % 2][i];
    sum[k] = float(total);
    if (std::abs(double(sum[k])) > std::abs(total)) sum[k] = std::nextafter(sum[k], 0.0f);
  }
}

}  // namespace emulation
