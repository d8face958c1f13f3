// Derivatives with respect to the features; the mixture's parameters are constants.
//
// gmm_nll is computed together with its gradient whenever the features require one: the two share the
// expensive triangular products. The gradient is an output of the same node, so that the node's own backward,
// which multiplies by the Hessian (gmm_nll_hvp), is also the double backward of gmm_nll.
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "gmm_nll/op.h"

namespace uqforce::gmm_nll {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_constant(const Tensor& means, const Tensor& precisions_cholesky, const Tensor& log_weights) {
  const std::pair<const Tensor&, const char*> parameters[] = {
      {means, "means"}, {precisions_cholesky, "precisions_cholesky"}, {log_weights, "log_weights"}};
  for (const auto& [tensor, name] : parameters) {
    TORCH_CHECK(!(at::GradMode::is_enabled() && tensor.requires_grad()), "gmm_nll: ", name,
                " requires a gradient, but the mixture's parameters are constants: pass ", name, ".detach()");
  }
}

struct HvpFunction : torch::autograd::Function<HvpFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& features, const Tensor& means,
                        const Tensor& precisions_cholesky, const Tensor& log_weights, const Tensor& vector) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({features, means, precisions_cholesky, log_weights});
    return call_hvp(features, means, precisions_cholesky, log_weights, vector);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !ctx->needs_input_grad(0),
        "gmm_nll: third derivatives with respect to the features are not implemented");
    const auto saved = ctx->get_saved_variables();
    // The Hessian is symmetric, so the transposed product is the product.
    return {Tensor(), Tensor(), Tensor(), Tensor(),
            call_hvp(saved[0], saved[1], saved[2], saved[3], grads[0])};
  }
};

struct GradFunction : torch::autograd::Function<GradFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& features, const Tensor& means,
                               const Tensor& precisions_cholesky, const Tensor& log_weights) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->set_materialize_grads(false);
    auto [nll, grad] = call_grad(features, means, precisions_cholesky, log_weights);
    ctx->save_for_backward({features, means, precisions_cholesky, log_weights, grad});
    return {nll, grad};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    Tensor grad_features;
    if (grads[0].defined()) grad_features = at::mul(grads[0].unsqueeze(1), saved[4]);
    if (grads[1].defined()) {
      const Tensor product = call_hvp(saved[0], saved[1], saved[2], saved[3], grads[1]);
      grad_features = grad_features.defined() ? at::add(grad_features, product) : product;
    }
    return {grad_features, Tensor(), Tensor(), Tensor()};
  }
};

Tensor nll_autograd(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                    const Tensor& log_weights) {
  check_constant(means, precisions_cholesky, log_weights);
  if (at::GradMode::is_enabled() && features.requires_grad()) {
    return GradFunction::apply(features, means, precisions_cholesky, log_weights)[0];
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_nll(features, means, precisions_cholesky, log_weights);
}

std::tuple<Tensor, Tensor> grad_autograd(const Tensor& features, const Tensor& means,
                                         const Tensor& precisions_cholesky, const Tensor& log_weights) {
  check_constant(means, precisions_cholesky, log_weights);
  const auto out = GradFunction::apply(features, means, precisions_cholesky, log_weights);
  return {out[0], out[1]};
}

Tensor hvp_autograd(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                    const Tensor& log_weights, const Tensor& vector) {
  check_constant(means, precisions_cholesky, log_weights);
  return HvpFunction::apply(features, means, precisions_cholesky, log_weights, vector);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("gmm_nll", nll_autograd);
  m.impl("gmm_nll_grad", grad_autograd);
  m.impl("gmm_nll_hvp", hvp_autograd);
}

}  // namespace uqforce::gmm_nll
