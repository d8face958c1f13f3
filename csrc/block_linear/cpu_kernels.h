// What the instruction-set specific files offer; plain types only, see tensor_product_conv/cpu_kernels.h.
#pragma once

#include <cstdint>

namespace uqforce::linear_map {

template <typename T>
struct Kernels {
  // out[r] [n] = a[r] [k] matrix [k, n] for all rows r. A row's result does not depend on the other rows.
  void (*matmul)(const T* const* a, const T* matrix, T* const* out, int64_t rows, int64_t k, int64_t n);
};

inline constexpr int64_t kRows = 6;  // that `matmul` works on together

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

// Those of the instruction set in use.
template <typename T>
const Kernels<T>& active_kernels();

}  // namespace uqforce::linear_map
