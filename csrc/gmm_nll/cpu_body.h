// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES, UQFORCE_VECTORS (how
// many vectors of atoms a block has) and UQFORCE_KERNELS (names of the tables). Everything here has internal
// linkage.
//
// Precision factors P are upper triangular: y = P^T (x - mu) and A (x - mu) = P y. Tiles of kTile rows of the
// result are kept in registers for all atoms of the block; only entries on or above P's diagonal are touched.
#include <cstdint>

#include "common/simd.h"
#include "gmm_nll/cpu_kernels.h"

namespace uqforce::gmm_nll {
namespace {

constexpr int kTile = 4;

template <typename T>
inline Vector<T>& at(T* p, int64_t u) {
  return reinterpret_cast<Vector<T>*>(p)[u];
}
template <typename T>
inline const Vector<T>& at(const T* p, int64_t u) {
  return reinterpret_cast<const Vector<T>*>(p)[u];
}

// tile[j] = sum_{i <= j0 + j} P[i, j0 + j] a[i]: J rows of P^T a. With `Centred` a[i] - mean[i] stands for
// a[i]: subtracting first, not P^T x - P^T mu, keeps float32 accurate for features far from 0, and costs
// nothing here, since processors add beside their multiply-adds.
template <typename T, int U, int J, bool Centred>
inline void transposed_tile(const T* P, int64_t D, int64_t j0, const T* a, const T* mean,
                            Vector<T> (&tile)[J][U]) {
  constexpr int B = U * Simd<T>::lanes;
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) tile[j][u] = Vector<T>{};
  Vector<T> row_of_a[U];
  for (int64_t i = 0; i < j0; ++i) {
    const T* row = P + i * D + j0;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) row_of_a[u] = Centred ? at(a + i * B, u) - mean[i] : at(a + i * B, u);
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) tile[j][u] += row_of_a[u] * row[j];
  }
#pragma GCC unroll 8
  for (int k = 0; k < J; ++k) {
    const int64_t i = j0 + k;
    const T* row = P + i * D + j0;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) row_of_a[u] = Centred ? at(a + i * B, u) - mean[i] : at(a + i * B, u);
#pragma GCC unroll 8
    for (int j = k; j < J; ++j)
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) tile[j][u] += row_of_a[u] * row[j];
  }
}

// tile[i] = sum_{j >= i0 + i} P[i0 + i, j] a[j]: I rows of P a.
template <typename T, int U, int I>
inline void plain_tile(const T* P, int64_t D, int64_t i0, const T* a, Vector<T> (&tile)[I][U]) {
  constexpr int B = U * Simd<T>::lanes;
  const T* rows = P + i0 * D;
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) tile[i][u] = Vector<T>{};
#pragma GCC unroll 8
  for (int j = 0; j < I; ++j)
#pragma GCC unroll 8
    for (int i = 0; i <= j; ++i)
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) tile[i][u] += at(a + (i0 + j) * B, u) * rows[i * D + i0 + j];
  for (int64_t j = i0 + I; j < D; ++j) {
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) tile[i][u] += at(a + j * B, u) * rows[i * D + j];
  }
}

// What triangular_product forms.
enum class Product { centred_transposed, transposed, plain };  // P^T (a - mean), P^T a, P a

// Calls use(row, value of one vector of atoms, u) for J rows of the product.
template <typename T, int U, Product kind, int J, typename Use>
inline void rows_of_tile(const T* P, int64_t D, int64_t row, const T* a, const T* mean, Use use) {
  Vector<T> tile[J][U];
  if constexpr (kind == Product::plain) {
    plain_tile<T, U, J>(P, D, row, a, tile);
  } else {
    transposed_tile<T, U, J, kind == Product::centred_transposed>(P, D, row, a, mean, tile);
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) use(row + j, tile[j][u], u);
}

