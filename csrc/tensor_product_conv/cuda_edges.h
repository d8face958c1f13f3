// What the CUDA ops of both convolutions need of a graph, in memory of torch.
#pragma once

#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

#include "common/cuda_groups.h"
#include "tensor_product_conv/cuda.h"
#include "tensor_product_conv/passes.h"

namespace uqforce::conv {

// What does not fit the lists, or has nothing to do. Returns whether there are nodes.
inline bool check_sizes(const at::Tensor& x, const at::Tensor& edge_index) {
  TORCH_CHECK_INDEX(x.size(0) > 0 || edge_index.size(1) == 0, "edge_index has ", edge_index.size(1),
                    " edges but x has no nodes");
  constexpr int64_t most = std::numeric_limits<int>::max() / 4;
  TORCH_CHECK_VALUE(x.size(0) < most && edge_index.size(1) < most, "at most ", most - 1,
                    " nodes and edges on CUDA, got ", x.size(0), " and ", edge_index.size(1));
  return x.size(0) > 0;
}

struct Edges {
  at::Tensor index, memory;
  EdgeLists lists;
  Groups by_neighbour;  // of places in the lists; empty if not wanted

  Edges(const at::Tensor& edge_index, int64_t nodes, bool wants_neighbours, void* stream)
      : index(edge_index.contiguous()) {
    const int64_t edges = index.size(1);
    const auto lay_out = [&](void* at) {
      Layout layout(at);
      lists = EdgeLists(layout, nodes, edges);
      if (wants_neighbours) by_neighbour = Groups(layout, edges, nodes);
      return layout.bytes();
    };
    memory = at::empty({lay_out(nullptr)}, index.options().dtype(at::kByte));
    lay_out(memory.mutable_data_ptr());
    const int64_t* const centre = index.const_data_ptr<int64_t>();
    list_edges(centre, centre + edges, lists, stream);
    if (wants_neighbours) group(lists.neighbour, nullptr, by_neighbour, lists.bad, stream);
  }

  // Passes, where each edge leaves `bytes` behind. Only large systems ask the driver for the free memory.
  Passes passes(int64_t bytes) const {
    const bool small = lists.edges * bytes <= kLeastWorkspace;
    return plan_passes(lists.edges, bytes, small ? 0 : free_memory());
  }
};

}  // namespace uqforce::conv
