// Products of tiles on the tensor cores by a warp, float32 to its own rounding: a number is split in two of
// 11 bits, and three products of tf32 leave out only what is 2^-24 of the result. The host form is that of
// the tests' emulation.
#pragma once

#include "common/cuda.h"

#ifndef __CUDACC__
#include "tensor_cores.h"
#endif

namespace uqforce {

// hi + lo = x; what the tensor cores drop of lo is at most 2^-23 of x. Not a number stays one, in lo at
// least.
__device__ inline void split_tf32(float x, float& hi, float& lo) {
  hi = __int_as_float((__float_as_int(x) + 0x1000) & ~0x1fff);
  lo = x - hi;
}

// Where lane 4 row + pair keeps its numbers: of a tile of 16 x 8 in rows `row` and `row + 8`, columns 2 pair
// and 2 pair + 1. The tensor cores want other columns for a left factor, but a sum over them has no order:
// with the rows of the right factor in the same order, a product serves as left factor as it is.
struct TilePlace {
  int row, pair;
  __device__ TilePlace() : row(threadIdx.x % kWarp / 4), pair(threadIdx.x % 4) {}
};

// A tile of 16 x 8 as a left factor.
struct LeftTile {
  float hi[4], lo[4];
  LeftTile() = default;
  __device__ explicit LeftTile(const float (&tile)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) split_tf32(tile[k], hi[k], lo[k]);
  }
};

// A tile of 8 x 8 as a right factor: the lane's numbers are those at [2 pair, row] and [2 pair + 1, row].
struct alignas(16) RightTile {
  float hi[2], lo[2];
};

__device__ inline void multiply_tf32(float (&sum)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef __CUDACC__
  const unsigned* const bits_a = reinterpret_cast<const unsigned*>(a);
  const unsigned* const bits_b = reinterpret_cast<const unsigned*>(b);
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(bits_a[0]), "r"(bits_a[2]), "r"(bits_a[1]), "r"(bits_a[3]), "r"(bits_b[0]), "r"(bits_b[1]));
#else
  emulation::multiply_tf32(sum, {a[0], a[2], a[1], a[3]}, {b[0], b[1]});
#endif
}

// sum += a b, the small terms first. The tensor cores cut sums off where float32 rounds them: tiles are added
// up here, or the cuts would add up.
__device__ inline void multiply_add(float (&sum)[4], const LeftTile& a, const RightTile& b) {
  float part[4] = {};
  multiply_tf32(part, a.lo, b.hi);
  multiply_tf32(part, a.hi, b.lo);
  multiply_tf32(part, a.hi, b.hi);
#pragma unroll
  for (int k = 0; k < 4; ++k) sum[k] += part[k];
}

}  // namespace uqforce