// The same for rows `row` to `rows`, the former a multiple of kTile; `mean` is read where the product is
// centred.
template <typename T, int U, Product kind, typename Use>
inline void triangular_product(const T* P, int64_t D, int64_t row, int64_t rows, const T* a, const T* mean,
                               Use use) {
  for (; row + kTile <= rows; row += kTile) rows_of_tile<T, U, kind, kTile>(P, D, row, a, mean, use);
  switch (rows - row) {
    case 3:
      return rows_of_tile<T, U, kind, 3>(P, D, row, a, mean, use);
    case 2:
      return rows_of_tile<T, U, kind, 2>(P, D, row, a, mean, use);
    case 1:
      return rows_of_tile<T, U, kind, 1>(P, D, row, a, mean, use);
  }
}

template <typename T, int U>
inline void add_squares(const Mixture<T>& mix, int64_t m, int64_t row, int64_t rows, const T* x,
                        Vector<T> (&square)[U]) {
  const int64_t D = mix.dim;
  triangular_product<T, U, Product::centred_transposed>(
      mix.cholesky + m * D * D, D, row, rows, x, mix.means + m * D,
      [&](int64_t, Vector<T> y, int u) { square[u] += y * y; });
}

// log(w_m N(x | mu_m, Sigma_m)), or its bound by the first `rows` parts of the square.
template <typename T, int U>
inline void log_term(const Mixture<T>& mix, int64_t m, int64_t rows, const T* x, T* out) {
  Vector<T> square[U] = {};
  add_squares<T, U>(mix, m, 0, rows, x, square);
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) at(out, u) = mix.constants[m] - T(0.5) * square[u];
}

// The largest of M terms and its component.
template <typename T, int U>
inline void find_largest(const Mixture<T>& mix, const T* terms, int u, Vector<T>& largest, Vector<T>& best) {
  constexpr int B = U * Simd<T>::lanes;
  largest = at(terms, u);
  best = Vector<T>{};
  for (int64_t m = 1; m < mix.components; ++m) {
    const Vector<T> term = at(terms + m * B, u);
    best = term > largest ? Vector<T>{} + T(m) : best;
    largest = term > largest ? term : largest;
  }
}

// Logarithms in out.terms -> the results; terms `drop` below the largest are 0.
template <typename T, int U>
inline void exponentiate(const Mixture<T>& mix, T drop, const Terms<T>& out) {
  constexpr int B = U * Simd<T>::lanes;
  for (int u = 0; u < U; ++u) {
    Vector<T> largest, dominant, sum = {};
    find_largest<T, U>(mix, out.terms, u, largest, dominant);
    for (int64_t m = 0; m < mix.components; ++m) {
      Vector<T>& term = at(out.terms + m * B, u);
      const Vector<T> below = term - largest;
      term = below < -drop ? Vector<T>{} : exp_negative<T>(below);
      sum += term;
    }
    at(out.max, u) = largest;
    at(out.sum, u) = sum;
    at(out.dominant, u) = dominant;
  }
}

template <typename T, int U>
void mixture_block(const Mixture<T>& mix, const T* x, T drop, const Terms<T>& out) {
  constexpr int B = U * Simd<T>::lanes;
  for (int64_t m = 0; m < mix.components; ++m) log_term<T, U>(mix, m, mix.dim, x, out.terms + m * B);
  exponentiate<T, U>(mix, drop, out);
}

template <typename T, int U>
void bounds_block(const Mixture<T>& mix, int64_t rows, const T* x, T* bounds, T* best) {
  constexpr int B = U * Simd<T>::lanes;
  for (int64_t m = 0; m < mix.components; ++m) log_term<T, U>(mix, m, rows, x, bounds + m * B);
  Vector<T> largest;
  for (int u = 0; u < U; ++u) find_largest<T, U>(mix, bounds, u, largest, at(best, u));
}

// True where any lane is set.
template <typename Mask>
inline bool any(Mask mask) {
  typedef int64_t Word __attribute__((may_alias));
  const Word* words = reinterpret_cast<const Word*>(&mask);
  int64_t all = 0;
#pragma GCC unroll 8
  for (unsigned i = 0; i < sizeof(Mask) / 8; ++i) all |= words[i];
  return all != 0;
}

