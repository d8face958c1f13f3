// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES, UQFORCE_VECTORS (how
// many vectors of atoms a block has) and UQFORCE_KERNELS (names of the tables). Everything here has internal
// linkage.
//
// Precision factors P are upper triangular: y = P^T (x - mu) and A (x - mu) = P y. Tiles of kTile rows of the
// result are kept in registers for all atoms of the block; only entries on or above P's diagonal are touched.
#include <cstdint>

#include "gmm_nll/cpu_kernels.h"

namespace uqforce::gmm_nll {
namespace {

constexpr int kTile = 4;

template <typename T>
struct Simd {
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES), may_alias));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

template <typename T>
inline Vector<T>& at(T* p, int64_t u) {
  return reinterpret_cast<Vector<T>*>(p)[u];
}
template <typename T>
inline const Vector<T>& at(const T* p, int64_t u) {
  return reinterpret_cast<const Vector<T>*>(p)[u];
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

// The same for all rows; `mean` is read where the product is centred.
template <typename T, int U, Product kind, typename Use>
inline void triangular_product(const T* P, int64_t D, const T* a, const T* mean, Use use) {
  int64_t row = 0;
  for (; row + kTile <= D; row += kTile) rows_of_tile<T, U, kind, kTile>(P, D, row, a, mean, use);
  switch (D - row) {
    case 3:
      return rows_of_tile<T, U, kind, 3>(P, D, row, a, mean, use);
    case 2:
      return rows_of_tile<T, U, kind, 2>(P, D, row, a, mean, use);
    case 1:
      return rows_of_tile<T, U, kind, 1>(P, D, row, a, mean, use);
  }
}

template <typename T, int U>
void mixture_block(const Mixture<T>& mix, const T* x, const Terms<T>& out) {
  constexpr int B = U * Simd<T>::lanes;
  const int64_t D = mix.dim;
  for (int64_t m = 0; m < mix.components; ++m) {
    Vector<T> square[U] = {};
    triangular_product<T, U, Product::centred_transposed>(
        mix.cholesky + m * D * D, D, x, mix.means + m * D,
        [&](int64_t, Vector<T> y, int u) { square[u] += y * y; });
    for (int u = 0; u < U; ++u) at(out.terms + m * B, u) = mix.constants[m] - T(0.5) * square[u];
  }
  for (int u = 0; u < U; ++u) {
    Vector<T> largest = at(out.terms, u), dominant = {};
    for (int64_t m = 1; m < mix.components; ++m) {
      const Vector<T> term = at(out.terms + m * B, u);
      dominant = term > largest ? Vector<T>{} + T(m) : dominant;
      largest = term > largest ? term : largest;
    }
    Vector<T> sum = {};
    for (int64_t m = 0; m < mix.components; ++m) {
      Vector<T>& term = at(out.terms + m * B, u);
      term = exp_negative<T>(term - largest);
      sum += term;
    }
    at(out.max, u) = largest;
    at(out.sum, u) = sum;
    at(out.dominant, u) = dominant;
  }
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
        P, D, x, mean, [&](int64_t j, Vector<T> value, int u) { at(y + j * B, u) = at(r, u) * value; });
    triangular_product<T, U, Product::plain>(
        P, D, y, mean, [&](int64_t i, Vector<T> value, int u) { at(grad + i * B, u) += value; });
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
        P, D, x, mean, [&](int64_t j, Vector<T> value, int u) { at(y + j * B, u) = value; });
    Vector<T> dot[U] = {};  // v . u = y . P^T u
    triangular_product<T, U, Product::transposed>(P, D, vector, mean, [&](int64_t j, Vector<T> value, int u) {
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
        P, D, y, mean, [&](int64_t i, Vector<T> value, int u) { at(grad + i * B, u) += value; });
    triangular_product<T, U, Product::plain>(
        P, D, z, mean, [&](int64_t i, Vector<T> value, int u) { at(product + i * B, u) += value; });
  });
}

// Calls block.operator()<U>() with U = vectors.
template <typename Block>
inline void with_vectors(int64_t vectors, Block block) {
  if (vectors == UQFORCE_VECTORS) return block.template operator()<UQFORCE_VECTORS>();
  if (vectors == 2) return block.template operator()<2>();
  block.template operator()<1>();
}

template <typename T>
void mixture(const Mixture<T>& mix, const T* x, int64_t vectors, const Terms<T>& out) {
  with_vectors(vectors, [&]<int U>() { mixture_block<T, U>(mix, x, out); });
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
constexpr Kernels<T> table = {Simd<T>::lanes, UQFORCE_VECTORS, mixture<T>,
                              shares<T>,      gradient<T>,     hessian<T>};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table<double>;

}  // namespace uqforce::gmm_nll
