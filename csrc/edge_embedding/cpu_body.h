// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES and UQFORCE_KERNELS
// (names of the tables). Everything here has internal linkage. One edge per lane.
//
// Y_1 = sqrt(3) n and Y_l = a_l sum C[m1, m2, m3] Y_1[m1] Y_{l-1}[m2] with the couplings (1, l-1, l). Every
// derivative is that of this recursion, forward (tangents) or backward (cotangents).
#include "edge_embedding/cpu_kernels.h"

#define UQFORCE_UNROLL _Pragma("GCC unroll 128")

namespace uqforce::embedding {
namespace {

template <typename T>
struct Simd {
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES)));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

template <typename T>
struct Three {
  Vector<T> x, y, z;
};
template <typename T>
inline Vector<T> dot(const Three<T>& a, const Three<T>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <typename T>
inline Three<T> scaled(const Three<T>& a, Vector<T> s) {
  return {a.x * s, a.y * s, a.z * s};
}
template <typename T>
inline Three<T> plus(const Three<T>& a, const Three<T>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
// The part of a across n.
template <typename T>
inline Three<T> across(const Three<T>& n, const Three<T>& a) {
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
  static constexpr double a = factor();
};

// The block of degree l starts at l * l. out[m3] += a C p[m1] q[m2]
template <typename T, int l>
inline void product(const Vector<T>* p, const Vector<T>* q, Vector<T>* out) {
  using R = Recursion<l>;
  UQFORCE_UNROLL
  for (int k = 0; k < R::size; ++k) {
    const auto& t = R::terms[k];
    out[l * l + t.m3] += static_cast<T>(R::a * t.value) * (p[1 + t.m1] * q[(l - 1) * (l - 1) + t.m2]);
  }
}
// Its cotangents: dp[m1] += a C q[m2] dout[m3], dq[m2] += a C p[m1] dout[m3]
template <typename T, int l>
inline void transpose(const Vector<T>* p, const Vector<T>* q, const Vector<T>* dout, Vector<T>* dp,
                      Vector<T>* dq) {
  using R = Recursion<l>;
  UQFORCE_UNROLL
  for (int k = 0; k < R::size; ++k) {
    const auto& t = R::terms[k];
    const Vector<T> d = static_cast<T>(R::a * t.value) * dout[l * l + t.m3];
    dp[1 + t.m1] += q[(l - 1) * (l - 1) + t.m2] * d;
    dq[(l - 1) * (l - 1) + t.m2] += p[1 + t.m1] * d;
  }
}

template <typename T, int L>
struct Harmonics {
  static constexpr int size = (L + 1) * (L + 1);
  Vector<T> value[size];

  inline void clear() {
    UQFORCE_UNROLL
    for (int m = 0; m < size; ++m) value[m] = Vector<T>{};
  }
  inline void set_first(const Three<T>& n) {
    if constexpr (L > 0) {
      const T root = static_cast<T>(kRoot[1]);
      value[1] = root * n.x;
      value[2] = root * n.y;
      value[3] = root * n.z;
    }
  }
  inline Three<T> first() const {
    if constexpr (L > 0) {
      const T root = static_cast<T>(kRoot[1]);
      return {root * value[1], root * value[2], root * value[3]};
    } else {
      return {Vector<T>{}, Vector<T>{}, Vector<T>{}};
    }
  }
};

template <typename T, int L>
inline Harmonics<T, L> harmonics(const Three<T>& n) {
  Harmonics<T, L> y;
  y.clear();
  y.value[0] += 1;
  y.set_first(n);
  if constexpr (L > 1) product<T, 2>(y.value, y.value, y.value);
  if constexpr (L > 2) product<T, 3>(y.value, y.value, y.value);
  if constexpr (L > 3) product<T, 4>(y.value, y.value, y.value);
  return y;
}

// Tangent of the harmonics along q.
template <typename T, int L>
inline Harmonics<T, L> tangent(const Harmonics<T, L>& y, const Three<T>& q) {
  Harmonics<T, L> t;
  t.clear();
  t.set_first(q);
  const auto step = [&]<int l>() {
    product<T, l>(t.value, y.value, t.value);
    product<T, l>(y.value, t.value, t.value);
  };
  if constexpr (L > 1) step.template operator()<2>();
  if constexpr (L > 2) step.template operator()<3>();
  if constexpr (L > 3) step.template operator()<4>();
  return t;
}

// J^T g; g is used up.
template <typename T, int L>
inline Three<T> cotangent(const Harmonics<T, L>& y, Harmonics<T, L>& g) {
  if constexpr (L > 3) transpose<T, 4>(y.value, y.value, g.value, g.value, g.value);
  if constexpr (L > 2) transpose<T, 3>(y.value, y.value, g.value, g.value, g.value);
  if constexpr (L > 1) transpose<T, 2>(y.value, y.value, g.value, g.value, g.value);
  return g.first();
}

// Gradients of g . tangent(n, q): by q, which is J^T g, and by n; g is used up.
template <typename T, int L>
inline void second_order(const Harmonics<T, L>& y, const Harmonics<T, L>& t, Harmonics<T, L>& g,
                         Three<T>& by_q, Three<T>& by_n) {
  Harmonics<T, L> dy;  // cotangent of y; g is that of t
  dy.clear();
  const auto step = [&]<int l>() {
    transpose<T, l>(y.value, y.value, dy.value, dy.value, dy.value);
    transpose<T, l>(t.value, y.value, g.value, g.value, dy.value);
    transpose<T, l>(y.value, t.value, g.value, dy.value, g.value);
  };
  if constexpr (L > 3) step.template operator()<4>();
  if constexpr (L > 2) step.template operator()<3>();
  if constexpr (L > 1) step.template operator()<2>();
  by_q = g.first();
  by_n = dy.first();
}

// What the edges of one vector are.
template <typename T>
struct Frame {
  Three<T> n;
  Vector<T> length, inverse, cutoff;  // |v|, 1 / |v| (0 for 0), 1 / cutoff
};

// `columns` numbers of up to `lanes` edges; those beyond the last edge are zero.
template <typename T, int columns>
inline void gather(const T* rows, int64_t edges, Vector<T>* values) {
  for (int k = 0; k < columns; ++k) values[k] = Vector<T>{};
  if (rows == nullptr) return;
  for (int64_t e = 0; e < edges; ++e)
    for (int k = 0; k < columns; ++k) values[k][e] = rows[e * columns + k];
}
template <typename T, int columns>
inline void scatter(const Vector<T>* values, int64_t edges, T* rows) {
  if (rows == nullptr) return;
  for (int64_t e = 0; e < edges; ++e)
    for (int k = 0; k < columns; ++k) rows[e * columns + k] = values[k][e];
}
template <typename T>
inline Three<T> gather_three(const T* rows, int64_t edges) {
  Vector<T> v[3];
  gather<T, 3>(rows, edges, v);
  return {v[0], v[1], v[2]};
}
template <typename T>
inline void scatter_three(const Three<T>& a, int64_t edges, T* rows) {
  const Vector<T> v[3] = {a.x, a.y, a.z};
  scatter<T, 3>(v, edges, rows);
}

template <typename T>
inline Frame<T> frame(const Edges<T>& a, int64_t first, int64_t edges) {
  Frame<T> f;
  const Three<T> v = gather_three(a.vec + 3 * first, edges);
  const Vector<T> square = dot(v, v);
  for (int k = 0; k < Simd<T>::lanes; ++k) f.length[k] = __builtin_sqrt(square[k]);
  // A NaN stays one.
  f.inverse = f.length == 0 ? Vector<T>{} : 1 / f.length;
  f.n = scaled(v, f.inverse);
  if (a.one_cutoff) {
    f.cutoff = Vector<T>{} + a.inverse_cutoff[0];
  } else {
    gather<T, 1>(a.inverse_cutoff + first, edges, &f.cutoff);
  }
  return f;
}

template <typename T>
inline const T* row(const T* rows, int64_t offset) {
  return rows == nullptr ? nullptr : rows + offset;
}
template <typename T>
inline T* row(T* rows, int64_t offset) {
  return rows == nullptr ? nullptr : rows + offset;
}

// Calls use(first edge, number of edges) for every vector of edges.
template <typename T, typename Use>
inline void for_vectors(const Edges<T>& a, Use use) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t first = 0; first < a.edges; first += lanes)
    use(first, a.edges - first < lanes ? a.edges - first : lanes);
}

