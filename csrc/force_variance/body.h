// Per-atom mathematics of force_variance, on numbers or on dual numbers, for the CPU and CUDA.
//
// Symmetric blocks are stored xx yy zz yz xz xy. With x a sum of edge derivatives, a block collects weight *
// x x^T, and the adjoint of x under a cotangent c of the block is weight * 2 C x, where C has the
// off-diagonal cotangents halved, since each stands for two entries of the matrix.
#pragma once

#include "common/api.h"

namespace uqforce::force_variance {

// value + slope t, t^2 = 0: arithmetic carries the derivative along a direction.
template <typename T>
struct Dual {
  T value, slope;

  Dual() = default;
  UQFORCE_HOST_DEVICE Dual(T value, T slope = T(0)) : value(value), slope(slope) {}
  template <typename Other>
  UQFORCE_HOST_DEVICE explicit Dual(const Dual<Other>& other)
      : value(T(other.value)), slope(T(other.slope)) {}

  UQFORCE_HOST_DEVICE friend Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
  UQFORCE_HOST_DEVICE friend Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
  UQFORCE_HOST_DEVICE friend Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.value * b.slope + a.slope * b.value};
  }
  UQFORCE_HOST_DEVICE friend Dual operator*(T a, Dual b) { return {a * b.value, a * b.slope}; }
  UQFORCE_HOST_DEVICE Dual& operator+=(Dual b) { return *this = *this + b; }
  UQFORCE_HOST_DEVICE Dual& operator-=(Dual b) { return *this = *this - b; }
};

// What is written to memory: the number, or the derivative along the direction.
template <typename T>
UQFORCE_HOST_DEVICE T stored(T x) {
  return x;
}
template <typename T>
UQFORCE_HOST_DEVICE T stored(Dual<T> x) {
  return x.slope;
}

// block += weight x x^T
template <typename S, typename T>
UQFORCE_HOST_DEVICE void add_outer(S* block, T weight, const S* x) {
  block[0] += weight * (x[0] * x[0]);
  block[1] += weight * (x[1] * x[1]);
  block[2] += weight * (x[2] * x[2]);
  block[3] += weight * (x[1] * x[2]);
  block[4] += weight * (x[0] * x[2]);
  block[5] += weight * (x[0] * x[1]);
}

// adjoint += weight * d(c : x x^T)/dx
template <typename S, typename T>
UQFORCE_HOST_DEVICE void add_outer_adjoint(S* adjoint, T weight, const T* c, const S* x) {
  adjoint[0] += weight * (T(2) * c[0] * x[0] + c[5] * x[1] + c[4] * x[2]);
  adjoint[1] += weight * (c[5] * x[0] + T(2) * c[1] * x[1] + c[3] * x[2]);
  adjoint[2] += weight * (c[4] * x[0] + c[3] * x[1] + T(2) * c[2] * x[2]);
}

}  // namespace uqforce::force_variance
