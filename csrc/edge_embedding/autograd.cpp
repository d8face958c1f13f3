// First and second derivatives of the embedding of edges; the cutoffs are constants.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "edge_embedding/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// Inputs: ddvec, grad_sh, grad_length, edge_vec, inverse_cutoff, l_max, needs.
struct EmbeddingDoubleBackward : Function<EmbeddingDoubleBackward> {
  static variable_list forward(AutogradContext* /*ctx*/, const Tensor& ddvec, const OptionalTensor& grad_sh,
                               const OptionalTensor& grad_length, const Tensor& edge_vec,
                               const Tensor& inverse_cutoff, int64_t l_max, std::array<bool, 3> needs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [dgrad_sh, dgrad_length, dvec] =
        edge_embedding_double_backward(ddvec, grad_sh, grad_length, edge_vec, inverse_cutoff, l_max, needs);
    return {dgrad_sh, dgrad_length, dvec};
  }

  static variable_list backward(AutogradContext* /*ctx*/, const variable_list& /*cotangents*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "edge_embedding can be differentiated twice, not three times");
  }
};

// Inputs: grad_sh, grad_length, edge_vec, inverse_cutoff, l_max.
struct EmbeddingBackward : Function<EmbeddingBackward> {
  static Tensor forward(AutogradContext* ctx, const OptionalTensor& grad_sh,
                        const OptionalTensor& grad_length, const Tensor& edge_vec,
                        const Tensor& inverse_cutoff, int64_t l_max) {
    ctx->save_for_backward(
        {grad_sh.value_or(Tensor()), grad_length.value_or(Tensor()), edge_vec, inverse_cutoff});
    ctx->saved_data["l_max"] = l_max;
    at::AutoDispatchBelowADInplaceOrView guard;
    return edge_embedding_backward(grad_sh, grad_length, edge_vec, inverse_cutoff, l_max);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    // What is absent has no place among the inputs that autograd counts.
    const bool has_sh = saved[0].defined(), has_length = saved[1].defined();
    const size_t first = size_t(has_sh), second = first + size_t(has_length);
    const std::array<bool, 3> needs = {has_sh && ctx->needs_input_grad(0),
                                       has_length && ctx->needs_input_grad(first),
                                       ctx->needs_input_grad(second)};
    auto [dgrad_sh, dgrad_length, dvec] =
        edge_embedding_double_backward(cotangents[0], optional(saved[0]), optional(saved[1]), saved[2],
                                       saved[3], ctx->saved_data["l_max"].toInt(), needs);
    return {needs[0] ? dgrad_sh : Tensor(), needs[1] ? dgrad_length : Tensor(), needs[2] ? dvec : Tensor(),
            Tensor(), Tensor()};
  }
};

// Inputs: edge_vec, inverse_cutoff, l_max.
struct Embedding : Function<Embedding> {
  static variable_list forward(AutogradContext* ctx, const Tensor& edge_vec, const Tensor& inverse_cutoff,
                               int64_t l_max) {
    ctx->save_for_backward({edge_vec, inverse_cutoff});
    ctx->saved_data["l_max"] = l_max;
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [sh, length] = edge_embedding(edge_vec, inverse_cutoff, l_max);
    return {sh, length};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& cotangents) {
    const auto saved = ctx->get_saved_variables();
    return {edge_embedding_backward(optional(cotangents[0]), optional(cotangents[1]), saved[0], saved[1],
                                    ctx->saved_data["l_max"].toInt()),
            Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> autograd(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  const auto out = Embedding::apply(edge_vec, inverse_cutoff, l_max);
  return {out[0], out[1]};
}

Tensor autograd_backward(const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
                         const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  return EmbeddingBackward::apply(grad_sh, grad_length, edge_vec, inverse_cutoff, l_max);
}

std::tuple<Tensor, Tensor, Tensor> autograd_double_backward(
    const Tensor& ddvec, const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
    const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max, std::array<bool, 3> needs) {
  const auto out =
      EmbeddingDoubleBackward::apply(ddvec, grad_sh, grad_length, edge_vec, inverse_cutoff, l_max, needs);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, Autograd, m) {
  m.impl("edge_embedding", &autograd);
  m.impl("edge_embedding_backward", &autograd_backward);
  m.impl("edge_embedding_double_backward", &autograd_double_backward);
}

}  // namespace uqforce
