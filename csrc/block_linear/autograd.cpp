// Derivatives of the equivariant linear map, of any order: the two ops are each other's gradients.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "block_linear/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

void save_rest(AutogradContext* ctx, const OptionalTensor& types, at::IntArrayRef spec) {
  ctx->saved_data["types"] = types;
  ctx->saved_data["spec"] = spec.vec();
}

struct Rest {
  OptionalTensor types;
  std::vector<int64_t> spec;
  explicit Rest(AutogradContext* ctx)
      : types(ctx->saved_data["types"].toOptional<Tensor>()), spec(ctx->saved_data["spec"].toIntVector()) {}
};

// Inputs: x, weight, types, spec, transposed.
struct Blocks : Function<Blocks> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& types, at::IntArrayRef spec, bool transposed) {
    ctx->save_for_backward({x, weight});
    save_rest(ctx, types, spec);
    ctx->saved_data["transposed"] = transposed;
    at::AutoDispatchBelowADInplaceOrView guard;
    return block_linear(x, weight, types, spec, transposed);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &g = cotangents[0];
    const Rest rest(ctx);
    const bool transposed = ctx->saved_data["transposed"].toBool();
    Tensor dx, dweight;
    if (ctx->needs_input_grad(0)) dx = block_linear(g, weight, rest.types, rest.spec, !transposed);
    if (ctx->needs_input_grad(1)) {
      dweight = block_linear_weight(transposed ? g : x, transposed ? x : g, rest.types, weight.sym_size(0),
                                    rest.spec);
    }
    return {dx, dweight, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Inputs: x, grad, types, num_types, spec.
struct BlocksWeight : Function<BlocksWeight> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& grad,
                        const OptionalTensor& types, const c10::SymInt& num_types, at::IntArrayRef spec) {
    ctx->save_for_backward({x, grad});
    save_rest(ctx, types, spec);
    at::AutoDispatchBelowADInplaceOrView guard;
    return block_linear_weight(x, grad, types, num_types, spec);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    const Rest rest(ctx);
    Tensor dx, dgrad;
    if (ctx->needs_input_grad(0)) {
      dx = block_linear(saved[1], cotangents[0], rest.types, rest.spec, true);
    }
    if (ctx->needs_input_grad(1)) {
      dgrad = block_linear(saved[0], cotangents[0], rest.types, rest.spec, false);
    }
    return {dx, dgrad, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& types, at::IntArrayRef spec,
                bool transposed) {
  return Blocks::apply(x, weight, types, spec, transposed);
}

Tensor autograd_weight(const Tensor& x, const Tensor& grad, const OptionalTensor& types,
                       c10::SymInt num_types, at::IntArrayRef spec) {
  return BlocksWeight::apply(x, grad, types, num_types, spec);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("block_linear", &autograd);
  m.impl("block_linear_weight", &autograd_weight);
}

}  // namespace uqforce
