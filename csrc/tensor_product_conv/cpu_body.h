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

template <typename T, int l1, int l2, int l3, int n>
void forward(const Unit& unit, const Chunk<T>& chunk) {
  constexpr auto& c = Constants<l1, l2, l3>::table;
  const Access<T, n> access(unit.channels);
  T* out = chunk.out + unit.out_offset;
  Block<T, n> sum[2 * l3 + 1]{};
  if (!chunk.first) load_rows<l3>(access, out, unit.out_stride, sum);
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* matrix = chunk.matrix + unit.matrix + e;
    Block<T, n> x[2 * l1 + 1];
    load_rows<l1>(access, chunk.x[e] + unit.in_offset, unit.in_stride, x);
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    if constexpr (l2 == 0) {  // one number in the diagonal
      const Block<T, n> wm = w * broadcast(matrix[0]);
      UQFORCE_UNROLL
      for (int m3 = 0; m3 <= 2 * l3; ++m3) sum[m3] += x[m3] * wm;
    } else if constexpr (l3 < l1) {
      Block<T, n> y[2 * l3 + 1]{};
      UQFORCE_UNROLL
      for (int p = 0; p < c.pairs; ++p) y[c.m3[p]] += x[c.m1[p]] * broadcast(matrix[p * kChunk]);
      UQFORCE_UNROLL
      for (int m3 = 0; m3 <= 2 * l3; ++m3) sum[m3] += y[m3] * w;
    } else {
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) x[m1] = x[m1] * w;
      UQFORCE_UNROLL
      for (int p = 0; p < c.pairs; ++p) sum[c.m3[p]] += x[c.m1[p]] * broadcast(matrix[p * kChunk]);
    }
  }
  chunk.ahead = ahead;
  store_rows<l3>(access, out, unit.out_stride, sum);
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

template <typename T, int l1, int l2, int l3, int n>
void backward(const Unit& unit, const Chunk<T>& chunk) {
  constexpr auto& c = Constants<l1, l2, l3>::table;
  const Access<T, n> access(unit.channels);
  Block<T, n> g[2 * l3 + 1];
  load_rows<l3>(access, chunk.grad + unit.out_offset, unit.out_stride, g);
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* matrix = chunk.matrix + unit.matrix + e;
    Block<T, n> x[2 * l1 + 1];
    load_rows<l1>(access, chunk.x[e] + unit.in_offset, unit.in_stride, x);
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    Block<T, n> dx[2 * l1 + 1]{};
    if (chunk.dx[0] && !unit.first) load_rows<l1>(access, chunk.dx[e] + unit.in_offset, unit.in_stride, dx);
    Block<T, n> dw{};
    if constexpr (l2 == 0) {  // one number in the diagonal
      const Vector<T> m = broadcast(matrix[0]);
      const Block<T, n> wm = w * m;
      Block<T, n> xg{};
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) {
        xg += x[m1] * g[m1];
        dx[m1] += g[m1] * wm;
      }
      dw = xg * m;
      if (chunk.dsh) {
        T* dsh = dsh_of(unit, chunk, e);
        store(dsh, dot(w, xg, load(dsh)));
      }
    } else if constexpr (l3 == 0) {
      const Block<T, n> wg = w * g[0];
      Block<T, n> xm{};
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) {
        const Vector<T> m = broadcast(matrix[m1 * kChunk]);
        xm += x[m1] * m;
        dx[m1] += wg * m;
      }
      dw = xm * g[0];
      if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(x, {wg}, dsh_of(unit, chunk, e));
    } else {
      Block<T, n> y[2 * l1 + 1]{};
      UQFORCE_UNROLL
      for (int p = 0; p < c.pairs; ++p) y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) {
        dw += x[m1] * y[m1];
        dx[m1] += w * y[m1];
        x[m1] = x[m1] * w;
      }
      if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(x, g, dsh_of(unit, chunk, e));
    }
    if (chunk.dx[0]) store_rows<l1>(access, chunk.dx[e] + unit.in_offset, unit.in_stride, dx);
    if (chunk.dw[0]) store_dw(unit, chunk, e, access, dw);
  }
  chunk.ahead = ahead;
}

