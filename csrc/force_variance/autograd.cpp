// First and second derivatives of force_variance with respect to edge_vec, grad_energy and grad_sigma.
//
// The results are polynomials of the inputs X. With cotangents c, backward is J(X)^T c; its own derivative
// along a direction u is J(X) u with respect to c and d/dt J(X + t u)^T c with respect to X: forward and
// backward again, on dual numbers (force_variance_double_backward).
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "force_variance/op.h"

namespace uqforce::force_variance {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int kInputs = 9;
constexpr int kCotangents = 8;

template <typename Tuple>
variable_list to_list(const Tuple& tuple) {
  return std::apply([](const auto&... tensors) { return variable_list{tensors...}; }, tuple);
}

void save_options(AutogradContext* ctx, const c10::SymInt& num_structures, bool local, int64_t ddof,
                  int64_t members) {
  ctx->saved_data["num_structures"] = num_structures;
  ctx->saved_data["local"] = local;
  ctx->saved_data["ddof"] = ddof;
  ctx->saved_data["members"] = members;
}

// Calls op(edge_index, ..., ddof, tensors ...) with what was saved.
template <typename Op, typename... Tensors>
auto with_saved(AutogradContext* ctx, const variable_list& saved, Op op, const Tensors&... tensors) {
  return op(saved[0], saved[1], saved[2], saved[3], saved[4], ctx->saved_data["num_structures"].toSymInt(),
            ctx->saved_data["local"].toBool(), ctx->saved_data["ddof"].toInt(),
            ctx->saved_data["members"].toInt(), tensors...);
}

struct DoubleBackwardFunction : torch::autograd::Function<DoubleBackwardFunction> {
  static variable_list forward(AutogradContext* /*ctx*/, UQFORCE_INPUTS, UQFORCE_COTANGENTS,
                               UQFORCE_DIRECTIONS) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return to_list(
        call_double_backward(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES, UQFORCE_DIRECTION_NAMES));
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*grads*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "force_variance: third derivatives are not implemented");
  }
};

struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static variable_list forward(AutogradContext* ctx, UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({edge_index, edge_vec, grad_energy, grad_sigma, batch, UQFORCE_COTANGENT_NAMES});
    save_options(ctx, num_structures, local, ddof, members);
    return to_list(call_backward(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& u) {
    const auto s = ctx->get_saved_variables();
    const auto d = to_list(with_saved(ctx, s, call_double_backward, s[5], s[6], s[7], s[8], s[9], s[10],
                                      s[11], s[12], u[0], u[1], u[2]));
    variable_list grads(kInputs + kCotangents);
    for (int i = 0; i < 3; ++i) grads[1 + i] = d[kCotangents + i];
    for (int i = 0; i < kCotangents; ++i) grads[kInputs + i] = d[i];
    return grads;
  }
};

struct ForwardFunction : torch::autograd::Function<ForwardFunction> {
  static variable_list forward(AutogradContext* ctx, UQFORCE_INPUTS) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({edge_index, edge_vec, grad_energy, grad_sigma, batch});
    save_options(ctx, num_structures, local, ddof, members);
    return to_list(call_forward(UQFORCE_INPUT_NAMES));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& c) {
    const auto [edge_vec, grad_energy, grad_sigma] = with_saved(
        ctx, ctx->get_saved_variables(), call_backward, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]);
    variable_list grads(kInputs);
    grads[1] = edge_vec;
    grads[2] = grad_energy;
    grads[3] = grad_sigma;
    return grads;
  }
};

Results forward_autograd(UQFORCE_INPUTS) {
  const auto r = ForwardFunction::apply(UQFORCE_INPUT_NAMES);
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]};
}

Gradients backward_autograd(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  const auto r = BackwardFunction::apply(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  return {r[0], r[1], r[2]};
}

Directional double_backward_autograd(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  const auto r =
      DoubleBackwardFunction::apply(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES, UQFORCE_DIRECTION_NAMES);
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("force_variance.members", forward_autograd);
  m.impl("force_variance_backward", backward_autograd);
  m.impl("force_variance_double_backward", double_backward_autograd);
}

}  // namespace uqforce::force_variance
