// First derivatives of the convolution's inference form, in x and edge_vec.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "tabulated_conv/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// The table and the linear map are constants: training is done with the networks that they were made from.
void check_constants(std::initializer_list<std::pair<const Tensor&, const char*>> tensors) {
  for (const auto& [tensor, name] : tensors) {
    TORCH_CHECK(!tensor.requires_grad(), name,
                " requires a gradient, which tabulated_conv does not have: it is the inference form of "
                "tensor_product_conv, which has them all");
  }
}

// Inputs: x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec, linear_spec.
struct Tabulated : Function<Tabulated> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& edge_vec,
                        const Tensor& edge_index, const Tensor& atom_types, const Tensor& cutoffs,
                        const Tensor& table, const Tensor& linear, at::IntArrayRef conv_spec,
                        at::IntArrayRef linear_spec) {
    ctx->save_for_backward({x, edge_vec, edge_index, atom_types, cutoffs, table, linear});
    ctx->saved_data["conv_spec"] = conv_spec.vec();
    ctx->saved_data["linear_spec"] = linear_spec.vec();
    at::AutoDispatchBelowADInplaceOrView guard;
    return tabulated_conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec,
                          linear_spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const auto conv_spec = ctx->saved_data["conv_spec"].toIntVector();
    const auto linear_spec = ctx->saved_data["linear_spec"].toIntVector();
    auto [dx, dvec] = tabulated_conv_vjp(
        cotangents[0].unsqueeze(0), saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
        BlockSpec::parse(linear_spec).transpose(saved[6]), conv_spec, linear_spec, ctx->needs_input_grad(0));
    variable_list gradients(9);
    if (ctx->needs_input_grad(0)) gradients[0] = dx.squeeze(0);
    if (ctx->needs_input_grad(1)) gradients[1] = dvec.squeeze(0);
    return gradients;
  }
};

// Inputs: cotangents and those of Tabulated.
struct TabulatedVjp : Function<TabulatedVjp> {
  static variable_list forward(AutogradContext* /*ctx*/, const Tensor& cotangents, const Tensor& x,
                               const Tensor& edge_vec, const Tensor& edge_index, const Tensor& atom_types,
                               const Tensor& cutoffs, const Tensor& table, const Tensor& linear_transposed,
                               at::IntArrayRef conv_spec, at::IntArrayRef linear_spec, bool needs_x) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dx, dvec] = tabulated_conv_vjp(cotangents, x, edge_vec, edge_index, atom_types, cutoffs, table,
                                         linear_transposed, conv_spec, linear_spec, needs_x);
    return {dx, dvec};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*cotangents*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false,
                                "tabulated_conv can be differentiated once: train with the networks, whose "
                                "tensor_product_conv can be differentiated twice");
  }
};

Tensor autograd(const Tensor& x, const Tensor& edge_vec, const Tensor& edge_index, const Tensor& atom_types,
                const Tensor& cutoffs, const Tensor& table, const Tensor& linear, at::IntArrayRef conv_spec,
                at::IntArrayRef linear_spec) {
  check_constants({{cutoffs, "cutoffs"}, {table, "table"}, {linear, "linear"}});
  return Tabulated::apply(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec,
                          linear_spec);
}

std::tuple<Tensor, Tensor> autograd_vjp(const Tensor& cotangents, const Tensor& x, const Tensor& edge_vec,
                                        const Tensor& edge_index, const Tensor& atom_types,
                                        const Tensor& cutoffs, const Tensor& table,
                                        const Tensor& linear_transposed, at::IntArrayRef conv_spec,
                                        at::IntArrayRef linear_spec, bool needs_x) {
  check_constants({{cutoffs, "cutoffs"}, {table, "table"}, {linear_transposed, "linear_transposed"}});
  const auto out = TabulatedVjp::apply(cotangents, x, edge_vec, edge_index, atom_types, cutoffs, table,
                                       linear_transposed, conv_spec, linear_spec, needs_x);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("tabulated_conv", &autograd);
  m.impl("tabulated_conv_vjp", &autograd_vjp);
}

}  // namespace uqforce
