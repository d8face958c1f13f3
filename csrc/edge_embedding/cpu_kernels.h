// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include <cstdint>

#include "tensor_product_conv/coupling.h"

namespace uqforce::embedding {

using uqforce::kMaxDegree;

enum class Order { forward, backward, double_backward };

// Rows of a range of edges; what is absent is null, what is not wanted too.
template <typename T>
struct Edges {
  int64_t edges;
  const T* vec;             // [edges, 3]
  const T* inverse_cutoff;  // [edges], or one for all
  bool one_cutoff;
  const T *grad_sh, *grad_length;  // [edges, (l_max + 1)^2], [edges]
  const T* ddvec;                  // [edges, 3]
  T *sh, *length;  // results of forward; of double backward the gradients of grad_sh, grad_length
  T* dvec;         // [edges, 3]
};

template <typename T>
struct Kernels {
  using Kernel = void (*)(const Edges<T>&);
  Kernel forward[kMaxDegree + 1], backward[kMaxDegree + 1], double_backward[kMaxDegree + 1];
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::embedding
