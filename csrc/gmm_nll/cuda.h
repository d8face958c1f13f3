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

// Fills the results. A mixture with parameters that are none gives NaN: to look at their values here would
// make the host wait.
template <typename T>
void evaluate(const Problem<T>& problem, void* stream);

}  // namespace uqforce::gmm_nll
