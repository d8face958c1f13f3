// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES, UQFORCE_REGISTERS and
// UQFORCE_KERNELS (names of the tables). Everything here has internal linkage.
//
// An edge's spherical harmonics Y and a coupling's constants C first become a matrix M[m1, m3], the same for
// all channels and for all paths of these degrees; channels then see only M, x, w and g:
//   out[m3] += sum_m1 M[m1, m3] (w x[m1])
// and with y[m1] = sum_m3 M[m1, m3] g[m3]
//   dx[m1] += w y[m1]    dw = sum_m1 x[m1] y[m1]    dM[m1, m3] = sum_channels (w x[m1]) g[m3]
// Only M's structural non-zeros ("pairs") appear, each written out by the compiler.
#include "tensor_product_conv/cpu_kernels.h"
#include "tensor_product_conv/cpu_paths.h"
#include "tensor_product_conv/cpu_simd.h"

namespace uqforce::conv {
namespace {

// The constants of a coupling as flat lists: terms (pair, m2, value) in the order of their pairs, and the
// pairs' (m1, m3) in the order of m1.
template <int l1, int l2, int l3>
struct Constants {
  static constexpr auto& terms = Coupling<l1, l2, l3>::terms;
  static constexpr int n_terms = sizeof(terms) / sizeof(CouplingTerm);
  struct Table {
    int pairs;
    int m1[n_terms], m3[n_terms];        // of a pair
    int pair[n_terms], m2[n_terms];      // of a term
    bool first[n_terms], last[n_terms];  // of its pair
    double value[n_terms];
  };
  static constexpr Table make() {
    Table t{};
    const auto same = [](int k) { return terms[k].m1 == terms[k - 1].m1 && terms[k].m3 == terms[k - 1].m3; };
    for (int k = 0; k < n_terms; ++k) {
      t.first[k] = k == 0 || !same(k);
      t.last[k] = k + 1 == n_terms || !same(k + 1);
      t.pairs += t.first[k];
      t.pair[k] = t.pairs - 1;
      t.m1[t.pair[k]] = terms[k].m1;
      t.m3[t.pair[k]] = terms[k].m3;
      t.m2[k] = terms[k].m2;
      t.value[k] = terms[k].value;
    }
    return t;
  }
  static constexpr Table table = make();
};

template <typename T, int l1, int l2, int l3>
void matrix(const T* sh, T* matrix) {
  using C = Constants<l1, l2, l3>;
  constexpr auto& c = C::table;
  for (int e = 0; e < kChunk; e += Simd<T>::lanes) {
    Vector<T> sum{};
    UQFORCE_UNROLL
    for (int k = 0; k < C::n_terms; ++k) {
      const Vector<T> product = static_cast<T>(c.value[k]) * load(sh + c.m2[k] * kChunk + e);
      sum = c.first[k] ? product : sum + product;
      if (c.last[k]) store(matrix + c.pair[k] * kChunk + e, sum);
    }
  }
}

#define UQFORCE_EACH_PATH \
  [&](auto degrees, const Unit& unit, auto& g, auto& sum) __attribute__((always_inline))

template <typename T, int n, class... D>
void forward(const Unit& first, const Chunk<T>& chunk) {
  const Access<T, n> access(first.channels);
  Paths<T, n, D...> paths(&first);
  constexpr int l1 = paths.l1;
  paths.each(UQFORCE_EACH_PATH {
    if (!chunk.first) load_rows<degrees.l3>(access, chunk.out + unit.out_offset, unit.out_stride, sum);
  });
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const Input<T, n, l1, (sizeof...(D) > 1)> x{access, chunk.x[e] + first.in_offset, first.in_stride};
    fetch_ahead(ahead, first.ahead_lines, chunk.ahead_step);
    paths.each(UQFORCE_EACH_PATH {
      constexpr int l2 = degrees.l2, l3 = degrees.l3;
      constexpr auto& c = Constants<l1, l2, l3>::table;
      const T* matrix = chunk.matrix + unit.matrix + e;
      const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
      if constexpr (l2 == 0) {  // one number in the diagonal
        const Block<T, n> wm = w * broadcast(matrix[0]);
        UQFORCE_UNROLL
        for (int m = 0; m <= 2 * l1; ++m) sum[m] += x[m] * wm;
      } else if constexpr (l3 == 0) {
        Block<T, n> xm{};
        UQFORCE_UNROLL
        for (int m1 = 0; m1 <= 2 * l1; ++m1) xm += x[m1] * broadcast(matrix[m1 * kChunk]);
        sum[0] += xm * w;
      } else {
        Block<T, n> xw[2 * l1 + 1];
        UQFORCE_UNROLL
        for (int m1 = 0; m1 <= 2 * l1; ++m1) xw[m1] = x[m1] * w;
        UQFORCE_UNROLL
        for (int p = 0; p < c.pairs; ++p) sum[c.m3[p]] += xw[c.m1[p]] * broadcast(matrix[p * kChunk]);
      }
    });
  }
  chunk.ahead = ahead;
  paths.each(UQFORCE_EACH_PATH {
    store_rows<degrees.l3>(access, chunk.out + unit.out_offset, unit.out_stride, sum);
  });
}

// total[m2] += sum C[m1, m2, m3] a[m1] b[m3], channels of one lane added up.
template <typename T, int l1, int l2, int l3, int n>
UQFORCE_INLINE void add_dsh(const Block<T, n> (&a)[2 * l1 + 1], const Block<T, n> (&b)[2 * l3 + 1],
                            T* total) {
  using C = Constants<l1, l2, l3>;
  constexpr auto& c = C::table;
  constexpr int lanes = Simd<T>::lanes;
  Vector<T> dsh[2 * l2 + 1], dm{};
  UQFORCE_UNROLL
  for (int m2 = 0; m2 <= 2 * l2; ++m2) dsh[m2] = load(total + m2 * lanes);
  UQFORCE_UNROLL
  for (int k = 0; k < C::n_terms; ++k) {
    const auto &am = a[c.m1[c.pair[k]]], &bm = b[c.m3[c.pair[k]]];
    if constexpr (l1 == 0) {  // all constants are 1
      dsh[c.m2[k]] = dot(am, bm, dsh[c.m2[k]]);
    } else {
      if (c.first[k]) dm = dot(am, bm);
      dsh[c.m2[k]] += static_cast<T>(c.value[k]) * dm;
    }
  }
  UQFORCE_UNROLL
  for (int m2 = 0; m2 <= 2 * l2; ++m2) store(total + m2 * lanes, dsh[m2]);
}

template <typename T>
UQFORCE_INLINE T* dsh_of(const Unit& unit, const Chunk<T>& chunk, int64_t e) {
  return chunk.dsh + (e * chunk.sh_dim + unit.sh_offset) * Simd<T>::lanes;
}

template <typename T, int n>
UQFORCE_INLINE void store_dw(const Unit& unit, const Chunk<T>& chunk, int64_t e, const Access<T, n>& access,
                             const Block<T, n>& dw) {
  T* p = chunk.dw[e] + unit.weight_offset;
  if (chunk.stream && unit.whole_lines) {
    stream(p, dw);
  } else {
    access.store(p, dw);
  }
}

template <typename T, int n, class... D>
void backward(const Unit& first, const Chunk<T>& chunk) {
  constexpr bool held = sizeof...(D) > 1;
  const Access<T, n> access(first.channels);
  Paths<T, n, D...> paths(&first);
  constexpr int l1 = paths.l1;
  paths.each(
      UQFORCE_EACH_PATH { load_rows<degrees.l3>(access, chunk.grad + unit.out_offset, unit.out_stride, g); });
  const bool wants_dw = chunk.dw[0];
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const Input<T, n, l1, held> x{access, chunk.x[e] + first.in_offset, first.in_stride};
    Gradient<T, n, l1, held> dx{access, chunk.dx[e] ? chunk.dx[e] + first.in_offset : nullptr,
                                first.in_stride, first.first};
    fetch_ahead(ahead, first.ahead_lines, chunk.ahead_step);
    paths.each(UQFORCE_EACH_PATH {
      constexpr int l2 = degrees.l2, l3 = degrees.l3;
      constexpr auto& c = Constants<l1, l2, l3>::table;
      const T* matrix = chunk.matrix + unit.matrix + e;
      const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
      if constexpr (l2 == 0) {  // one number in the diagonal
        const Vector<T> diagonal = broadcast(matrix[0]);
        const Block<T, n> wm = w * diagonal;
        Block<T, n> xg{};
        UQFORCE_UNROLL
        for (int m = 0; m <= 2 * l1; ++m) {
          xg += x[m] * g[m];
          dx.add(m, wm, g[m]);
        }
        if (wants_dw) store_dw(unit, chunk, e, access, xg * diagonal);
        if (chunk.dsh) {
          T* dsh = dsh_of(unit, chunk, e);
          store(dsh, dot(w, xg, load(dsh)));
        }
      } else if constexpr (l3 == 0) {
        const Block<T, n> wg = w * g[0];
        Block<T, n> xm[2 * l1 + 1], sum_xm{};
        UQFORCE_UNROLL
        for (int m1 = 0; m1 <= 2 * l1; ++m1) {
          const Vector<T> m = broadcast(matrix[m1 * kChunk]);
          xm[m1] = x[m1];
          if (wants_dw) sum_xm += xm[m1] * m;
          dx.add(m1, wg, m);
        }
        if (wants_dw) store_dw(unit, chunk, e, access, sum_xm * g[0]);
        if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(xm, {wg}, dsh_of(unit, chunk, e));
      } else {
        Block<T, n> y[2 * l1 + 1]{}, xw[2 * l1 + 1], dw{};
        UQFORCE_UNROLL
        for (int p = 0; p < c.pairs; ++p) y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
        UQFORCE_UNROLL
        for (int m1 = 0; m1 <= 2 * l1; ++m1) {
          const Block<T, n> xm = x[m1];
          xw[m1] = xm * w;
          if (wants_dw) dw += xm * y[m1];
          dx.add(m1, w, y[m1]);
        }
        if (wants_dw) store_dw(unit, chunk, e, access, dw);
        if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(xw, g, dsh_of(unit, chunk, e));
      }
    });
    dx.store();
  }
  chunk.ahead = ahead;
}

