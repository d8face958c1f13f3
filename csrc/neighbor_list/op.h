// uqforce::neighbor_list, edge_vectors, edge_vectors_backward: what the files of this folder share.
//
// positions [N, 3] and cell [B, 3, 3] (rows are lattice vectors) are float32 or float64, in A; pbc [B, 3]
// bool; batch [N] int64 ascending (absent: one structure); edge_index [2, E] int64, row 0 the centre i, row 1
// the neighbour j; cell_shift [E, 3] int64; edge_vec [E, 3] = (r_j - r_i) + cell_shift @ cell[batch[i]].
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "common/api.h"

namespace uqforce {

using OptionalTensor = std::optional<at::Tensor>;

// Shapes, dtypes and devices, without looking at values. Every path into an op goes through these.
UQFORCE_API void check_neighbor_list(const at::Tensor& positions, const at::Tensor& cell,
                                     const at::Tensor& pbc, double cutoff, const OptionalTensor& batch);
UQFORCE_API void check_edge_vectors(const at::Tensor& positions, const at::Tensor& cell,
                                    const at::Tensor& edge_index, const at::Tensor& cell_shift,
                                    const OptionalTensor& batch);
UQFORCE_API void check_edge_vectors_backward(const at::Tensor& grad, const at::Tensor& edge_index,
                                             const at::Tensor& cell_shift, const OptionalTensor& batch,
                                             const c10::SymInt& num_atoms, const c10::SymInt& num_structures);

namespace neighbor_list {

// Some of four numbers: three and one that keeps them company fill one or two such registers on any
// processor.
template <typename T>
struct Register {
  static constexpr int numbers = 16 / sizeof(T);
  typedef T type __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
};
template <typename T>
inline typename Register<T>::type& at(T* p) {
  return *reinterpret_cast<typename Register<T>::type*>(p);
}
template <typename T>
inline const typename Register<T>::type& at(const T* p) {
  return *reinterpret_cast<const typename Register<T>::type*>(p);
}

// An end of an edge: the position of an atom as given, and how many cells away its image stands. A cache
// line.
template <typename T>
struct alignas(16) End {
  T position[4];
  int64_t shift[3];
  int64_t atom;
};

// The rows of a cell, filled up to four numbers.
template <typename T>
struct Cell {
  T rows[3][4] = {};

  Cell() = default;
  explicit Cell(const T* cell) {
    for (int k = 0; k < 9; ++k) rows[k / 3][k % 3] = cell[k];
  }
};

// The edge vector: (r_j - r_i) + shift @ cell, the last term only where the shift is not zero. Everything
// that needs one calls this: what is counted as a pair, what is returned, and what edge_vectors() gives are
// then equal to the last bit, and the vector of the reversed edge is exactly opposite. Four numbers are read
// of the positions and written to `vec`; the fourth means nothing.
template <typename T>
inline void edge_vector(const T* centre, const T* neighbor, int64_t shift_0, int64_t shift_1, int64_t shift_2,
                        const Cell<T>& cell, T* vec) {
  const bool moved = (shift_0 | shift_1 | shift_2) != 0;
  for (int k = 0; k < 4; k += Register<T>::numbers) {
    const auto difference = at(neighbor + k) - at(centre + k);
    at(vec + k) = moved ? difference + (T(shift_0) * at(cell.rows[0] + k) +
                                        T(shift_1) * at(cell.rows[1] + k) + T(shift_2) * at(cell.rows[2] + k))
                        : difference;
  }
}

// The rule of what a pair is: |edge_vec| < cutoff, of the edge vector as it is returned.
template <typename T>
inline bool is_pair(const T* vec, double cutoff) {
  const double x = vec[0], y = vec[1], z = vec[2];
  return x * x + y * y + z * z < cutoff * cutoff;
}

// The edge vector from end to end, with the shift, of which a fourth number is written too.
template <typename T>
inline void edge(const End<T>& i, const End<T>& j, const Cell<T>& cell, int64_t* shift, T* vec) {
  for (int k = 0; k < 4; k += 2) at(shift + k) = at(j.shift + k) - at(i.shift + k);
  edge_vector(i.position, j.position, j.shift[0] - i.shift[0], j.shift[1] - i.shift[1],
              j.shift[2] - i.shift[2], cell, vec);
}

}  // namespace neighbor_list
}  // namespace uqforce
