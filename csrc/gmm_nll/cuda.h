// Launchers of cuda.cu, called by cuda_op.cpp; pointers to device memory, row-major and contiguous.
#pragma once

#include <cstddef>
#include <cstdint>

namespace uqforce::gmm_nll {

template <typename T>
struct Problem {
  int64_t atoms;
  int dim, components;
  const T* features;     // [atoms, dim]
  const T* means;        // [components, dim]
  const T* cholesky;     // [components, dim, dim], upper triangles
  const T* log_weights;  // [components]
  const T* vector;       // [atoms, dim], for the Hessian product
  T* nll;                // [atoms]; results that are not wanted are null
  T* grad;               // [atoms, dim]
  T* product;            // [atoms, dim]
  T* prepared;           // workspace of prepared_size(dim, components)
};

int64_t prepared_size(int dim, int components);

// For the tensor cores (cuda_tensor.cu): whether features fit, and the part of `prepared` that they need. Of
// the components' constants there is one every `stride` numbers.
bool fits_tensor_cores(int dim);
int64_t tensor_size(int dim, int components);
void evaluate_on_tensor_cores(const Problem<float>& problem, const float* constants, int stride,
                              float* prepared, void* stream);

// Fills the results. A mixture with parameters that are none gives NaN: to look at their values here would
// make the host wait.
template <typename T>
void evaluate(const Problem<T>& problem, void* stream);

}  // namespace uqforce::gmm_nll
