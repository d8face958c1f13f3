// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES and UQFORCE_KERNELS
// (names of the tables). Everything here has internal linkage.
//
// Two edges of a group are walked together, so that each vector of the table is read once for both; the
// coefficients stay in registers where there are 32 of them.
#include "radial_interpolation/cpu_kernels.h"

namespace uqforce::radial {
namespace {

template <typename T>
struct Simd {
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(UQFORCE_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

// V is a vector, or T itself for the columns that fill none.
template <typename V, typename T>
inline V load(const T* p) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *p;
  } else {
    return *reinterpret_cast<const typename Simd<T>::unaligned*>(p);
  }
}
template <typename V, typename T>
inline void store(T* p, V v) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *p = v;
  } else {
    *reinterpret_cast<typename Simd<T>::unaligned*>(p) = v;
  }
}

// A product of differences tau - node, with its derivative.
template <typename T>
struct Product {
  Vector<T> value, slope;
  inline Product times(Vector<T> tau, int node) const {
    const Vector<T> d = tau - T(node);
    return {value * d, slope * d + value};
  }
};

template <typename T>
void coefficients(const T* tau, const T* scale, int64_t edges, bool derivative, T* out) {
  constexpr int lanes = Simd<T>::lanes;
  T norm[kWidth];  // product of k - j over j != k
  for (int k = 0; k < kWidth; ++k) {
    norm[k] = 1;
    for (int j = 0; j < kWidth; ++j) norm[k] *= j == k ? 1 : k - j;
  }
  for (int64_t e = 0; e < edges; e += lanes) {
    const Vector<T> t = load<Vector<T>>(tau + e), s = load<Vector<T>>(scale + e);
    Product<T> below[kWidth], above[kWidth];  // over j < k, over j > k
    below[0] = above[kWidth - 1] = {Vector<T>{} + 1, Vector<T>{}};
#pragma GCC unroll 16
    for (int k = 1; k < kWidth; ++k) below[k] = below[k - 1].times(t, k - 1);
#pragma GCC unroll 16
    for (int k = kWidth - 1; k > 0; --k) above[k - 1] = above[k].times(t, k);
#pragma GCC unroll 16
    for (int k = 0; k < kWidth; ++k) {
      const Product<T>&a = below[k], &b = above[k];
      Vector<T> c = derivative ? a.slope * b.value + a.value * b.slope : a.value * b.value;
      c *= s / norm[k];
      for (int lane = 0; lane < lanes; ++lane) out[(e + lane) * kWidth + k] = c[lane];
    }
  }
}

template <typename V, typename T, int n>
struct Coefficients {
  V v[n][kWidth];
  inline Coefficients(const Group<T>& group, int64_t first) {
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e)
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; ++k) v[e][k] = group.coefficients[(first + e) * kWidth + k] - V{};
  }
};

template <typename V, typename T, int n>
inline void interpolate(const Coefficients<V, T, n>& c, const T* table, int64_t stride, V (&value)[n]) {
#pragma GCC unroll 16
  for (int k = 0; k < kWidth; ++k) {
    const V row = load<V>(table + k * stride);
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) value[e] += c.v[e][k] * row;
  }
}

template <typename V, typename T, int n>
inline void expand_columns(const Group<T>& group, int64_t first, const T* table, int64_t stride,
                           int64_t begin, int64_t end, bool add, T* rows) {
  const Coefficients<V, T, n> c(group, first);
  T* row[n];
  for (int e = 0; e < n; ++e) row[e] = rows + group.edge[first + e] * stride;
  for (int64_t i = begin; i < end; i += sizeof(V) / sizeof(T)) {
    V value[n];
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) value[e] = add ? load<V>(row[e] + i) : V{};
    interpolate(c, table + i, stride, value);
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) store(row[e] + i, value[e]);
  }
}

