// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp. Everything here has internal linkage.
#include "block_linear/cpu_kernels.h"
#include "tensor_product_conv/cpu_simd.h"

namespace uqforce::linear_map {
namespace {

using conv::Access;
using conv::broadcast;
using conv::load;
using conv::Simd;
using conv::store;
using conv::Vector;

// A tile of the product: `rows` rows, n vectors of columns, the last of them whole or in part.
template <typename T, int rows, int n>
UQFORCE_INLINE void tile(const T* const* a, const T* matrix, int64_t stride, T* const* out, int64_t k,
                         int64_t column, int64_t last_channels) {
  const Access<T, 1> last(last_channels);
  const T* row[rows];
  Vector<T> sum[rows][n]{};
  UQFORCE_UNROLL
  for (int r = 0; r < rows; ++r) row[r] = a[r];
  for (int64_t i = 0; i < k; ++i) {
    const T* b = matrix + i * stride + column;
    Vector<T> values[n];
    UQFORCE_UNROLL
    for (int v = 0; v + 1 < n; ++v) values[v] = load(b + v * Simd<T>::lanes);
    values[n - 1] = last.load(b + (n - 1) * Simd<T>::lanes).v[0];
    UQFORCE_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Vector<T> factor = broadcast(row[r][i]);
      UQFORCE_UNROLL
      for (int v = 0; v < n; ++v) sum[r][v] += factor * values[v];
    }
  }
  UQFORCE_UNROLL
  for (int r = 0; r < rows; ++r) {
    T* p = out[r] + column;
    UQFORCE_UNROLL
    for (int v = 0; v + 1 < n; ++v) store(p + v * Simd<T>::lanes, sum[r][v]);
    last.store(p + (n - 1) * Simd<T>::lanes, {sum[r][n - 1]});
  }
}

// n vectors of columns, the last of `channels`, for all rows.
template <typename T, int n>
void columns(const T* const* a, const T* matrix, T* const* out, int64_t rows, int64_t k, int64_t stride,
             int64_t column, int64_t channels) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    tile<T, kRows, n>(a + r, matrix, stride, out + r, k, column, channels);
  for (; r < rows; ++r) tile<T, 1, n>(a + r, matrix, stride, out + r, k, column, channels);
}

template <typename T>
void matmul(const T* const* a, const T* matrix, T* const* out, int64_t rows, int64_t k, int64_t n) {
  constexpr int64_t lanes = Simd<T>::lanes, wide = UQFORCE_REGISTERS == 32 ? 4 : 2;
  int64_t column = 0;
  for (; column + wide * lanes <= n; column += wide * lanes)
    columns<T, wide>(a, matrix, out, rows, k, n, column, lanes);
  const int64_t left = n - column, vectors = (left + lanes - 1) / lanes, last = left - (vectors - 1) * lanes;
  if (vectors == 1) columns<T, 1>(a, matrix, out, rows, k, n, column, last);
  if (vectors == 2) columns<T, 2>(a, matrix, out, rows, k, n, column, last);
  if (vectors == 3) columns<T, 3>(a, matrix, out, rows, k, n, column, last);
  if (vectors == 4) columns<T, 4>(a, matrix, out, rows, k, n, column, last);
}

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = {&matmul<float>};
extern const Kernels<double> UQFORCE_KERNELS(f64) = {&matmul<double>};

}  // namespace uqforce::linear_map