// The gradient of T(g, ddx, Y, w) + T(g, x, ddY, w) + T(g, x, Y, ddw) with respect to g, x, Y and w; N is the
// matrix of ddY and q[m1] = w ddx[m1] + ddw x[m1]:
//   dg[m3] += sum_m1 M[m1, m3] q[m1] + N[m1, m3] (w x[m1])
//   with y[m1] = sum_m3 M[m1, m3] g[m3] and z[m1] = sum_m3 N[m1, m3] g[m3]
//   dx[m1] += ddw y[m1] + w z[m1]    dw = sum_m1 ddx[m1] y[m1] + x[m1] z[m1]
//   dM[m1, m3] = sum_channels q[m1] g[m3]
template <typename T, int l1, int l2, int l3, int n>
void double_backward(const Unit& unit, const Chunk<T>& chunk) {
  constexpr auto& c = Constants<l1, l2, l3>::table;
  const Access<T, n> access(unit.channels);
  T* out = chunk.out + unit.out_offset;
  Block<T, n> g[2 * l3 + 1], sum[2 * l3 + 1]{};
  load_rows<l3>(access, chunk.grad + unit.out_offset, unit.out_stride, g);
  if (!chunk.first) load_rows<l3>(access, out, unit.out_stride, sum);
  const char *ahead = chunk.ahead, *ddahead = chunk.ddahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* matrix = chunk.matrix + unit.matrix + e;
    const T* ddmatrix = chunk.ddmatrix + unit.matrix + e;
    Block<T, n> x[2 * l1 + 1], ddx[2 * l1 + 1];
    load_rows<l1>(access, chunk.x[e] + unit.in_offset, unit.in_stride, x);
    load_rows<l1>(access, chunk.ddx[e] + unit.in_offset, unit.in_stride, ddx);
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    const Block<T, n> ddw = access.load(chunk.ddw[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    fetch_ahead(ddahead, unit.ahead_lines, chunk.ddahead_step);
    Block<T, n> dx[2 * l1 + 1]{};
    if (chunk.dx[0] && !unit.first) load_rows<l1>(access, chunk.dx[e] + unit.in_offset, unit.in_stride, dx);
    Block<T, n> dw{};
    if constexpr (l2 == 0) {  // one number in the diagonals
      const Vector<T> m = broadcast(matrix[0]), ddm = broadcast(ddmatrix[0]);
      const Block<T, n> wm = w * m, moved = ddw * m + w * ddm;
      Block<T, n> xg{}, ddxg{};
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) {
        sum[m1] += ddx[m1] * wm;
        sum[m1] += x[m1] * moved;
        dx[m1] += g[m1] * moved;
        xg += x[m1] * g[m1];
        ddxg += ddx[m1] * g[m1];
      }
      dw = ddxg * m + xg * ddm;
      if (chunk.dsh) {
        T* dsh = dsh_of(unit, chunk, e);
        store(dsh, dot(w, ddxg, dot(ddw, xg, load(dsh))));
      }
    } else {
      Block<T, n> y[2 * l1 + 1]{}, z[2 * l1 + 1]{};
      UQFORCE_UNROLL
      for (int p = 0; p < c.pairs; ++p) {
        y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
        z[c.m1[p]] += g[c.m3[p]] * broadcast(ddmatrix[p * kChunk]);
      }
      UQFORCE_UNROLL
      for (int m1 = 0; m1 <= 2 * l1; ++m1) {
        dw += ddx[m1] * y[m1];
        dw += x[m1] * z[m1];
        dx[m1] += ddw * y[m1];
        dx[m1] += w * z[m1];
        ddx[m1] = ddx[m1] * w + x[m1] * ddw;  // q
        x[m1] = x[m1] * w;
      }
      UQFORCE_UNROLL
      for (int p = 0; p < c.pairs; ++p) {
        sum[c.m3[p]] += ddx[c.m1[p]] * broadcast(matrix[p * kChunk]);
        sum[c.m3[p]] += x[c.m1[p]] * broadcast(ddmatrix[p * kChunk]);
      }
      if (chunk.dsh) add_dsh<T, l1, l2, l3, n>(ddx, g, dsh_of(unit, chunk, e));
    }
    if (chunk.dx[0]) store_rows<l1>(access, chunk.dx[e] + unit.in_offset, unit.in_stride, dx);
    if (chunk.dw[0]) store_dw(unit, chunk, e, access, dw);
  }
  chunk.ahead = ahead;
  chunk.ddahead = ddahead;
  store_rows<l3>(access, out, unit.out_stride, sum);
}

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

template <typename T, int l1, int l2, int l3>
constexpr CouplingKernels<T> coupling_kernels() {
  constexpr int64_t lanes = Simd<T>::lanes;
  // Vectors of channels in a block: two, where what is kept over the edges or over the pairs fits registers.
  constexpr int spare = UQFORCE_REGISTERS - 6;
  constexpr int nf = 2 * (2 * l3 + 1) <= spare ? 2 : 1, nb = 2 * (2 * l1 + 1 + 2 * l3 + 1) <= spare ? 2 : 1;
  return {Constants<l1, l2, l3>::table.pairs,
          &matrix<T, l1, l2, l3>,
          {nf * lanes, &forward<T, l1, l2, l3, nf>, &forward<T, l1, l2, l3, 1>},
          {nb * lanes, &backward<T, l1, l2, l3, nb>, &backward<T, l1, l2, l3, 1>},
          {lanes, &double_backward<T, l1, l2, l3, 1>, &double_backward<T, l1, l2, l3, 1>}};
}

template <typename T>
constexpr Kernels<T> kernels() {
  Kernels<T> k{};
  k.lanes = Simd<T>::lanes;
  k.sum_lanes = &sum_lanes<T>;
  k.add_row = &add_row<T>;
  k.fence = &stream_fence;
#define UQFORCE_ENTRY(a, b, c) k.coupling[a][b][c] = coupling_kernels<T, a, b, c>();
  UQFORCE_FOR_EACH_COUPLING(UQFORCE_ENTRY)
#undef UQFORCE_ENTRY
  return k;
}

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = kernels<float>();
extern const Kernels<double> UQFORCE_KERNELS(f64) = kernels<double>();

}  // namespace uqforce::conv
