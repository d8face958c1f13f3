// First and second derivatives of the radial interpolation.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "radial_interpolation/op.h"

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

// Inputs: ddtable, ddx, grad, slope, x, needs.
struct DoubleBackward : Function<DoubleBackward> {
  static variable_list forward(AutogradContext* /*ctx*/, const std::optional<Tensor>& ddtable,
                               const std::optional<Tensor>& ddx, const Tensor& grad, const Tensor& slope,
                               const Tensor& x, std::array<bool, 3> needs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dgrad, dslope, dx] = radial_interpolation_double_backward(ddtable, ddx, grad, slope, x, needs);
    return {dgrad, dslope, dx};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*cotangents*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "radial_interpolation can be differentiated twice, not three times");
  }
};

// Inputs: grad, slope, x, needs.
struct Backward : Function<Backward> {
  static variable_list forward(AutogradContext* ctx, const Tensor& grad, const Tensor& slope, const Tensor& x,
                               std::array<bool, 2> needs) {
    ctx->save_for_backward({grad, slope, x});
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dtable, dx] = radial_interpolation_backward(grad, slope, x, needs);
    variable_list not_computed;
    if (!needs[0]) not_computed.push_back(dtable);
    if (!needs[1]) not_computed.push_back(dx);
    ctx->mark_non_differentiable(not_computed);
    return {dtable, dx};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    std::array<bool, 3> needs;
    for (size_t k = 0; k < needs.size(); ++k) needs[k] = ctx->needs_input_grad(k);
    auto [dgrad, dslope, dx] = radial_interpolation_double_backward(
        optional(cotangents[0]), optional(cotangents[1]), saved[0], saved[1], saved[2], needs);
    return {undefined_unless(needs[0], dgrad), undefined_unless(needs[1], dslope),
            undefined_unless(needs[2], dx), Tensor()};
  }
};

// Inputs: table, slope, x.
struct Forward : Function<Forward> {
  static Tensor forward(AutogradContext* ctx, const Tensor& table, const Tensor& slope, const Tensor& x) {
    ctx->save_for_backward({slope, x});
    at::AutoDispatchBelowADInplaceOrView guard;
    return radial_interpolation(table, slope, x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const std::array<bool, 2> needs = {ctx->needs_input_grad(0), ctx->needs_input_grad(2)};
    auto [dtable, dx] = radial_interpolation_backward(cotangents[0], saved[0], saved[1], needs);
    return {undefined_unless(needs[0], dtable), Tensor(), undefined_unless(needs[1], dx)};
  }
};

Tensor autograd(const Tensor& table, const Tensor& slope, const Tensor& x) {
  return Forward::apply(table, slope, x);
}

std::tuple<Tensor, Tensor> autograd_backward(const Tensor& grad, const Tensor& slope, const Tensor& x,
                                             std::array<bool, 2> needs) {
  const auto out = Backward::apply(grad, slope, x, needs);
  return {out[0], out[1]};
}

std::tuple<Tensor, Tensor, Tensor> autograd_double_backward(const std::optional<Tensor>& ddtable,
                                                            const std::optional<Tensor>& ddx,
                                                            const Tensor& grad, const Tensor& slope,
                                                            const Tensor& x, std::array<bool, 3> needs) {
  const auto out = DoubleBackward::apply(ddtable, ddx, grad, slope, x, needs);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("radial_interpolation", &autograd);
  m.impl("radial_interpolation_backward", &autograd_backward);
  m.impl("radial_interpolation_double_backward", &autograd_double_backward);
}

}  // namespace uqforce
