// Vectors of numbers in files that are compiled for an instruction set, which define UQFORCE_VECTOR_BYTES.
// Everything here has internal linkage.
#pragma once

#include <cstdint>

namespace uqforce {
namespace {

template <typename T>
struct Simd {
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES), may_alias));
  typedef T unaligned __attribute__((vector_size(UQFORCE_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

template <typename T>
inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::unaligned*>(p);
}
template <typename T>
inline void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename Simd<T>::unaligned*>(p) = v;
}

// exp(x) for x <= 0, to about one unit in the last place; 0 below the smallest normal number. Range reduction
// x = n ln 2 + f, |f| <= ln 2 / 2, Taylor polynomial in f, scaling by the exponent bits.
template <typename T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr float lowest = -87.0f, round = 12582912.0f, ln2_high = 0.693359375f,
                         ln2_low = -2.12194440e-4f;
  static constexpr int degree = 7, mantissa = 23, bias = 127;
};
template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr double lowest = -708.0, round = 6755399441055744.0, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6;
  static constexpr int degree = 13, mantissa = 52, bias = 1023;
};

template <typename T>
inline Vector<T> exp_negative(Vector<T> x) {
  using C = ExpConstants<T>;
  typedef typename C::Int IntVector __attribute__((vector_size(UQFORCE_VECTOR_BYTES), may_alias));
  const Vector<T> lowest = Vector<T>{} + C::lowest;
  const auto vanishes = x < lowest;
  x = vanishes ? lowest : x;
  const Vector<T> shifted = x * T(1.4426950408889634) + C::round;
  const Vector<T> n = shifted - C::round;
  const Vector<T> f = (x - n * C::ln2_high) - n * C::ln2_low;
  T factorial = 1;
  for (int k = 2; k <= C::degree; ++k) factorial *= k;
  Vector<T> sum = Vector<T>{} + 1 / factorial;
#pragma GCC unroll 16
  for (int k = C::degree; k > 0; --k) {
    factorial /= k;
    sum = sum * f + 1 / factorial;
  }
  // The low mantissa bits of `shifted` are n: move n + bias into the exponent.
  const IntVector exponent = ((IntVector)shifted + C::bias) << C::mantissa;
  return vanishes ? Vector<T>{} : sum * (Vector<T>)exponent;
}

}  // namespace
}  // namespace uqforce