// The gradient of T(g, ddx, Y, w) + T(g, x, ddY, w) + T(g, x, Y, ddw) with respect to g, x, Y and w; N is the
// matrix of ddY and q[m1] = w ddx[m1] + ddw x[m1]:
//   dg[m3] += sum_m1 M[m1, m3] q[m1] + N[m1, m3] (w x[m1])
//   with y[m1] = sum_m3 M[m1, m3] g[m3] and z[m1] = sum_m3 N[m1, m3] g[m3]
//   dx[m1] += ddw y[m1] + w z[m1]    dw = sum_m1 ddx[m1] y[m1] + x[m1] z[m1]
//   dM[m1, m3] = sum_channels q[m1] g[m3]
template <typename T, int n, class... D>
void double_backward(const Unit& first, const Chunk<T>& chunk) {
  constexpr bool held = sizeof...(D) > 1;
  const Access<T, n> access(first.channels);
  Paths<T, n, D...> paths(&first);
  constexpr int l1 = paths.l1;
  paths.each(UQFORCE_EACH_PATH {
    load_rows<degrees.l3>(access, chunk.grad + unit.out_offset, unit.out_stride, g);
    if (!chunk.first) load_rows<degrees.l3>(access, chunk.out + unit.out_offset, unit.out_stride, sum);
  });
  const char *ahead = chunk.ahead, *ddahead = chunk.ddahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const Input<T, n, l1, held> x{access, chunk.x[e] + first.in_offset, first.in_stride},
        ddx{access, chunk.ddx[e] + first.in_offset, first.in_stride};
    Gradient<T, n, l1, held> dx{access, chunk.dx[e] ? chunk.dx[e] + first.in_offset : nullptr,
                                first.in_stride, first.first};
    fetch_ahead(ahead, first.ahead_lines, chunk.ahead_step);
    fetch_ahead(ddahead, first.ahead_lines, chunk.ddahead_step);
    paths.each(UQFORCE_EACH_PATH {
      constexpr int l2 = degrees.l2, l3 = degrees.l3;
      constexpr auto& c = Constants<l1, l2, l3>::table;
      const T* matrix = chunk.matrix + unit.matrix + e;
      const T* ddmatrix = chunk.ddmatrix + unit.matrix + e;
      const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
      const Block<T, n> ddw = access.load(chunk.ddw[e] + unit.weight_offset);
      if constexpr (l2 == 0) {  // one number in the diagonals
        const Vector<T> diagonal = broadcast(matrix[0]), dddiagonal = broadcast(ddmatrix[0]);
        const Block<T, n> wm = w * diagonal, moved = ddw * diagonal + w * dddiagonal;
        Block<T, n> xg{}, ddxg{};
        UQFORCE_UNROLL
        for (int m = 0; m <= 2 * l1; ++m) {
          const Block<T, n> xm = x[m], ddxm = ddx[m];
          sum[m] += ddxm * wm;
          sum[m] += xm * moved;
          xg += xm * g[m];
          ddxg += ddxm * g[m];
          dx.add(m, moved, g[m]);
        }
        if (chunk.dw[0]) store_dw(unit, chunk, e, access, ddxg * diagonal + xg * dddiagonal);
        if (chunk.dsh) {
          T* dsh = dsh_of(unit, chunk, e);
          store(dsh, dot(w, ddxg, dot(ddw, xg, load(dsh))));
        }
      } else {
        Block<T, n> y[2 * l1 + 1]{}, z[2 * l1 + 1]{}, q[2 * l1 + 1], dw{};
        UQFORCE_UNROLL
        for (int p = 0; p < c.pairs; ++p) {
          y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
          z[c.m1[p]] += g[c.m3[p]] * broadcast(ddmatrix[p * kChunk]);
        }
        UQFORCE_UNROLL
        for (int m1 = 0; m1 <= 2 * l1; ++m1) {
          const Block<T, n> xm = x[m1], ddxm = ddx[m1];
          dw += ddxm * y[m1];
          dw += xm * z[m1];
          dx.add(m1, ddw, y[m1], w, z[m1]);
          q[m1] = ddxm * w + xm * ddw;
          z[m1] = xm * w;
        }
        if (chunk.dw[0]) store_dw(unit, chunk, e, access, dw);
        UQFORCE_UNROLL
        for (int p = 0; p < c.pairs; ++p) {
          sum[c.m3[p]] += q[c.m1[p]] * broadcast(matrix[p * kChunk]);
          sum[c.m3[p]] += z[c.m1[p]] * broadcast(ddmatrix[p * kChunk]);
        }
        if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(q, g, dsh_of(unit, chunk, e));
      }
    });
    dx.store();
  }
  chunk.ahead = ahead;
  chunk.ddahead = ddahead;
  paths.each(UQFORCE_EACH_PATH {
    store_rows<degrees.l3>(access, chunk.out + unit.out_offset, unit.out_stride, sum);
  });
}
#undef UQFORCE_EACH_PATH

