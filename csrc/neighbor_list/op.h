// uqforce::neighbor_list, edge_vectors, edge_vectors_backward: what the files of this folder share.
//
// positions [N, 3] and cell [B, 3, 3] (rows are lattice vectors) are float32 or float64, in A; pbc [B, 3]
// bool; batch [N] int64 ascending (absent: one structure); edge_index [2, E] int64, row 0 the centre i, row 1
// the neighbour j; cell_shift [E, 3] int64; edge_vec [E, 3] = (r_j - r_i) + cell_shift @ cell[batch[i]].
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace uqforce {

using OptionalTensor = std::optional<at::Tensor>;

// Shapes, dtypes and devices, without looking at values. Every path into an op goes through these.
void check_neighbor_list(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& pbc,
                         double cutoff, const OptionalTensor& batch);
void check_edge_vectors(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& edge_index,
                        const at::Tensor& cell_shift, const OptionalTensor& batch);
void check_edge_vectors_backward(const at::Tensor& grad, const at::Tensor& edge_index,
                                 const at::Tensor& cell_shift, const OptionalTensor& batch,
                                 const c10::SymInt& num_atoms, const c10::SymInt& num_structures);

// The edge vector. Everything that needs one calls this: what is counted as a pair, what is returned, and
// what edge_vectors() gives are then equal to the last bit, and the vector of the reversed edge is exactly
// opposite.
template <typename T>
inline void edge_vector(const T* centre, const T* neighbor, const int64_t* shift, const T* cell, T* vec) {
  for (int k = 0; k < 3; ++k) vec[k] = neighbor[k] - centre[k];
  if ((shift[0] | shift[1] | shift[2]) == 0) return;
  for (int k = 0; k < 3; ++k) {
    vec[k] += T(shift[0]) * cell[k] + T(shift[1]) * cell[3 + k] + T(shift[2]) * cell[6 + k];
  }
}

}  // namespace uqforce
