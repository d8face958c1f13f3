// Launchers of cuda.cu, called by cuda_op.cpp; pointers to device memory, row-major and contiguous.
#pragma once

#include <cstdint>

#include "force_variance/arrays.h"

namespace uqforce::force_variance {

template <typename T>
struct Problem {
  int64_t atoms, edges, structures, rows, members, sigma_members;  // rows of grad_energy
  bool local;
  int64_t ddof;
  bool results, gradients;                             // what is wanted
  bool directional;                                    // of these the derivatives along the directions
  const int64_t *centre, *neighbour, *batch;           // [edges], [edges], [atoms]
  const T *edge_vec, *grad_energy, *grad_sigma;        // [edges, 3], [rows, edges, 3] ...
  const T *u_edge_vec, *u_grad_energy, *u_grad_sigma;  // directions
};

template <typename T>
int64_t workspace_bytes(const Problem<T>& problem);

// An edge or an atom that names what does not exist makes all results NaN.
template <typename T>
void evaluate(const Problem<T>& problem, const ResultPointers<T>& results,
              const CotangentPointers<T>& cotangents, const GradientPointers<T>& gradients, void* workspace,
              void* stream);

}  // namespace uqforce::force_variance
