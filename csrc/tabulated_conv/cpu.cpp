// CPU implementation of the convolution's inference form: arguments in, threads, arrays out.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/in_turn.h"
#include "tabulated_conv/cpu_walk.h"

namespace uqforce {
namespace {

using at::Tensor;

template <typename T>
void walk_value(const Call<T>& call) {
  const auto cuts = call.blocks(call.edges.nodes);
  at::parallel_for(0, static_cast<int64_t>(cuts.size()) - 1, 1, [&](int64_t from, int64_t to) {
    Walker<T> walker(call, cuts[1], 0, 1);
    for (int64_t b = from; b < to; ++b) walker.value(cuts[b], cuts[b + 1]);
  });
}

// One thread's blocks of nodes, where other threads add to dx as well: a block's rows are written to a buffer
// first, and added when it is the block's turn.
template <typename T>
class BlockWalker {
 public:
  BlockWalker(const Call<T>& call, const std::vector<int64_t>& cuts, int64_t parts)
      : call_(call),
        cuts_(cuts),
        parts_(parts),
        walker_(call, cuts[1], 0, call.cotangents),
        nodes_(call.edges.most_edges(cuts)),
        rows_(call.cotangents * nodes_.size() * call.conv.conv.dim_in, /*zeroed=*/false) {}

  void work(int64_t block) noexcept {
    walker_.vjp(cuts_[block], cuts_[block + 1], rows_.data(), nodes_.data(), edge_count(block));
  }

  // Rows of the nodes that are `part` modulo `parts`.
  void finish(int64_t block, int64_t part) noexcept {
    const int64_t count = edge_count(block), in = call_.conv.conv.dim_in;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t node = nodes_[r];
      if (node < 0 || node % parts_ != part) continue;
      for (int64_t k = 0; k < call_.cotangents; ++k)
        walker_.add_row(rows_.data() + (k * count + r) * in, k, node);
    }
  }

 private:
  int64_t edge_count(int64_t block) const {
    return call_.edges.begin[cuts_[block + 1]] - call_.edges.begin[cuts_[block]];
  }

  const Call<T>& call_;
  const std::vector<int64_t>& cuts_;
  int64_t parts_;
  Walker<T> walker_;
  std::vector<int64_t> nodes_;
  Workspace<T> rows_;
};

// Edges of different centres add to the same row of dx, always in the order of the edges. One thread adds at
// once. More share the cotangents where those are many, at the price of rebuilding the weights several times;
// else the nodes, and add blocks in turn, each so small that its rows are still in a near cache.
template <typename T>
void walk_vjp(const Call<T>& call) {
  const int64_t nodes = call.edges.nodes, threads = at::get_num_threads();
  constexpr int64_t kLeastCotangents = 4;  // for a thread
  const bool many = call.cotangents >= kLeastCotangents * threads;
  if (call.dx && threads > 1 && !many) {
    constexpr int64_t kCacheBytes = 3 << 17, kParts = 8;
    const int64_t row_bytes = call.cotangents * call.conv.conv.dim_in * sizeof(T);
    const int64_t node_bytes = std::max<int64_t>(row_bytes * call.edges.begin[nodes] / nodes, 1);
    const auto cuts = call.blocks(std::max<int64_t>(kCacheBytes / node_bytes, 1));
    in_turn(static_cast<int64_t>(cuts.size()) - 1, kParts,
            [&] { return BlockWalker<T>(call, cuts, kParts); });
    return;
  }
  const auto cuts = call.blocks(nodes);
  const int64_t blocks = static_cast<int64_t>(cuts.size()) - 1;
  const auto walk = [&](int64_t from, int64_t to, int64_t first_cotangent, int64_t cotangents) {
    Walker<T> walker(call, cuts[1], first_cotangent, cotangents);
    for (int64_t b = from; b < to; ++b) walker.vjp(cuts[b], cuts[b + 1]);
  };
  if (call.dx) {
    at::parallel_for(0, call.cotangents, kLeastCotangents,
                     [&](int64_t first, int64_t end) { walk(0, blocks, first, end - first); });
  } else {
    at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) { walk(from, to, 0, call.cotangents); });
  }
}

Tensor value(const Tensor& x, const Tensor& edge_vec, const Tensor& edge_index, const Tensor& atom_types,
             const Tensor& cutoffs, const Tensor& table, const Tensor& linear, at::IntArrayRef conv_spec,
             at::IntArrayRef linear_spec) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec,
                           linear_spec);
  const Tensor out = conv.map.covers_out ? at::empty({x.size(0), conv.map.dim_out}, x.options())
                                         : at::zeros({x.size(0), conv.map.dim_out}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "tabulated_conv", [&] {
    Call<scalar_t> call(conv, &conv::CouplingKernels<scalar_t>::forward);
    call.out = out.mutable_data_ptr<scalar_t>();
    walk_value(call);
  });
  return out;
}

std::tuple<Tensor, Tensor> vjp(const Tensor& cotangents, const Tensor& x, const Tensor& edge_vec,
                               const Tensor& edge_index, const Tensor& atom_types, const Tensor& cutoffs,
                               const Tensor& table, const Tensor& linear_transposed,
                               at::IntArrayRef conv_spec, at::IntArrayRef linear_spec, bool needs_x) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear_transposed, conv_spec,
                           linear_spec);
  conv.check_cotangents(cotangents);
  const int64_t k = cotangents.size(0);
  const Tensor given = cotangents.contiguous(),
               dx = at::zeros({needs_x ? k : 0, x.size(0), x.size(1)}, x.options()),
               dvec = at::zeros({k, edge_vec.size(0), 3}, x.options());
  if (k == 0 || x.size(0) == 0) return {dx, dvec};
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "tabulated_conv_vjp", [&] {
    Call<scalar_t> call(conv, &conv::CouplingKernels<scalar_t>::backward);
    call.cotangents = k;
    call.cotangent = given.const_data_ptr<scalar_t>();
    call.dx = needs_x ? dx.mutable_data_ptr<scalar_t>() : nullptr;
    call.dvec = dvec.mutable_data_ptr<scalar_t>();
    walk_vjp(call);
  });
  return {dx, dvec};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("tabulated_conv", &value);
  m.impl("tabulated_conv_vjp", &vjp);
}

}  // namespace uqforce
