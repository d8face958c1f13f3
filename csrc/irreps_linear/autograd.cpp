// The derivative of the equivariant linear map in x: the map itself, transposed, so of any order.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "irreps_linear/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& types, at::IntArrayRef spec) {
    ctx->save_for_backward({weight, types.value_or(Tensor())});
    ctx->saved_data["spec"] = spec.vec();
    at::AutoDispatchBelowADInplaceOrView guard;
    return irreps_linear(x, weight, types, spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const LinearSpec spec = LinearSpec::parse(ctx->saved_data["spec"].toIntVector());
    const std::optional<Tensor> types = saved[1].defined() ? std::optional<Tensor>(saved[1]) : std::nullopt;
    return {irreps_linear(cotangents[0], spec.transpose(saved[0]), types, spec.transposed()), Tensor(),
            Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& types,
                at::IntArrayRef spec) {
  TORCH_CHECK(!weight.requires_grad(),
              "weight requires a gradient, which irreps_linear does not have: it is for inference, "
              "uqforce.model.linear.IrrepsLinear is for training");
  return Linear::apply(x, weight, types, spec);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) { m.impl("irreps_linear", &autograd); }

}  // namespace uqforce
