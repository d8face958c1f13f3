// Launchers of cuda.cu and cuda_edge_vectors.cu, called by cuda_op.cpp; pointers to device memory, row-major
// and contiguous.
#pragma once

#include <cstdint>

namespace uqforce::neighbor_list {

// What a list is refused for, in the order in which it is looked at.
enum class Fault : int64_t { structure, order, cell, volume, position, distance, images, none };

// A fault and the atom or structure it was found at, in one number: the smallest is the first.
constexpr int kFaultBits = 48;
constexpr uint64_t kNoFault = uint64_t(Fault::none) << kFaultBits;

template <typename T>
struct Problem {
  int64_t atoms, structures;
  double cutoff;
  const T* positions;    // [atoms, 3]
  const T* cell;         // [structures, 3, 3]
  const bool* pbc;       // [structures, 3]
  const int64_t* batch;  // [atoms], or null: one structure
  void* workspace;       // of workspace_bytes(), kept from count() to write()
  int64_t* first_edge;   // [atoms + 2]: of each atom; the number of edges; the fault
  double* images;        // [structures]: about so many has each
};

// The arrays written.
template <typename T>
struct EdgeList {
  int64_t *centre, *neighbor, *shift;
  T* vec;
};

int64_t workspace_bytes(int64_t atoms, int64_t structures);

// Fills first_edge and images.
template <typename T>
void count(const Problem<T>& problem, void* stream);
// Fills the edges, whose number is now known.
template <typename T>
void write(const Problem<T>& problem, const EdgeList<T>& edges, void* stream);

template <typename T>
struct EdgeVectors {
  int64_t atoms, structures, edges;
  const int64_t *centre, *neighbor;  // [edges]
  const int64_t* shift;              // [edges, 3]
  const int64_t* batch;              // [atoms], or null: one structure
};

// vec [edges, 3]; NaN for an edge that names an atom or a structure that does not exist.
template <typename T>
void edge_vectors(const EdgeVectors<T>& edges, const T* positions, const T* cell, T* vec, void* stream);

// grad [edges, 3] -> grad_positions [atoms, 3] and grad_cell [structures, 3, 3], or NaN, as above.
int64_t backward_bytes(int64_t atoms, int64_t structures, int64_t edges);
template <typename T>
void edge_vectors_backward(const EdgeVectors<T>& edges, const T* grad, T* grad_positions, T* grad_cell,
                           void* workspace, void* stream);

}  // namespace uqforce::neighbor_list
