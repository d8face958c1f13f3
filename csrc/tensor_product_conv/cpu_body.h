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
  Block<T, n> sum[2 * l3 + 1];
  UQFORCE_UNROLL
  for (int m3 = 0; m3 <= 2 * l3; ++m3) {
    sum[m3] = Block<T, n>{};
    if (!chunk.first) sum[m3] = access.load(out + m3 * unit.out_stride);
  }
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* x = chunk.x[e] + unit.in_offset;
    const T* matrix = chunk.matrix + unit.matrix + e;
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    Block<T, n> xw[2 * l1 + 1];
    UQFORCE_UNROLL
    for (int m1 = 0; m1 <= 2 * l1; ++m1) xw[m1] = access.load(x + m1 * unit.in_stride) * w;
    UQFORCE_UNROLL
    for (int p = 0; p < c.pairs; ++p) sum[c.m3[p]] += xw[c.m1[p]] * broadcast(matrix[p * kChunk]);
  }
  chunk.ahead = ahead;
  UQFORCE_UNROLL
  for (int m3 = 0; m3 <= 2 * l3; ++m3) access.store(out + m3 * unit.out_stride, sum[m3]);
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
    if (c.first[k]) dm = dot(a[c.m1[c.pair[k]]], b[c.m3[c.pair[k]]]);
    dsh[c.m2[k]] += static_cast<T>(c.value[k]) * dm;
  }
  UQFORCE_UNROLL
  for (int m2 = 0; m2 <= 2 * l2; ++m2) store(total + m2 * lanes, dsh[m2]);
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
  UQFORCE_UNROLL
  for (int m3 = 0; m3 <= 2 * l3; ++m3)
    g[m3] = access.load(chunk.grad + unit.out_offset + m3 * unit.out_stride);
  const char* ahead = chunk.ahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* x = chunk.x[e] + unit.in_offset;
    T* dx = chunk.dx[e] + unit.in_offset;
    const T* matrix = chunk.matrix + unit.matrix + e;
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    Block<T, n> y[2 * l1 + 1]{}, xw[2 * l1 + 1], dw{};
    UQFORCE_UNROLL
    for (int p = 0; p < c.pairs; ++p) y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
    UQFORCE_UNROLL
    for (int m1 = 0; m1 <= 2 * l1; ++m1) {
      const int64_t column = m1 * unit.in_stride;
      const Block<T, n> xm = access.load(x + column);
      xw[m1] = xm * w;
      dw += xm * y[m1];
      access.store(dx + column, access.load(dx + column) + w * y[m1]);
    }
    store_dw(unit, chunk, e, access, dw);
    add_dsh<T, l1, l2, l3, n>(xw, g, chunk.dsh + (e * chunk.sh_dim + unit.sh_offset) * Simd<T>::lanes);
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
  Block<T, n> g[2 * l3 + 1], sum[2 * l3 + 1];
  UQFORCE_UNROLL
  for (int m3 = 0; m3 <= 2 * l3; ++m3) {
    g[m3] = access.load(chunk.grad + unit.out_offset + m3 * unit.out_stride);
    sum[m3] = Block<T, n>{};
    if (!chunk.first) sum[m3] = access.load(out + m3 * unit.out_stride);
  }
  const char *ahead = chunk.ahead, *ddahead = chunk.ddahead;
  for (int64_t e = 0; e < chunk.edges; ++e) {
    const T* x = chunk.x[e] + unit.in_offset;
    const T* ddx = chunk.ddx[e] + unit.in_offset;
    T* dx = chunk.dx[e] + unit.in_offset;
    const T* matrix = chunk.matrix + unit.matrix + e;
    const T* ddmatrix = chunk.ddmatrix + unit.matrix + e;
    const Block<T, n> w = access.load(chunk.weight[e] + unit.weight_offset);
    const Block<T, n> ddw = access.load(chunk.ddw[e] + unit.weight_offset);
    fetch_ahead(ahead, unit.ahead_lines, chunk.ahead_step);
    fetch_ahead(ddahead, unit.ahead_lines, chunk.ddahead_step);
    Block<T, n> y[2 * l1 + 1]{}, z[2 * l1 + 1]{}, q[2 * l1 + 1], dw{};
    UQFORCE_UNROLL
    for (int p = 0; p < c.pairs; ++p) {
      y[c.m1[p]] += g[c.m3[p]] * broadcast(matrix[p * kChunk]);
      z[c.m1[p]] += g[c.m3[p]] * broadcast(ddmatrix[p * kChunk]);
    }
    UQFORCE_UNROLL
    for (int m1 = 0; m1 <= 2 * l1; ++m1) {
      const int64_t column = m1 * unit.in_stride;
      const Block<T, n> xm = access.load(x + column), ddxm = access.load(ddx + column);
      dw += ddxm * y[m1];
      dw += xm * z[m1];
      access.store(dx + column, access.load(dx + column) + ddw * y[m1] + w * z[m1]);
      q[m1] = ddxm * w + xm * ddw;
      z[m1] = xm * w;
    }
    store_dw(unit, chunk, e, access, dw);
    UQFORCE_UNROLL
    for (int p = 0; p < c.pairs; ++p) {
      sum[c.m3[p]] += q[c.m1[p]] * broadcast(matrix[p * kChunk]);
      sum[c.m3[p]] += z[c.m1[p]] * broadcast(ddmatrix[p * kChunk]);
    }
    add_dsh<T, l1, l2, l3, n>(q, g, chunk.dsh + (e * chunk.sh_dim + unit.sh_offset) * Simd<T>::lanes);
  }
  chunk.ahead = ahead;
  chunk.ddahead = ddahead;
  UQFORCE_UNROLL
  for (int m3 = 0; m3 <= 2 * l3; ++m3) access.store(out + m3 * unit.out_stride, sum[m3]);
}

template <typename T>
void sum_lanes(const T* partial, int64_t columns, T* dsh) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t c = 0; c < columns; ++c) {
    Vector<T> v = load(partial + c * lanes);
    UQFORCE_UNROLL
    for (int half = lanes / 2; half > 0; half /= 2) {
      typename Simd<T>::integers rotated;
      for (int u = 0; u < lanes; ++u) rotated[u] = (u + half) % lanes;
      v += __builtin_shuffle(v, rotated);
    }
    dsh[c] = v[0];
  }
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
