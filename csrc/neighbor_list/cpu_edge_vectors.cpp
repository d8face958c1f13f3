// Edge vectors and their gradient on the CPU. Sums run in the order of the edges, whoever computes them, so
// the result does not depend on the number of threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

#include "neighbor_list/op.h"

namespace uqforce {
namespace {

constexpr int64_t kGrain = 4096;  // edges

// The edges, with the index checks every walk over them makes.
struct Edges {
  at::Tensor edge_index, cell_shift, batch;
  const int64_t *centre, *neighbor, *shift, *structure_of_atom;
  int64_t size, num_atoms, num_structures;

  Edges(const at::Tensor& index, const at::Tensor& shifts, const OptionalTensor& of_atom, int64_t atoms,
        int64_t structures)
      : edge_index(index.contiguous()),
        cell_shift(shifts.contiguous()),
        batch(of_atom ? of_atom->contiguous() : at::Tensor()),
        centre(edge_index.const_data_ptr<int64_t>()),
        neighbor(centre + edge_index.size(1)),
        shift(cell_shift.const_data_ptr<int64_t>()),
        structure_of_atom(of_atom ? batch.const_data_ptr<int64_t>() : nullptr),
        size(edge_index.size(1)),
        num_atoms(atoms),
        num_structures(structures) {
    at::parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; ++e) check(e);
    });
  }

  int64_t structure(int64_t e) const { return structure_of_atom ? structure_of_atom[centre[e]] : 0; }

 private:
  void check(int64_t e) const {
    for (int64_t row = 0; row < 2; ++row) {
      const int64_t atom = row == 0 ? centre[e] : neighbor[e];
      TORCH_CHECK_INDEX(atom >= 0 && atom < num_atoms, "edge_index[", row, ", ", e, "] is ", atom,
                        " but there are ", num_atoms, " atoms: use 0 to ", num_atoms - 1);
    }
    const int64_t b = structure(e);
    TORCH_CHECK_INDEX(b >= 0 && b < num_structures, "batch[", centre[e], "] is ", b, " but there are ",
                      num_structures, " structures: use 0 to ", num_structures - 1);
  }
};

template <typename T>
at::Tensor edge_vectors_typed(const at::Tensor& positions, const at::Tensor& cell, const Edges& edges) {
  at::Tensor out = at::empty({edges.size, 3}, positions.options());
  const T* r = positions.const_data_ptr<T>();
  const T* box = cell.const_data_ptr<T>();
  T* vec = out.mutable_data_ptr<T>();
  at::parallel_for(0, edges.size, kGrain, [&](int64_t begin, int64_t end) {
    neighbor_list::Cell<T> rows;
    for (int64_t e = begin, last = -1; e < end; ++e) {
      const int64_t structure = edges.structure(e);
      if (structure != last) rows = neighbor_list::Cell<T>(box + 9 * structure);
      last = structure;
      T i[4] = {}, j[4] = {}, edge[4];
      std::copy_n(r + 3 * edges.centre[e], 3, i);
      std::copy_n(r + 3 * edges.neighbor[e], 3, j);
      const int64_t* shift = edges.shift + 3 * e;
      neighbor_list::edge_vector(i, j, shift[0], shift[1], shift[2], rows, edge);
      std::copy_n(edge, 3, vec + 3 * e);
    }
  });
  return out;
}

// Every thread owns some atoms and walks over all edges: no atomics, no copies of the result, any edge order.
template <typename T>
void sum_to_atoms(const T* grad, const Edges& edges, T* grad_positions) {
  const int64_t threads = edges.size < kGrain || at::in_parallel_region() ? 1 : at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = edges.num_atoms * begin / threads, last = edges.num_atoms * end / threads;
    for (int64_t e = 0; e < edges.size; ++e) {
      const int64_t i = edges.centre[e], j = edges.neighbor[e];
      if (i >= first && i < last) {
        for (int k = 0; k < 3; ++k) grad_positions[3 * i + k] -= grad[3 * e + k];
      }
      if (j >= first && j < last) {
        for (int k = 0; k < 3; ++k) grad_positions[3 * j + k] += grad[3 * e + k];
      }
    }
  });
}

// The sum over a run of edges of one structure.
template <typename T>
struct CellSum {
  int64_t structure;
  T value[9];
};

// Blocks of edges are summed on their own and then added up in order.
template <typename T>
void sum_to_cells(const T* grad, const Edges& edges, T* grad_cell) {
  const int64_t num_blocks = (edges.size + kGrain - 1) / kGrain;
  std::vector<std::vector<CellSum<T>>> blocks(num_blocks);
  at::parallel_for(0, num_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      auto& sums = blocks[block];
      for (int64_t e = block * kGrain; e < std::min(edges.size, (block + 1) * kGrain); ++e) {
        const int64_t* shift = edges.shift + 3 * e;
        if ((shift[0] | shift[1] | shift[2]) == 0) continue;
        const int64_t structure = edges.structure(e);
        if (sums.empty() || sums.back().structure != structure) sums.push_back({structure, {}});
        T* value = sums.back().value;
        for (int row = 0; row < 3; ++row) {
          for (int k = 0; k < 3; ++k) value[3 * row + k] += T(shift[row]) * grad[3 * e + k];
        }
      }
    }
  });
  for (const auto& sums : blocks) {
    for (const auto& sum : sums) {
      for (int k = 0; k < 9; ++k) grad_cell[9 * sum.structure + k] += sum.value[k];
    }
  }
}

at::Tensor edge_vectors_cpu(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& edge_index,
                            const at::Tensor& cell_shift, const OptionalTensor& batch) {
  check_edge_vectors(positions, cell, edge_index, cell_shift, batch);
  const Edges edges(edge_index, cell_shift, batch, positions.size(0), cell.size(0));
  return AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "edge_vectors", [&] {
    return edge_vectors_typed<scalar_t>(positions.contiguous(), cell.contiguous(), edges);
  });
}

std::tuple<at::Tensor, at::Tensor> edge_vectors_backward_cpu(const at::Tensor& grad,
                                                             const at::Tensor& edge_index,
                                                             const at::Tensor& cell_shift,
                                                             const OptionalTensor& batch, int64_t num_atoms,
                                                             int64_t num_structures) {
  check_edge_vectors_backward(grad, edge_index, cell_shift, batch, num_atoms, num_structures);
  const Edges edges(edge_index, cell_shift, batch, num_atoms, num_structures);
  const at::Tensor contiguous = grad.contiguous();
  at::Tensor grad_positions = at::zeros({num_atoms, 3}, grad.options());
  at::Tensor grad_cell = at::zeros({num_structures, 3, 3}, grad.options());
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "edge_vectors_backward", [&] {
    const scalar_t* g = contiguous.const_data_ptr<scalar_t>();
    sum_to_atoms(g, edges, grad_positions.mutable_data_ptr<scalar_t>());
    sum_to_cells(g, edges, grad_cell.mutable_data_ptr<scalar_t>());
  });
  return {grad_positions, grad_cell};
}

}  // namespace
}  // namespace uqforce

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("edge_vectors", &uqforce::edge_vectors_cpu);
  m.impl("edge_vectors_backward", &uqforce::edge_vectors_backward_cpu);
}
