// The kernels of cpu_kernels.h, compiled per instruction set like those of tensor_product_conv/cpu_body.h.
#include "tabulated_conv/cpu_kernels.h"
#include "tensor_product_conv/cpu_simd.h"

namespace uqforce::tabulated {
namespace {

using conv::Access;
using conv::Block;
using conv::broadcast;
using conv::load;
using conv::Simd;
using conv::store;
using conv::Vector;

// Square roots of (2l + 1) / (3l): Y_l = that sum C[m1, m2, m3] Y_1[m1] Y_{l-1}[m2] with the couplings' C
// has e3nn's "component" normalisation.
constexpr double kRaise[] = {0, 1, 0.91287092917527685576, 0.88191710368819686230, 0.86602540378443864676};
constexpr double kSqrt3 = 1.73205080756887729353;

template <typename T, int l>
void raise(Edges<T>& edges) {
  if constexpr (l >= 2) {
    raise<T, l - 1>(edges);
    T(*first)[kChunk] = edges.sh + 1, (*below)[kChunk] = edges.sh + (l - 1) * (l - 1);
    for (int e = 0; e < kChunk; e += Simd<T>::lanes) {
      Vector<T> y[2 * l + 1]{};
      UQFORCE_UNROLL
      for (const CouplingTerm& c : Coupling<1, l - 1, l>::terms)
        y[c.m3] += static_cast<T>(kRaise[l] * c.value) * load(first[c.m1] + e) * load(below[c.m2] + e);
      for (int m = 0; m <= 2 * l; ++m) store(edges.sh[l * l + m] + e, y[m]);
    }
  }
}

// Hands the gradient of Y_l down to Y_{l-1} and Y_1, then those of the lower degrees.
template <typename T, int l>
void lower(const Edges<T>& edges, T (*gradient)[kChunk]) {
  if constexpr (l >= 2) {
    const T(*first)[kChunk] = edges.sh + 1, (*below)[kChunk] = edges.sh + (l - 1) * (l - 1);
    T(*dfirst)[kChunk] = gradient + 1, (*dbelow)[kChunk] = gradient + (l - 1) * (l - 1);
    for (int e = 0; e < kChunk; e += Simd<T>::lanes) {
      Vector<T> one[3]{}, rest[2 * l - 1]{};
      UQFORCE_UNROLL
      for (const CouplingTerm& c : Coupling<1, l - 1, l>::terms) {
        const Vector<T> dy = static_cast<T>(kRaise[l] * c.value) * load(gradient[l * l + c.m3] + e);
        one[c.m1] += dy * load(below[c.m2] + e);
        rest[c.m2] += dy * load(first[c.m1] + e);
      }
      // One after the other: for l = 2 they are the same place.
      for (int m = 0; m < 3; ++m) store(dfirst[m] + e, load(dfirst[m] + e) + one[m]);
      for (int m = 0; m < 2 * l - 1; ++m) store(dbelow[m] + e, load(dbelow[m] + e) + rest[m]);
    }
    lower<T, l - 1>(edges, gradient);
  }
}

// Quintic B-splines on uniform knots: those that reach into an interval, at 0 <= t <= 1 in it. The weights
// are their sum times (1 - x)^3 of the scaled length x, which carries the cutoff's smooth end exactly.
template <typename T>
void spline(Edges<T>& edges, int64_t intervals) {
  const T n = static_cast<T>(intervals);
  for (int e = 0; e < kChunk; ++e) {
    const T length = edges.inverse_length[e] > 0 ? 1 / edges.inverse_length[e] : 0;
    const T scaled = length * edges.inverse_cutoff[e], x = scaled < 1 ? scaled : 1;
    const int32_t whole = static_cast<int32_t>(x * n), last = static_cast<int32_t>(intervals) - 1;
    const int32_t k = whole < last ? whole : last;
    const T t = x * n - static_cast<T>(k), s = 1 - t, t2 = t * t, s2 = s * s;
    const T left = 1 - x, envelope = left * left * left / 120;
    const T dx = edges.inverse_cutoff[e], denvelope = -3 * left * left / 120 * dx;
    const T dt = envelope * n * dx;
    edges.interval[e] = k;
    // The outer four are powers of t and s; the inner two, mirror images in t and s, polynomials.
    const T u = 1 + t, v = 1 + s, u2 = u * u, v2 = v * v, u4 = u2 * u2, v4 = v2 * v2;
    const T t4 = t2 * t2, s4 = s2 * s2;
    const T value[kSplineTerms] = {s4 * s,
                                   v4 * v - 6 * s4 * s,
                                   66 - 60 * t2 + 30 * t4 - 10 * t4 * t,
                                   66 - 60 * s2 + 30 * s4 - 10 * s4 * s,
                                   u4 * u - 6 * t4 * t,
                                   t4 * t};
    const T slope[kSplineTerms] = {-5 * s4,
                                   -5 * v4 + 30 * s4,
                                   -120 * t + 120 * t2 * t - 50 * t4,
                                   120 * s - 120 * s2 * s + 50 * s4,
                                   5 * u4 - 30 * t4,
                                   5 * t4};
    for (int j = 0; j < kSplineTerms; ++j) {
      edges.value[j][e] = envelope * value[j];
      edges.slope[j][e] = denvelope * value[j] + dt * slope[j];
    }
  }
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <typename T, int l_max>
void embed(Edges<T>& edges, int64_t intervals) {
  const T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-200);  // an edge of no length has no direction
  for (int e = 0; e < kChunk; ++e) {
    const T x = edges.vec[0][e], y = edges.vec[1][e], z = edges.vec[2][e], square = x * x + y * y + z * z;
    const T inverse = square > tiny ? 1 / square_root(square) : 0;
    edges.inverse_length[e] = inverse;
    edges.sh[0][e] = 1;
    for (int d = 0; d < 3; ++d) edges.direction[d][e] = edges.vec[d][e] * inverse;
    if constexpr (l_max >= 1) {
      for (int d = 0; d < 3; ++d) edges.sh[1 + d][e] = static_cast<T>(kSqrt3) * edges.direction[d][e];
    }
  }
  raise<T, l_max>(edges);
  spline(edges, intervals);
}

template <typename T, int l_max>
void embed_vjp(const Edges<T>& edges, const T* gradient, T* dvec) {
  constexpr int sh_dim = (l_max + 1) * (l_max + 1);
  T dy[sh_dim + 1][kChunk];
  for (int c = 0; c <= sh_dim; ++c) {
    for (int e = 0; e < kChunk; ++e) dy[c][e] = gradient[c * kChunk + e];
  }
  lower<T, l_max>(edges, dy);
  for (int e = 0; e < kChunk; ++e) {
    T across[3]{}, along = 0;
    if constexpr (l_max >= 1) {
      for (int d = 0; d < 3; ++d) across[d] = static_cast<T>(kSqrt3) * dy[1 + d][e];
      for (int d = 0; d < 3; ++d) along += across[d] * edges.direction[d][e];
    }
    for (int d = 0; d < 3; ++d) {
      dvec[d * kChunk + e] = (across[d] - along * edges.direction[d][e]) * edges.inverse_length[e] +
                             dy[sh_dim][e] * edges.direction[d][e];
    }
  }
}

template <typename T, int n, bool with_slope>
UQFORCE_INLINE void rebuild(const Edges<T>& edges, int64_t count, const Columns<T>& columns, T* weight,
                            T* slope) {
  const Access<T, n> access(columns.channels);
  for (int64_t e = 0; e < count; ++e) {
    const T* row = columns.table + edges.interval[e] * columns.stride;
    Block<T, n> sum{}, rise{};
    UQFORCE_UNROLL
    for (int k = 0; k < kSplineTerms; ++k) {
      const Block<T, n> c = access.load(row + k * columns.stride);
      sum += c * broadcast(edges.value[k][e]);
      if constexpr (with_slope) rise += c * broadcast(edges.slope[k][e]);
    }
    access.store(weight + e * 2 * Simd<T>::lanes, sum);
    if constexpr (with_slope) access.store(slope + e * 2 * Simd<T>::lanes, rise);
  }
}

template <typename T>
void weights(const Edges<T>& edges, int64_t count, const Columns<T>& columns, T* weight) {
  columns.channels == 2 * Simd<T>::lanes ? rebuild<T, 2, false>(edges, count, columns, weight, nullptr)
                                         : rebuild<T, 1, false>(edges, count, columns, weight, nullptr);
}

template <typename T>
void weights_and_slopes(const Edges<T>& edges, int64_t count, const Columns<T>& columns, T* weight,
                        T* slope) {
  columns.channels == 2 * Simd<T>::lanes ? rebuild<T, 2, true>(edges, count, columns, weight, slope)
                                         : rebuild<T, 1, true>(edges, count, columns, weight, slope);
}

template <typename T, int n>
UQFORCE_INLINE void add_products(const T* a, const T* b, int64_t count, int64_t channels, T* sum,
                                 int64_t sum_stride) {
  const Access<T, n> access(channels);
  for (int64_t e = 0; e < count; ++e) {
    const int64_t k = e * 2 * Simd<T>::lanes;
    T* total = sum + e * sum_stride;
    store(total, load(total) + conv::dot(access.load(a + k), access.load(b + k)));
  }
}

template <typename T>
void add_slope(const T* dw, const T* slope, int64_t count, int64_t channels, T* sum, int64_t sum_stride) {
  channels == 2 * Simd<T>::lanes ? add_products<T, 2>(dw, slope, count, channels, sum, sum_stride)
                                 : add_products<T, 1>(dw, slope, count, channels, sum, sum_stride);
}

// Halves groups of `width` lanes: those of a, then those of b, become the lower half of the result's.
template <typename T, int width>
UQFORCE_INLINE Vector<T> halve(Vector<T> a, Vector<T> b) {
  constexpr int lanes = Simd<T>::lanes, half = width / 2;
  typename Simd<T>::integers low, high;
  for (int u = 0; u < lanes; ++u) {
    const int group = u / half, within = u % half;
    low[u] = group * width + within;  // indices from `lanes` on are b's
    high[u] = low[u] + half;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

template <typename T, int width>
UQFORCE_INLINE void halve_all(Vector<T>* v) {
  if constexpr (width > 1) {
    UQFORCE_UNROLL
    for (int k = 0; k < width / 2; ++k) v[k] = halve<T, width>(v[2 * k], v[2 * k + 1]);
    halve_all<T, width / 2>(v);
  }
}

template <typename T>
void sum_lanes(const T* partial, int64_t columns, T* sum) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t c = 0; c < columns; ++c) {
    for (int e = 0; e < kChunk; e += lanes) {
      Vector<T> v[lanes];
      UQFORCE_UNROLL
      for (int k = 0; k < lanes; ++k) v[k] = load(partial + ((e + k) * columns + c) * lanes);
      halve_all<T, lanes>(v);
      store(sum + c * kChunk + e, v[0]);
    }
  }
}

template <typename T>
constexpr Kernels<T> kernels() {
  return {Simd<T>::lanes,
          {&embed<T, 0>, &embed<T, 1>, &embed<T, 2>, &embed<T, 3>, &embed<T, 4>},
          {&embed_vjp<T, 0>, &embed_vjp<T, 1>, &embed_vjp<T, 2>, &embed_vjp<T, 3>, &embed_vjp<T, 4>},
          &weights<T>,
          &weights_and_slopes<T>,
          &add_slope<T>,
          &sum_lanes<T>};
}

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = kernels<float>();
extern const Kernels<double> UQFORCE_KERNELS(f64) = kernels<double>();

}  // namespace uqforce::tabulated
