// First and second derivatives of the gate. That of K cotangents at once is for inference and has none.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "gate/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void save(AutogradContext* ctx, variable_list tensors, at::IntArrayRef spec, double silu_factor,
          double tanh_factor) {
  ctx->save_for_backward(std::move(tensors));
  ctx->saved_data["spec"] = spec;
  ctx->saved_data["silu_factor"] = silu_factor;
  ctx->saved_data["tanh_factor"] = tanh_factor;
}

// Inputs: ddx, grad, x, spec, silu_factor, tanh_factor, needs.
struct GateDoubleBackward : Function<GateDoubleBackward> {
  static variable_list forward(AutogradContext* /*ctx*/, const Tensor& ddx, const Tensor& grad,
                               const Tensor& x, at::IntArrayRef spec, double silu_factor, double tanh_factor,
                               std::array<bool, 2> needs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dgrad, dx] = gate_double_backward(ddx, grad, x, spec, silu_factor, tanh_factor, needs);
    return {dgrad, dx};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*cotangents*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "gate can be differentiated twice, not three times");
  }
};

// Inputs: grad, x, spec, silu_factor, tanh_factor.
struct GateBackward : Function<GateBackward> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad, const Tensor& x, at::IntArrayRef spec,
                        double silu_factor, double tanh_factor) {
    save(ctx, {grad, x}, spec, silu_factor, tanh_factor);
    at::AutoDispatchBelowADInplaceOrView guard;
    return gate_backward(grad, x, spec, silu_factor, tanh_factor);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    TORCH_CHECK_NOT_IMPLEMENTED(saved[0].dim() == 2,
                                "gate_backward of K cotangents at once is not differentiable");
    const std::array<bool, 2> needs = {ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    auto [dgrad, dx] = gate_double_backward(
        cotangents[0], saved[0], saved[1], ctx->saved_data["spec"].toIntVector(),
        ctx->saved_data["silu_factor"].toDouble(), ctx->saved_data["tanh_factor"].toDouble(), needs);
    return {needs[0] ? dgrad : Tensor(), needs[1] ? dx : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Inputs: x, spec, silu_factor, tanh_factor.
struct Gate : Function<Gate> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::IntArrayRef spec, double silu_factor,
                        double tanh_factor) {
    save(ctx, {x}, spec, silu_factor, tanh_factor);
    at::AutoDispatchBelowADInplaceOrView guard;
    return gate(x, spec, silu_factor, tanh_factor);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    return {
        gate_backward(cotangents[0], saved[0], ctx->saved_data["spec"].toIntVector(),
                      ctx->saved_data["silu_factor"].toDouble(), ctx->saved_data["tanh_factor"].toDouble()),
        Tensor(), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, at::IntArrayRef spec, double silu_factor, double tanh_factor) {
  return Gate::apply(x, spec, silu_factor, tanh_factor);
}

Tensor autograd_backward(const Tensor& grad, const Tensor& x, at::IntArrayRef spec, double silu_factor,
                         double tanh_factor) {
  return GateBackward::apply(grad, x, spec, silu_factor, tanh_factor);
}

std::tuple<Tensor, Tensor> autograd_double_backward(const Tensor& ddx, const Tensor& grad, const Tensor& x,
                                                    at::IntArrayRef spec, double silu_factor,
                                                    double tanh_factor, std::array<bool, 2> needs) {
  const auto out = GateDoubleBackward::apply(ddx, grad, x, spec, silu_factor, tanh_factor, needs);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("gate", &autograd);
  m.impl("gate_backward", &autograd_backward);
  m.impl("gate_double_backward", &autograd_double_backward);
}

}  // namespace uqforce