template <typename T>
void sum_lanes(const T* partial, int64_t columns, T* dsh) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) store(dsh + c, lane_sums<T>(partial + c * lanes, int64_t(lanes)));
  if (c == columns) return;
  Lanes<T>(columns - c).store(dsh + c, lane_sums<T>(partial + c * lanes, columns - c));
}

template <typename T>
void add_row(const T* row, int64_t columns, T* total) {
  int64_t c = 0;
  for (; c + Simd<T>::lanes <= columns; c += Simd<T>::lanes)
    store(total + c, load(total + c) + load(row + c));
  for (; c < columns; ++c) total[c] += row[c];
}

template <typename T, class... D>
constexpr CouplingKernels<T> coupling_kernels(void (*matrix)(const T*, T*) = nullptr) {
  constexpr int64_t lanes = Simd<T>::lanes;
  // Vectors of channels in a block: two, where what is kept over the edges or over the paths fits registers.
  constexpr bool held = sizeof...(D) > 1;
  constexpr int spare = UQFORCE_REGISTERS - 6, out = ((2 * D::l3 + 1) + ...), in = Paths<T, 1, D...>::in;
  constexpr int nf = 2 * (out + held * in) <= spare ? 2 : 1,
                nb = 2 * (out + (1 + held) * in) <= spare ? 2 : 1;
  return {(Constants<D::l1, D::l2, D::l3>::table.pairs + ...),
          matrix,
          {nf * lanes, &forward<T, nf, D...>, &forward<T, 1, D...>},
          {nb * lanes, &backward<T, nb, D...>, &backward<T, 1, D...>},
          {lanes, &double_backward<T, 1, D...>, &double_backward<T, 1, D...>}};
}