// The same, but -inf for atoms for which it lies below `level`; that all do may show half way, after a
// quarter of the work. Returns the quarters.
template <typename T, int U>
inline int64_t log_term_above(const Mixture<T>& mix, int64_t m, const Vector<T> (&level)[U], const T* x,
                              T* out) {
  const Vector<T> none = Vector<T>{} - __builtin_inf();
  const int64_t half = mix.dim / 2 / kTile * kTile;
  Vector<T> square[U] = {};
  for (int part = 0; part < 2; ++part) {
    add_squares<T, U>(mix, m, part == 0 ? 0 : half, part == 0 ? half : mix.dim, x, square);
    bool needed = false;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      const Vector<T> term = mix.constants[m] - T(0.5) * square[u];
      const auto dropped = term < level[u];
      at(out, u) = dropped ? none : term;
      needed |= any(!dropped);
    }
    if (!needed) return part == 0 ? 1 : 4;
  }
  return 4;
}

// Parts of a square only grow its sum, in rounded arithmetic too, so that a bound is never below its term.
template <typename T, int U>
int64_t pruned_block(const Mixture<T>& mix, const T* x, const T* bounds, const T* best, T drop, bool* known,
                     const Terms<T>& out) {
  constexpr int B = U * Simd<T>::lanes;
  const Vector<T> none = Vector<T>{} - __builtin_inf();
  Vector<T> level[U];
  int64_t work = 0;
  for (int64_t m = 0; m < mix.components; ++m) known[m] = false;
  for (int lane = 0; lane < B; ++lane) {  // an atom's level is that of its own best component
    const int64_t m = int64_t(best[lane]);
    T* term = out.terms + m * B;
    if (known[m]) continue;
    log_term<T, U>(mix, m, mix.dim, x, term);
    known[m] = true;
    work += 4;
  }
  for (int u = 0; u < U; ++u) {
    level[u] = none;
    for (int64_t m = 0; m < mix.components; ++m) {
      const Vector<T> below = at(out.terms + m * B, u) - T(1.01) * drop;  // certainly 0 in exponentiate
      if (known[m]) level[u] = at(best, u) == T(m) ? below : level[u];
    }
  }
  for (int64_t m = 0; m < mix.components; ++m) {
    if (known[m]) continue;
    bool needed = false;
    for (int u = 0; u < U; ++u) {
      at(out.terms + m * B, u) = none;
      needed |= any(!(at(bounds + m * B, u) < level[u]));
    }
    if (needed) work += log_term_above<T, U>(mix, m, level, x, out.terms + m * B);
  }
  exponentiate<T, U>(mix, drop, out);
  return work;
}

// In place: exp(log term - max) -> share of the likelihood, 0 where negligible (NaN stays).
template <typename T, int U>
void shares_block(const Mixture<T>& mix, T negligible, const Terms<T>& out) {
  constexpr int B = U * Simd<T>::lanes;
  for (int u = 0; u < U; ++u) {
    const Vector<T> scale = T(1) / at(out.sum, u);
    for (int64_t m = 0; m < mix.components; ++m) {
      Vector<T>& term = at(out.terms + m * B, u);
      const Vector<T> share = scale * term;
      term = share < negligible ? Vector<T>{} : share;
    }
  }
}

// Calls use(P, mean, responsibilities of the block) for the active components.
template <int B, typename T, typename Use>
inline void for_active(const Mixture<T>& mix, const T* responsibility, const bool* active, Use use) {
  for (int64_t m = 0; m < mix.components; ++m) {
    if (active[m]) use(mix.cholesky + m * mix.dim * mix.dim, mix.means + m * mix.dim, responsibility + m * B);
  }
}

template <typename T, int U>
void gradient_block(const Mixture<T>& mix, const T* x, const T* responsibility, const bool* active,
                    T* scratch, T* grad) {
  constexpr int B = U * Simd<T>::lanes;
  const int64_t D = mix.dim;
  T* y = scratch;
  for_active<B>(mix, responsibility, active, [&](const T* P, const T* mean, const T* r) {
    triangular_product<T, U, Product::centred_transposed>(
        P, D, 0, D, x, mean, [&](int64_t j, Vector<T> value, int u) { at(y + j * B, u) = at(r, u) * value; });
    triangular_product<T, U, Product::plain>(
        P, D, 0, D, y, mean, [&](int64_t i, Vector<T> value, int u) { at(grad + i * B, u) += value; });
  });
}

