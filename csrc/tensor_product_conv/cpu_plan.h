// What one call of a CPU kernel does: the units of work of a spec, and the walk over edges.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <vector>

#include "tensor_product_conv/cpu_kernels.h"
#include "tensor_product_conv/op.h"

namespace uqforce::conv {

// Edges by centre: those of centre i are order[begin[i]], ..., order[begin[i + 1] - 1].
struct EdgesByCentre {
  at::Tensor index;         // edge_index, contiguous
  at::Tensor sorted_order;  // undefined where the edges are sorted already
  std::vector<int64_t> begin;
  int64_t nodes;
  const int64_t* neighbour;  // of an edge
  const int64_t* order;      // null where the edges are sorted already

  // IndexError if an index is outside 0..nodes-1. Sorts, stably, if the centres are not ascending.
  EdgesByCentre(const at::Tensor& edge_index, int64_t nodes);
  int64_t edge(int64_t position) const { return order == nullptr ? position : order[position]; }

  // Centres cut into slices of about `size` edges: slice k is [cuts[k], cuts[k + 1]).
  std::vector<int64_t> cuts(int64_t size) const;
  int64_t most_edges(const std::vector<int64_t>& cuts) const;  // of a slice
};

inline constexpr int64_t kLine = 64;  // bytes of a cache line

// The units of an op, nearly in the order of the paths: weights are read and written almost in the order of
// memory, and paths of one input, which follow one another, find it in a near cache.
template <typename T>
struct Plan {
  struct Step {
    typename CouplingKernels<T>::UnitKernel kernel;
    Unit unit;
  };
  struct Coupling {
    const CouplingKernels<T>* kernels;
    int64_t sh_offset, matrix;
  };
  using Op = typename CouplingKernels<T>::Op;

  std::vector<Step> steps;
  std::vector<Coupling> couplings;  // distinct ones
  std::vector<int64_t> unwritten;   // columns of x that no unit is the first of
  std::deque<Unit> linked;          // what the units of steps are linked to
  int64_t matrix_size = 0;          // of all couplings, [pairs, kChunk] each

  // grouped: steps may walk several paths together, else each walks one.
  Plan(const ConvSpec& spec, const Kernels<T>& kernels, Op CouplingKernels<T>::*op, bool grouped = false);
  Plan(const Plan&) = delete;  // units are linked by their addresses

 private:
  int64_t matrix_of(const CouplingKernels<T>& coupling, int64_t l2);
};

// The kernels of the instruction set in use.
template <typename T>
const Kernels<T>& active_kernels();

// Arrays of a call; null where absent (inputs, meaning zero) or not wanted (outputs). dx is added to.
template <typename T>
struct Arrays {
  const T *x, *sh, *weight, *grad, *ddx, *ddsh, *ddw;
  T *out, *dx, *dsh, *dw;
};

// Walks all edges, on all threads. What is computed depends neither on their number nor on the slices.
template <typename T>
void walk(const ConvSpec& spec, const Kernels<T>& kernels, const Plan<T>& plan, const EdgesByCentre& edges,
          const Arrays<T>& arrays);

}  // namespace uqforce::conv
