// CUDA kernels of the edge vectors of given edges, and of their gradient.
#include <cmath>

#include "common/cuda.h"
#include "common/cuda_groups.h"
#include "common/cuda_layout.h"
#include "neighbor_list/cuda.h"
#include "neighbor_list/cuda_edge.h"

namespace uqforce::neighbor_list {
namespace {

template <typename T>
__global__ void vectors(EdgeVectors<T> a, const T* positions, const T* cell, T* out) {
  const int64_t e = global_thread();
  if (e >= a.edges) return;
  const int64_t i = a.centre[e], j = a.neighbor[e];
  const bool good = 0 <= i && i < a.atoms && 0 <= j && j < a.atoms;
  const int64_t structure = good && a.batch != nullptr ? a.batch[i] : 0;
  T vec[3] = {T(NAN), T(NAN), T(NAN)};
  if (good && 0 <= structure && structure < a.structures) {
    const int64_t shift[3] = {a.shift[3 * e], a.shift[3 * e + 1], a.shift[3 * e + 2]};
    edge_vector(positions + 3 * i, positions + 3 * j, shift, cell + 9 * structure, vec);
  }
  for (int k = 0; k < 3; ++k) out[3 * e + k] = vec[k];
}

// A warp sums the edges of an atom: for its position, and of those that it is the centre of, for the cell.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_to_atoms(Graph graph, const int64_t* shift, const T* grad, T* grad_positions, T* cells) {
  const int64_t i = global_thread() / kWarp;
  if (i >= graph.atoms) return;
  const int lane = threadIdx.x % kWarp;
  T sums[12] = {};  // position, cell
  const Groups &by_centre = graph.lists.by_centre, &by_neighbour = graph.by_neighbour;
  for (int k = by_centre.begin[i] + lane; k < by_centre.begin[i + 1]; k += kWarp) {
    const int64_t e = by_centre.order[k];
    for (int c = 0; c < 3; ++c) {
      const T g = grad[3 * e + c];
      sums[c] -= g;
      for (int row = 0; row < 3; ++row) sums[3 + 3 * row + c] += T(shift[3 * e + row]) * g;
    }
  }
  for (int k = by_neighbour.begin[i] + lane; k < by_neighbour.begin[i + 1]; k += kWarp) {
    const int64_t e = by_neighbour.order[k];
    for (int c = 0; c < 3; ++c) sums[c] += grad[3 * e + c];
  }
  const T sum = warp_sum(sums, shared_memory<T>() + threadIdx.x / kWarp * warp_sum_size(12));
  if (lane < 3) grad_positions[3 * i + lane] = *graph.bad ? T(NAN) : sum;
  if (3 <= lane && lane < 12) cells[9 * i + lane - 3] = sum;
}

template <typename T>
__global__ void store_cells(Graph graph, const double* sums, T* grad_cell) {
  const int64_t k = global_thread();
  if (k < 9 * graph.structures) grad_cell[k] = *graph.bad ? T(NAN) : T(sums[k]);
}

// Workspace of the gradient.
template <typename T>
struct Workspace {
  Layout layout;
  Graph graph;
  T* cells;
  double *chunks, *sums;
  int64_t bytes;

  Workspace(void* memory, int64_t atoms, int64_t structures, int64_t edges)
      : layout(memory), graph(layout, atoms, edges, structures) {
    cells = layout.take<T>(9 * atoms);
    chunks = layout.take<double>(sum_rows_size(atoms, structures, 9));
    sums = layout.take<double>(9 * structures);
    bytes = layout.bytes();
  }
};

}  // namespace

template <typename T>
void edge_vectors(const EdgeVectors<T>& edges, const T* positions, const T* cell, T* vec, void* stream) {
  launch("edge_vectors", vectors<T>, blocks_of(edges.edges), kThreads, 0, stream, edges, positions, cell,
         vec);
}

int64_t backward_bytes(int64_t atoms, int64_t structures, int64_t edges) {
  return Workspace<double>(nullptr, atoms, structures, edges).bytes;
}

template <typename T>
void edge_vectors_backward(const EdgeVectors<T>& edges, const T* grad, T* grad_positions, T* grad_cell,
                           void* workspace, void* stream) {
  Workspace<T> w(workspace, edges.atoms, edges.structures, edges.edges);
  const Graph& graph = w.graph;
  make_graph(w.graph, edges.centre, edges.neighbor, edges.batch, stream);
  launch("edge_vectors_backward", sum_to_atoms<T>, blocks_of(edges.atoms * kWarp), kThreads,
         kThreads / kWarp * warp_sum_size(12) * sizeof(T), stream, graph, edges.shift, grad, grad_positions,
         w.cells);
  sum_by_structure(graph, w.cells, 9, w.chunks, w.sums, stream);
  launch("edge_vectors_backward", store_cells<T>, blocks_of(9 * edges.structures), kThreads, 0, stream, graph,
         w.sums, grad_cell);
}

#define UQFORCE_INSTANTIATE(T)                                                      \
  template void edge_vectors(const EdgeVectors<T>&, const T*, const T*, T*, void*); \
  template void edge_vectors_backward(const EdgeVectors<T>&, const T*, T*, T*, void*, void*);
UQFORCE_INSTANTIATE(float)
UQFORCE_INSTANTIATE(double)

}  // namespace uqforce::neighbor_list