template <typename T, int U>
void hessian_block(const Mixture<T>& mix, const T* x, const T* vector, const T* responsibility,
                   const bool* active, T* scratch, T* grad, T* product) {
  constexpr int B = U * Simd<T>::lanes;
  const int64_t D = mix.dim;
  T* y = scratch;
  T* z = y + D * B;
  for_active<B>(mix, responsibility, active, [&](const T* P, const T* mean, const T* r) {
    triangular_product<T, U, Product::centred_transposed>(
        P, D, 0, D, x, mean, [&](int64_t j, Vector<T> value, int u) { at(y + j * B, u) = value; });
    Vector<T> dot[U] = {};  // v . u = y . P^T u
    triangular_product<T, U, Product::transposed>(P, D, 0, D, vector, mean,
                                                  [&](int64_t j, Vector<T> value, int u) {
                                                    at(z + j * B, u) = value;
                                                    dot[u] += value * at(y + j * B, u);
                                                  });
    for (int64_t j = 0; j < D; ++j) {
      for (int u = 0; u < U; ++u) {
        at(z + j * B, u) = at(r, u) * (at(z + j * B, u) - dot[u] * at(y + j * B, u));
        at(y + j * B, u) = at(r, u) * at(y + j * B, u);
      }
    }
    triangular_product<T, U, Product::plain>(
        P, D, 0, D, y, mean, [&](int64_t i, Vector<T> value, int u) { at(grad + i * B, u) += value; });
    triangular_product<T, U, Product::plain>(
        P, D, 0, D, z, mean, [&](int64_t i, Vector<T> value, int u) { at(product + i * B, u) += value; });
  });
}

// Calls block.operator()<U>() with U = vectors.
template <typename Block>
inline auto with_vectors(int64_t vectors, Block block) {
  if (vectors == UQFORCE_VECTORS) return block.template operator()<UQFORCE_VECTORS>();
  if (vectors == 2) return block.template operator()<2>();
  return block.template operator()<1>();
}

template <typename T>
void mixture(const Mixture<T>& mix, const T* x, T drop, int64_t vectors, const Terms<T>& out) {
  with_vectors(vectors, [&]<int U>() { mixture_block<T, U>(mix, x, drop, out); });
}

template <typename T>
void shares(const Mixture<T>& mix, T negligible, int64_t vectors, const Terms<T>& out) {
  with_vectors(vectors, [&]<int U>() { shares_block<T, U>(mix, negligible, out); });
}

template <typename T>
void gradient(const Mixture<T>& mix, const T* x, const T* responsibility, const bool* active, int64_t vectors,
              T* scratch, T* grad) {
  with_vectors(vectors,
               [&]<int U>() { gradient_block<T, U>(mix, x, responsibility, active, scratch, grad); });
}

template <typename T>
void hessian(const Mixture<T>& mix, const T* x, const T* vector, const T* responsibility, const bool* active,
             int64_t vectors, T* scratch, T* grad, T* product) {
  with_vectors(vectors, [&]<int U>() {
    hessian_block<T, U>(mix, x, vector, responsibility, active, scratch, grad, product);
  });
}

template <typename T>
void bounds(const Mixture<T>& mix, int64_t rows, const T* x, int64_t vectors, T* bounds, T* best) {
  with_vectors(vectors, [&]<int U>() { bounds_block<T, U>(mix, rows, x, bounds, best); });
}

template <typename T>
int64_t pruned(const Mixture<T>& mix, const T* x, const T* bounds, const T* best, T drop, int64_t vectors,
               bool* scratch, const Terms<T>& out) {
  return with_vectors(vectors,
                      [&]<int U>() { return pruned_block<T, U>(mix, x, bounds, best, drop, scratch, out); });
}

template <typename T>
constexpr Kernels<T> table = {Simd<T>::lanes, UQFORCE_VECTORS, mixture<T>,  bounds<T>,
                              pruned<T>,      shares<T>,       gradient<T>, hessian<T>};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table<double>;

}  // namespace uqforce::gmm_nll
