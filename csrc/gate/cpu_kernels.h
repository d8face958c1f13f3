// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include "gate/body.h"

namespace uqforce::gating {

// Rows first .. last-1 of grad, or of x in the forward direction.
template <typename T>
struct Kernels {
  void (*forward)(const Arrays<T>&, const Layout&, int64_t first, int64_t last);
  void (*backward)(const Arrays<T>&, const Layout&, int64_t first, int64_t last);
  void (*double_backward)(const Arrays<T>&, const Layout&, int64_t first, int64_t last);
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::gating
