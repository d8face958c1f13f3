// What the kernels keep of an edge and of the paths that they walk. For cpu_body.h; internal linkage.
#pragma once

#include "tensor_product_conv/cpu_kernels.h"
#include "tensor_product_conv/cpu_simd.h"

namespace uqforce::conv {
namespace {

// The 2 l + 1 components of a block.
template <int l, typename T, int n>
UQFORCE_INLINE void load_rows(const Access<T, n>& access, const T* p, int64_t stride,
                              Block<T, n> (&rows)[2 * l + 1]) {
  UQFORCE_UNROLL
  for (int m = 0; m <= 2 * l; ++m) rows[m] = access.load(p + m * stride);
}
template <int l, typename T, int n>
UQFORCE_INLINE void store_rows(const Access<T, n>& access, T* p, int64_t stride,
                               const Block<T, n> (&rows)[2 * l + 1]) {
  UQFORCE_UNROLL
  for (int m = 0; m <= 2 * l; ++m) access.store(p + m * stride, rows[m]);
}

// Paths of one input that are walked together, each a Degrees, and what is kept of them over the edges: rows
// of g, and of the sums that become rows of out.
template <int a, int b, int c>
struct Degrees {
  static constexpr int l1 = a, l2 = b, l3 = c;
};
template <typename T, int n, class... D>
struct Paths {
  UQFORCE_INLINE explicit Paths(const Unit* /*unit*/) {}
  template <class Use>
  UQFORCE_INLINE void each(const Use& /*use*/) {}
};
template <typename T, int n, class D, class... Rest>
struct Paths<T, n, D, Rest...> {
  static constexpr int l1 = D::l1, in = 2 * l1 + 1;
  const Unit& unit;
  Block<T, n> g[2 * D::l3 + 1], sum[2 * D::l3 + 1]{};
  Paths<T, n, Rest...> rest;

  UQFORCE_INLINE explicit Paths(const Unit* unit) : unit(*unit), rest(unit->next) {}
  // use(D, unit, g, sum) for each path
  template <class Use>
  UQFORCE_INLINE void each(const Use& use) {
    use(D{}, unit, g, sum);
    rest.each(use);
  }
};
// Rows of x and dx of an edge: held in registers over several paths; in memory for one alone, which needs the
// registers.
template <typename T, int n, int l, bool held>
struct Input {
  const Access<T, n>& access;
  const T* row;
  int64_t stride;
  UQFORCE_INLINE Block<T, n> operator[](int m) const { return access.load(row + m * stride); }
};
template <typename T, int n, int l>
struct Input<T, n, l, true> {
  Block<T, n> rows[2 * l + 1];
  UQFORCE_INLINE Input(const Access<T, n>& access, const T* row, int64_t stride) {
    load_rows<l>(access, row, stride, rows);
  }
  UQFORCE_INLINE const Block<T, n>& operator[](int m) const { return rows[m]; }
};
template <typename T, int n, int l, bool held>
struct Gradient {
  const Access<T, n>& access;
  T* row;  // null where not wanted
  int64_t stride;
  bool first;
  UQFORCE_INLINE void add(int m, const Block<T, n>& a, const auto& b) {
    if (row == nullptr) return;
    Block<T, n> sum{};
    if (!first) sum = access.load(row + m * stride);
    access.store(row + m * stride, sum + a * b);
  }
  UQFORCE_INLINE void add(int m, const Block<T, n>& a, const Block<T, n>& b, const Block<T, n>& c,
                          const Block<T, n>& d) {
    if (row == nullptr) return;
    Block<T, n> sum{};
    if (!first) sum = access.load(row + m * stride);
    access.store(row + m * stride, sum + a * b + c * d);
  }
  UQFORCE_INLINE void store() const {}
};
template <typename T, int n, int l>
struct Gradient<T, n, l, true> {
  const Access<T, n>& access;
  T* row;
  int64_t stride;
  Block<T, n> rows[2 * l + 1]{};
  UQFORCE_INLINE Gradient(const Access<T, n>& access, T* row, int64_t stride, bool first)
      : access(access), row(row), stride(stride) {
    if (row != nullptr && !first) load_rows<l>(access, row, stride, rows);
  }
  UQFORCE_INLINE void add(int m, const Block<T, n>& a, const auto& b) { rows[m] += a * b; }
  UQFORCE_INLINE void add(int m, const Block<T, n>& a, const Block<T, n>& b, const Block<T, n>& c,
                          const Block<T, n>& d) {
    rows[m] += a * b;
    rows[m] += c * d;
  }
  UQFORCE_INLINE void store() const {
    if (row != nullptr) store_rows<l>(access, row, stride, rows);
  }
};

}  // namespace
}  // namespace uqforce::conv
