// The harmonics of an edge and their derivatives, for the CPU and CUDA. V is a number, or a vector of numbers
// of type T, one per edge. Everything here has internal linkage: files for an instruction set include it.
//
// Y_1 = sqrt(3) n and Y_l = a_l sum C[m1, m2, m3] Y_1[m1] Y_{l-1}[m2] with the couplings (1, l-1, l). Every
// derivative is that of this recursion, forward (tangents) or backward (cotangents).
#pragma once

#include <utility>

#include "common/api.h"
#include "tensor_product_conv/coupling.h"

namespace uqforce::embedding {
namespace {

template <typename V>
struct Three {
  V x, y, z;
};
template <typename V>
UQFORCE_INLINE V dot(const Three<V>& a, const Three<V>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <typename V>
UQFORCE_INLINE Three<V> scaled(const Three<V>& a, V s) {
  return {a.x * s, a.y * s, a.z * s};
}
template <typename V>
UQFORCE_INLINE Three<V> plus(const Three<V>& a, const Three<V>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
// The part of a across n.
template <typename V>
UQFORCE_INLINE Three<V> across(const Three<V>& n, const Three<V>& a) {
  return plus(a, scaled(n, -dot(n, a)));
}

constexpr double kRoot[] = {1.0, 1.7320508075688772, 2.23606797749979, 2.6457513110645907,
                            3.0};  // sqrt(2l+1)

// a_l C[m1, m2, m3] of the recursion: along the second axis Y_l is sqrt(2l+1) at m = l and 0 elsewhere.
template <int l>
struct Recursion {
  static constexpr auto& terms = Coupling<1, l - 1, l>::terms;
  static constexpr int size = sizeof(terms) / sizeof(CouplingTerm);
  static constexpr double factor() {
    for (const auto& term : terms) {
      if (term.m1 == 1 && term.m2 == l - 1 && term.m3 == l)
        return kRoot[l] / (kRoot[1] * kRoot[l - 1] * term.value);
    }
    return 0.0;
  }
};

// Term k as constants; the block of degree l starts at l * l.
template <int l, int k>
struct Term {
  static constexpr int p = 1 + Recursion<l>::terms[k].m1, q = (l - 1) * (l - 1) + Recursion<l>::terms[k].m2,
                       out = l * l + Recursion<l>::terms[k].m3;
  static constexpr double value = Recursion<l>::factor() * Recursion<l>::terms[k].value;
};

// out[m3] += a C p[m1] q[m2]
template <typename T, int l, typename V, int... k>
UQFORCE_INLINE void product(const V* p, const V* q, V* out, std::integer_sequence<int, k...>) {
  ((out[Term<l, k>::out] += static_cast<T>(Term<l, k>::value) * (p[Term<l, k>::p] * q[Term<l, k>::q])), ...);
}
template <typename T, int l, typename V>
UQFORCE_INLINE void product(const V* p, const V* q, V* out) {
  product<T, l>(p, q, out, std::make_integer_sequence<int, Recursion<l>::size>());
}

// Its cotangents: dp[m1] += a C q[m2] dout[m3], dq[m2] += a C p[m1] dout[m3]
template <typename T, int l, int k, typename V>
UQFORCE_INLINE void transpose_term(const V* p, const V* q, const V* dout, V* dp, V* dq) {
  using Its = Term<l, k>;
  const V d = static_cast<T>(Its::value) * dout[Its::out];
  dp[Its::p] += q[Its::q] * d;
  dq[Its::q] += p[Its::p] * d;
}
template <typename T, int l, typename V, int... k>
UQFORCE_INLINE void transpose(const V* p, const V* q, const V* dout, V* dp, V* dq,
                              std::integer_sequence<int, k...>) {
  (transpose_term<T, l, k>(p, q, dout, dp, dq), ...);
}
template <typename T, int l, typename V>
UQFORCE_INLINE void transpose(const V* p, const V* q, const V* dout, V* dp, V* dq) {
  transpose<T, l>(p, q, dout, dp, dq, std::make_integer_sequence<int, Recursion<l>::size>());
}

template <typename T, typename V, int L>
struct Harmonics {
  static constexpr int size = (L + 1) * (L + 1);
  V value[size] = {};

  UQFORCE_INLINE void set_first(const Three<V>& n) {
    if constexpr (L > 0) {
      constexpr T root = static_cast<T>(kRoot[1]);
      value[1] = root * n.x;
      value[2] = root * n.y;
      value[3] = root * n.z;
    }
  }
  UQFORCE_INLINE Three<V> first() const {
    if constexpr (L > 0) {
      constexpr T root = static_cast<T>(kRoot[1]);
      return {root * value[1], root * value[2], root * value[3]};
    } else {
      return {V{}, V{}, V{}};
    }
  }
};

template <typename T, int L, typename V>
UQFORCE_INLINE Harmonics<T, V, L> harmonics(const Three<V>& n) {
  Harmonics<T, V, L> y;
  y.value[0] += 1;
  y.set_first(n);
  if constexpr (L > 1) product<T, 2>(y.value, y.value, y.value);
  if constexpr (L > 2) product<T, 3>(y.value, y.value, y.value);
  if constexpr (L > 3) product<T, 4>(y.value, y.value, y.value);
  return y;
}

template <int l, typename T, typename V, int L>
UQFORCE_INLINE void tangent_step(const Harmonics<T, V, L>& y, Harmonics<T, V, L>& t) {
  product<T, l>(t.value, y.value, t.value);
  product<T, l>(y.value, t.value, t.value);
}

// Tangent of the harmonics along q.
template <typename T, typename V, int L>
UQFORCE_INLINE Harmonics<T, V, L> tangent(const Harmonics<T, V, L>& y, const Three<V>& q) {
  Harmonics<T, V, L> t;
  t.set_first(q);
  if constexpr (L > 1) tangent_step<2>(y, t);
  if constexpr (L > 2) tangent_step<3>(y, t);
  if constexpr (L > 3) tangent_step<4>(y, t);
  return t;
}

// J^T g; g is used up.
template <typename T, typename V, int L>
UQFORCE_INLINE Three<V> cotangent(const Harmonics<T, V, L>& y, Harmonics<T, V, L>& g) {
  if constexpr (L > 3) transpose<T, 4>(y.value, y.value, g.value, g.value, g.value);
  if constexpr (L > 2) transpose<T, 3>(y.value, y.value, g.value, g.value, g.value);
  if constexpr (L > 1) transpose<T, 2>(y.value, y.value, g.value, g.value, g.value);
  return g.first();
}

template <int l, typename T, typename V, int L>
UQFORCE_INLINE void second_order_step(const Harmonics<T, V, L>& y, const Harmonics<T, V, L>& t,
                                      Harmonics<T, V, L>& g, Harmonics<T, V, L>& dy) {
  transpose<T, l>(y.value, y.value, dy.value, dy.value, dy.value);
  transpose<T, l>(t.value, y.value, g.value, g.value, dy.value);
  transpose<T, l>(y.value, t.value, g.value, dy.value, g.value);
}

// Gradients of g . tangent(n, q): by q, which is J^T g, and by n; g is used up.
template <typename T, typename V, int L>
UQFORCE_INLINE void second_order(const Harmonics<T, V, L>& y, const Harmonics<T, V, L>& t,
                                 Harmonics<T, V, L>& g, Three<V>& by_q, Three<V>& by_n) {
  Harmonics<T, V, L> dy;  // cotangent of y; g is that of t
  if constexpr (L > 3) second_order_step<4>(y, t, g, dy);
  if constexpr (L > 2) second_order_step<3>(y, t, g, dy);
  if constexpr (L > 1) second_order_step<2>(y, t, g, dy);
  by_q = g.first();
  by_n = dy.first();
}

// What an edge is.
template <typename V>
struct Frame {
  Three<V> n;
  V length, inverse, cutoff;  // |v|, 1 / |v| (0 for 0), 1 / cutoff
};

template <typename V>
UQFORCE_INLINE Frame<V> frame_of(const Three<V>& v, V length, V cutoff) {
  const V inverse = length == 0 ? V{} : 1 / length;  // a NaN stays one
  return {scaled(v, inverse), length, inverse, cutoff};
}

// Gradient of v from the cotangents of the harmonics, used up, and of the scaled length.
template <typename T, typename V, int L>
UQFORCE_INLINE Three<V> gradient(const Frame<V>& f, Harmonics<T, V, L>& g, V gx) {
  const Three<V> gn = cotangent(harmonics<T, L>(f.n), g);
  return plus(scaled(across(f.n, gn), f.inverse), scaled(f.n, f.cutoff * gx));
}

// With q = P h / |v| and g = J^T gY: dgY = J q, dgx = c (h . n) and
// dv = P (d(q . g)/dn) / |v| - (P h (n . g) + P g (n . h) + n (P h . g)) / |v|^2 + P h c gx / |v|
template <typename T, typename V, int L>
struct SecondOrder {
  Three<V> ph;
  V nh, dgx;
  Harmonics<T, V, L> y, dgy;

  UQFORCE_INLINE SecondOrder(const Frame<V>& f, const Three<V>& h)
      : ph(across(f.n, h)),
        nh(dot(f.n, h)),
        dgx(f.cutoff * nh),
        y(harmonics<T, L>(f.n)),
        dgy(tangent(y, scaled(ph, f.inverse))) {}

  // gy is used up.
  UQFORCE_INLINE Three<V> dv(const Frame<V>& f, Harmonics<T, V, L>& gy, V gx) const {
    Three<V> g, by_n;
    second_order(y, dgy, gy, g, by_n);
    const V square = f.inverse * f.inverse;
    Three<V> dv = scaled(across(f.n, by_n), f.inverse);
    dv = plus(dv, scaled(ph, f.cutoff * gx * f.inverse - dot(f.n, g) * square));
    dv = plus(dv, scaled(across(f.n, g), -nh * square));
    return plus(dv, scaled(f.n, -dot(ph, g) * square));
  }
};

}  // namespace
}  // namespace uqforce::embedding