template <typename V, typename T, int n>
inline void dot_columns(const Group<T>& group, int64_t first, const T* table, int64_t stride, int64_t begin,
                        int64_t end, const T* rows, T* dot) {
  const Coefficients<V, T, n> c(group, first);
  const T* row[n];
  V sum[n];
#pragma GCC unroll 16
  for (int e = 0; e < n; ++e) {
    row[e] = rows + group.edge[first + e] * stride;
    sum[e] = V{};
  }
  for (int64_t i = begin; i < end; i += sizeof(V) / sizeof(T)) {
    V value[n];
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) value[e] = V{};
    interpolate(c, table + i, stride, value);
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) sum[e] += value[e] * load<V>(row[e] + i);
  }
  for (int e = 0; e < n; ++e) {
    T total = 0;
    if constexpr (sizeof(V) == sizeof(T)) {
      total = sum[e];
    } else {
      for (int lane = 0; lane < Simd<T>::lanes; ++lane) total += sum[e][lane];
    }
    dot[group.edge[first + e]] += total;
  }
}

template <typename V, typename T, int n>
inline void reduce_columns(const Group<T>& group, int64_t first, const T* rows, int64_t stride, int64_t begin,
                           int64_t end, T* table) {
  const Coefficients<V, T, n> c(group, first);
  const T* row[n];
  for (int e = 0; e < n; ++e) row[e] = rows + group.edge[first + e] * stride;
  for (int64_t i = begin; i < end; i += sizeof(V) / sizeof(T)) {
    V value[n];
#pragma GCC unroll 16
    for (int e = 0; e < n; ++e) value[e] = load<V>(row[e] + i);
#pragma GCC unroll 16
    for (int k = 0; k < kWidth; ++k) {
      T* p = table + k * stride + i;
      V sum = load<V>(p);
#pragma GCC unroll 16
      for (int e = 0; e < n; ++e) sum += c.v[e][k] * value[e];
      store(p, sum);
    }
  }
}

// Calls walk.operator()<V, n>(first edge, begin, end of columns) for all edges and columns.
template <typename T, typename Walk>
inline void for_edges(int64_t edges, int64_t columns, Walk walk) {
  const int64_t whole = columns - columns % Simd<T>::lanes;
  int64_t e = 0;
  for (; e + 2 <= edges; e += 2) {
    walk.template operator()<Vector<T>, 2>(e, 0, whole);
    if (whole < columns) walk.template operator()<T, 2>(e, whole, columns);
  }
  if (e < edges) {
    walk.template operator()<Vector<T>, 1>(e, 0, whole);
    if (whole < columns) walk.template operator()<T, 1>(e, whole, columns);
  }
}

template <typename T>
void expand(const Group<T>& group, const T* table, int64_t stride, int64_t columns, bool add, T* rows) {
  for_edges<T>(group.edges, columns, [&]<typename V, int n>(int64_t e, int64_t begin, int64_t end) {
    expand_columns<V, T, n>(group, e, table, stride, begin, end, add, rows);
  });
}

template <typename T>
void dot(const Group<T>& group, const T* table, int64_t stride, int64_t columns, const T* rows, T* dot) {
  for_edges<T>(group.edges, columns, [&]<typename V, int n>(int64_t e, int64_t begin, int64_t end) {
    dot_columns<V, T, n>(group, e, table, stride, begin, end, rows, dot);
  });
}

template <typename T>
void reduce(const Group<T>& group, const T* rows, int64_t stride, int64_t columns, T* table) {
  for_edges<T>(group.edges, columns, [&]<typename V, int n>(int64_t e, int64_t begin, int64_t end) {
    reduce_columns<V, T, n>(group, e, rows, stride, begin, end, table);
  });
}

template <typename T>
constexpr Kernels<T> table_of_kernels = {Simd<T>::lanes, coefficients<T>, expand<T>, dot<T>, reduce<T>};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table_of_kernels<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table_of_kernels<double>;

}  // namespace uqforce::radial
