// Edge vectors are linear in positions and cell, so three maps close under differentiation: the gradient of
// neighbor_list and of edge_vectors is edge_vectors_backward, whose gradient is edge_vectors again. Gradients
// that are absent arrive as zeros (Function's default).
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "neighbor_list/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::tuple<Tensor, Tensor, Tensor> call_neighbor_list(const Tensor& positions, const Tensor& cell,
                                                      const Tensor& pbc, double cutoff,
                                                      const OptionalTensor& batch) {
  static const auto handle = op<decltype(call_neighbor_list)>("uqforce::neighbor_list");
  return handle.call(positions, cell, pbc, cutoff, batch);
}

Tensor call_edge_vectors(const Tensor& positions, const Tensor& cell, const Tensor& edge_index,
                         const Tensor& cell_shift, const OptionalTensor& batch) {
  static const auto handle = op<decltype(call_edge_vectors)>("uqforce::edge_vectors");
  return handle.call(positions, cell, edge_index, cell_shift, batch);
}

std::tuple<Tensor, Tensor> call_edge_vectors_backward(const Tensor& grad, const Tensor& edge_index,
                                                      const Tensor& cell_shift, const OptionalTensor& batch,
                                                      c10::SymInt num_atoms, c10::SymInt num_structures) {
  static const auto handle = op<decltype(call_edge_vectors_backward)>("uqforce::edge_vectors_backward");
  return handle.call(grad, edge_index, cell_shift, batch, std::move(num_atoms), std::move(num_structures));
}

// What the three functions keep: the edges, and the sizes of the atoms and structures they belong to.
void save_edges(AutogradContext* ctx, const Tensor& edge_index, const Tensor& cell_shift,
                const OptionalTensor& batch, const c10::SymInt& num_atoms,
                const c10::SymInt& num_structures) {
  ctx->save_for_backward({edge_index, cell_shift, batch.value_or(Tensor())});
  ctx->saved_data["num_atoms"] = num_atoms;
  ctx->saved_data["num_structures"] = num_structures;
}

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

std::tuple<Tensor, Tensor> gradients(AutogradContext* ctx, const Tensor& grad) {
  const variable_list saved = ctx->get_saved_variables();
  return call_edge_vectors_backward(grad, saved[0], saved[1], optional(saved[2]),
                                    ctx->saved_data["num_atoms"].toSymInt(),
                                    ctx->saved_data["num_structures"].toSymInt());
}

struct NeighborList : torch::autograd::Function<NeighborList> {
  static variable_list forward(AutogradContext* ctx, const Tensor& positions, const Tensor& cell,
                               const Tensor& pbc, double cutoff, const OptionalTensor& batch) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [edge_index, cell_shift, edge_vec] = call_neighbor_list(positions, cell, pbc, cutoff, batch);
    ctx->mark_non_differentiable({edge_index, cell_shift});
    save_edges(ctx, edge_index, cell_shift, batch, positions.sym_size(0), cell.sym_size(0));
    return {edge_index, cell_shift, edge_vec};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto [grad_positions, grad_cell] = gradients(ctx, grads[2]);
    return {grad_positions, grad_cell, Tensor(), Tensor(), Tensor()};
  }
};

struct EdgeVectors : torch::autograd::Function<EdgeVectors> {
  static Tensor forward(AutogradContext* ctx, const Tensor& positions, const Tensor& cell,
                        const Tensor& edge_index, const Tensor& cell_shift, const OptionalTensor& batch) {
    at::AutoDispatchBelowADInplaceOrView guard;
    save_edges(ctx, edge_index, cell_shift, batch, positions.sym_size(0), cell.sym_size(0));
    return call_edge_vectors(positions, cell, edge_index, cell_shift, batch);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto [grad_positions, grad_cell] = gradients(ctx, grads[0]);
    return {grad_positions, grad_cell, Tensor(), Tensor(), Tensor()};
  }
};

struct EdgeVectorsBackward : torch::autograd::Function<EdgeVectorsBackward> {
  static variable_list forward(AutogradContext* ctx, const Tensor& grad, const Tensor& edge_index,
                               const Tensor& cell_shift, const OptionalTensor& batch,
                               const c10::SymInt& num_atoms, const c10::SymInt& num_structures) {
    at::AutoDispatchBelowADInplaceOrView guard;
    save_edges(ctx, edge_index, cell_shift, batch, num_atoms, num_structures);
    auto [grad_positions, grad_cell] =
        call_edge_vectors_backward(grad, edge_index, cell_shift, batch, num_atoms, num_structures);
    return {grad_positions, grad_cell};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    variable_list out(6);
    out[0] = call_edge_vectors(grads[0], grads[1], saved[0], saved[1], optional(saved[2]));
    return out;
  }
};

std::tuple<Tensor, Tensor, Tensor> neighbor_list_autograd(const Tensor& positions, const Tensor& cell,
                                                          const Tensor& pbc, double cutoff,
                                                          const OptionalTensor& batch) {
  check_neighbor_list(positions, cell, pbc, cutoff, batch);
  const auto out = NeighborList::apply(positions, cell, pbc, cutoff, batch);
  return {out[0], out[1], out[2]};
}

Tensor edge_vectors_autograd(const Tensor& positions, const Tensor& cell, const Tensor& edge_index,
                             const Tensor& cell_shift, const OptionalTensor& batch) {
  return EdgeVectors::apply(positions, cell, edge_index, cell_shift, batch);
}

std::tuple<Tensor, Tensor> edge_vectors_backward_autograd(const Tensor& grad, const Tensor& edge_index,
                                                          const Tensor& cell_shift,
                                                          const OptionalTensor& batch, c10::SymInt num_atoms,
                                                          c10::SymInt num_structures) {
  const auto out = EdgeVectorsBackward::apply(grad, edge_index, cell_shift, batch, num_atoms, num_structures);
  return {out[0], out[1]};
}

}  // namespace
}  // namespace uqforce

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("neighbor_list", &uqforce::neighbor_list_autograd);
  m.impl("edge_vectors", &uqforce::edge_vectors_autograd);
  m.impl("edge_vectors_backward", &uqforce::edge_vectors_backward_autograd);
}
