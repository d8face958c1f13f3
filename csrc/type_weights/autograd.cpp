// Derivatives of the weights per type, of any order: the three ops are each other's gradients.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "type_weights/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void save(AutogradContext* ctx, const Tensor& a, const Tensor& b, at::IntArrayRef spec) {
  ctx->save_for_backward({a, b});
  ctx->saved_data["spec"] = spec.vec();
}

struct Saved {
  const variable_list inputs;
  const std::vector<int64_t> spec;
  explicit Saved(AutogradContext* ctx)
      : inputs(ctx->get_saved_variables()), spec(ctx->saved_data["spec"].toIntVector()) {}
};

// Inputs: features, the other factor, spec. The other factor is the weight, or the gradient: the two ops are
// each other's but for the order of what they are given.
template <bool to_weight>
struct WithFeatures : Function<WithFeatures<to_weight>> {
  static Tensor product(const Tensor& features, const Tensor& other, at::IntArrayRef spec) {
    return to_weight ? type_weights_weight(features, other, spec) : type_weights(features, other, spec);
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& features, const Tensor& other,
                        at::IntArrayRef spec) {
    save(ctx, features, other, spec);
    at::AutoDispatchBelowADInplaceOrView guard;
    return product(features, other, spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const Saved saved(ctx);
    const Tensor &features = saved.inputs[0], &other = saved.inputs[1], &g = cotangents[0];
    Tensor dfeatures, dother;
    if (ctx->needs_input_grad(0)) {
      const Tensor &grad = to_weight ? other : g, &weight = to_weight ? g : other;
      dfeatures = type_weights_features(grad, weight, features.sym_size(1), saved.spec);
    }
    if (ctx->needs_input_grad(1)) dother = WithFeatures<!to_weight>::product(features, g, saved.spec);
    return {dfeatures, dother, Tensor()};
  }
};

// Inputs: grad, weight, num_features, spec.
struct Features : Function<Features> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad, const Tensor& weight,
                        const c10::SymInt& num_features, at::IntArrayRef spec) {
    save(ctx, grad, weight, spec);
    at::AutoDispatchBelowADInplaceOrView guard;
    return type_weights_features(grad, weight, num_features, spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const Saved saved(ctx);
    const Tensor &grad = saved.inputs[0], &weight = saved.inputs[1], &g = cotangents[0];
    Tensor dgrad, dweight;
    if (ctx->needs_input_grad(0)) dgrad = type_weights(g, weight, saved.spec);
    if (ctx->needs_input_grad(1)) dweight = type_weights_weight(g, grad, saved.spec);
    return {dgrad, dweight, Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& features, const Tensor& weight, at::IntArrayRef spec) {
  return WithFeatures<false>::apply(features, weight, spec);
}

Tensor autograd_features(const Tensor& grad, const Tensor& weight, c10::SymInt num_features,
                         at::IntArrayRef spec) {
  return Features::apply(grad, weight, num_features, spec);
}

Tensor autograd_weight(const Tensor& features, const Tensor& grad, at::IntArrayRef spec) {
  return WithFeatures<true>::apply(features, grad, spec);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("type_weights", &autograd);
  m.impl("type_weights_features", &autograd_features);
  m.impl("type_weights_weight", &autograd_weight);
}

}  // namespace uqforce