template <typename T, int L>
void forward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const Frame<T> f = frame(a, first, edges);
    const Vector<T> x = f.length * f.cutoff;
    scatter<T, size>(harmonics<T, L>(f.n).value, edges, a.sh + first * size);
    scatter<T, 1>(&x, edges, a.length + first);
  });
}

template <typename T, int L>
void backward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const Frame<T> f = frame(a, first, edges);
    Harmonics<T, L> g;
    Vector<T> gx;
    gather<T, size>(row(a.grad_sh, first * size), edges, g.value);
    gather<T, 1>(row(a.grad_length, first), edges, &gx);
    const Three<T> gn = cotangent(harmonics<T, L>(f.n), g);
    const Three<T> dv = plus(scaled(across(f.n, gn), f.inverse), scaled(f.n, f.cutoff * gx));
    scatter_three(dv, edges, a.dvec + 3 * first);
  });
}

// With q = P h / |v| and g = J^T gY: dgY = J q, dgx = c (h . n) and
// dv = P (d(q . g)/dn) / |v| - (P h (n . g) + P g (n . h) + n (P h . g)) / |v|^2 + P h c gx / |v|
template <typename T, int L>
void double_backward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const Frame<T> f = frame(a, first, edges);
    const Three<T> h = gather_three(a.ddvec + 3 * first, edges);
    const Three<T> ph = across(f.n, h);
    const Three<T> q = scaled(ph, f.inverse);
    const Harmonics<T, L> y = harmonics<T, L>(f.n), t = tangent(y, q);
    const Vector<T> nh = dot(f.n, h), dgx = f.cutoff * nh;
    scatter<T, size>(t.value, edges, row(a.sh, first * size));
    scatter<T, 1>(&dgx, edges, row(a.length, first));
    if (a.dvec == nullptr) return;
    Harmonics<T, L> gy;
    Vector<T> gx;
    gather<T, size>(row(a.grad_sh, first * size), edges, gy.value);
    gather<T, 1>(row(a.grad_length, first), edges, &gx);
    Three<T> g, by_n;
    second_order(y, t, gy, g, by_n);
    const Vector<T> square = f.inverse * f.inverse;
    Three<T> dv = scaled(across(f.n, by_n), f.inverse);
    dv = plus(dv, scaled(ph, f.cutoff * gx * f.inverse - dot(f.n, g) * square));
    dv = plus(dv, scaled(across(f.n, g), -nh * square));
    dv = plus(dv, scaled(f.n, -dot(ph, g) * square));
    scatter_three(dv, edges, a.dvec + 3 * first);
  });
}

template <typename T>
constexpr Kernels<T> table = {
    {forward<T, 0>, forward<T, 1>, forward<T, 2>, forward<T, 3>, forward<T, 4>},
    {backward<T, 0>, backward<T, 1>, backward<T, 2>, backward<T, 3>, backward<T, 4>},
    {double_backward<T, 0>, double_backward<T, 1>, double_backward<T, 2>, double_backward<T, 3>,
     double_backward<T, 4>}};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table<double>;

}  // namespace uqforce::embedding