template <typename T, class... D>
constexpr GroupKernels<T> group_kernels() {
  return {Paths<T, 1, D...>::l1, sizeof...(D), {D::l2...}, {D::l3...}, coupling_kernels<T, D...>()};
}

template <typename T>
constexpr Kernels<T> kernels() {
  Kernels<T> k{};
  k.lanes = Simd<T>::lanes;
  k.sum_lanes = &sum_lanes<T>;
  k.add_row = &add_row<T>;
  k.fence = &stream_fence;
#define UQFORCE_ENTRY(a, b, c) \
  k.coupling[a][b][c] = coupling_kernels<T, Degrees<a, b, c>>(&matrix<T, a, b, c>);
  UQFORCE_FOR_EACH_COUPLING(UQFORCE_ENTRY)
#undef UQFORCE_ENTRY
  k.group[0] = group_kernels<T, Degrees<0, 0, 0>, Degrees<0, 1, 1>, Degrees<0, 2, 2>>();
  k.group[1] = group_kernels<T, Degrees<0, 0, 0>, Degrees<0, 1, 1>>();
  k.group[2] = group_kernels<T, Degrees<1, 0, 1>, Degrees<1, 1, 0>>();
  k.group[3] = group_kernels<T, Degrees<2, 0, 2>, Degrees<2, 2, 0>>();
  return k;
}

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = kernels<float>();
extern const Kernels<double> UQFORCE_KERNELS(f64) = kernels<double>();

}  // namespace uqforce::conv
