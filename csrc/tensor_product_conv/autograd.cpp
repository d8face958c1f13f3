// First and second derivatives of the tensor-product convolution.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "tensor_product_conv/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// The ops mark a gradient that was not asked for by an empty tensor, autograd by an undefined one.
Tensor undefined_unless(bool needed, const Tensor& gradient) { return needed ? gradient : Tensor(); }

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// Inputs: ddx, ddsh, ddw, grad, x, edge_sh, edge_weight, edge_index, spec, needs.
struct ConvDoubleBackward : Function<ConvDoubleBackward> {
  static variable_list forward(AutogradContext* /*ctx*/, const std::optional<Tensor>& ddx,
                               const std::optional<Tensor>& ddsh, const std::optional<Tensor>& ddw,
                               const Tensor& grad, const Tensor& x, const Tensor& edge_sh,
                               const Tensor& edge_weight, const Tensor& edge_index, at::IntArrayRef spec,
                               std::array<bool, 4> needs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dgrad, dx, dsh, dw] = tensor_product_conv_double_backward(ddx, ddsh, ddw, grad, x, edge_sh,
                                                                    edge_weight, edge_index, spec, needs);
    return {dgrad, dx, dsh, dw};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*cotangents*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "tensor_product_conv can be differentiated twice, not three times");
  }
};

// Inputs: grad, x, edge_sh, edge_weight, edge_index, spec, needs.
struct ConvBackward : Function<ConvBackward> {
  static variable_list forward(AutogradContext* ctx, const Tensor& grad, const Tensor& x,
                               const Tensor& edge_sh, const Tensor& edge_weight, const Tensor& edge_index,
                               at::IntArrayRef spec, std::array<bool, 3> needs) {
    ctx->save_for_backward({grad, x, edge_sh, edge_weight, edge_index});
    ctx->saved_data["spec"] = spec.vec();
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dx, dsh, dw] = tensor_product_conv_backward(grad, x, edge_sh, edge_weight, edge_index, spec, needs);
    variable_list not_computed;
    for (const auto& [needed, tensor] : {std::pair{needs[0], dx}, {needs[1], dsh}, {needs[2], dw}}) {
      if (!needed) not_computed.push_back(tensor);
    }
    ctx->mark_non_differentiable(not_computed);
    return {dx, dsh, dw};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const auto spec = ctx->saved_data["spec"].toIntVector();
    std::array<bool, 4> needs;
    for (size_t k = 0; k < needs.size(); ++k) needs[k] = ctx->needs_input_grad(k);
    auto [dgrad, dx, dsh, dw] = tensor_product_conv_double_backward(
        optional(cotangents[0]), optional(cotangents[1]), optional(cotangents[2]), saved[0], saved[1],
        saved[2], saved[3], saved[4], spec, needs);
    return {undefined_unless(needs[0], dgrad),
            undefined_unless(needs[1], dx),
            undefined_unless(needs[2], dsh),
            undefined_unless(needs[3], dw),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

// Inputs: x, edge_sh, edge_weight, edge_index, spec.
struct Conv : Function<Conv> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& edge_sh,
                        const Tensor& edge_weight, const Tensor& edge_index, at::IntArrayRef spec) {
    ctx->save_for_backward({x, edge_sh, edge_weight, edge_index});
    ctx->saved_data["spec"] = spec.vec();
    at::AutoDispatchBelowADInplaceOrView guard;
    return tensor_product_conv(x, edge_sh, edge_weight, edge_index, spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const auto spec = ctx->saved_data["spec"].toIntVector();
    std::array<bool, 3> needs;
    for (size_t k = 0; k < needs.size(); ++k) needs[k] = ctx->needs_input_grad(k);
    auto [dx, dsh, dw] =
        tensor_product_conv_backward(cotangents[0], saved[0], saved[1], saved[2], saved[3], spec, needs);
    return {undefined_unless(needs[0], dx), undefined_unless(needs[1], dsh), undefined_unless(needs[2], dw),
            Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight, const Tensor& edge_index,
                at::IntArrayRef spec) {
  return Conv::apply(x, edge_sh, edge_weight, edge_index, spec);
}

std::tuple<Tensor, Tensor, Tensor> autograd_backward(const Tensor& grad, const Tensor& x,
                                                     const Tensor& edge_sh, const Tensor& edge_weight,
                                                     const Tensor& edge_index, at::IntArrayRef spec,
                                                     std::array<bool, 3> needs) {
  const auto out = ConvBackward::apply(grad, x, edge_sh, edge_weight, edge_index, spec, needs);
  return {out[0], out[1], out[2]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> autograd_double_backward(
    const std::optional<Tensor>& ddx, const std::optional<Tensor>& ddsh, const std::optional<Tensor>& ddw,
    const Tensor& grad, const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight,
    const Tensor& edge_index, at::IntArrayRef spec, std::array<bool, 4> needs) {
  const auto out =
      ConvDoubleBackward::apply(ddx, ddsh, ddw, grad, x, edge_sh, edge_weight, edge_index, spec, needs);
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("tensor_product_conv", &autograd);
  m.impl("tensor_product_conv_backward", &autograd_backward);
  m.impl("tensor_product_conv_double_backward", &autograd_double_backward);
}

}  // namespace uqforce
