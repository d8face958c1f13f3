// Schemas, argument checks and shapes (Meta) of the mixture's negative log-likelihood.
#include "gmm_nll/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "common/checks.h"

namespace uqforce::gmm_nll {

void check_arguments(const at::Tensor& features, const at::Tensor& means,
                     const at::Tensor& precisions_cholesky, const at::Tensor& log_weights) {
  check_floating(features, "features");
  check_shape(features, "features", {kAny, kAny});
  const c10::SymInt dim = features.sym_size(1);
  check_shape(means, "means", {kAny, dim});
  const c10::SymInt components = means.sym_size(0);
  TORCH_CHECK_VALUE(components > 0, "means has shape ", means.sym_sizes(),
                    ": a mixture needs at least one component");
  check_shape(precisions_cholesky, "precisions_cholesky", {components, dim, dim});
  check_shape(log_weights, "log_weights", {components});
  const std::pair<const at::Tensor&, const char*> parameters[] = {
      {means, "means"}, {precisions_cholesky, "precisions_cholesky"}, {log_weights, "log_weights"}};
  for (const auto& [tensor, name] : parameters) {
    check_same_dtype(tensor, name, features, "features");
    check_same_device(tensor, name, features, "features");
  }
}

void check_vector(const at::Tensor& vector, const at::Tensor& features) {
  check_shape(vector, "vector", {features.sym_size(0), features.sym_size(1)});
  check_same_dtype(vector, "vector", features, "features");
  check_same_device(vector, "vector", features, "features");
}

namespace {

using at::Tensor;

Tensor nll_meta(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                const Tensor& log_weights) {
  check_arguments(features, means, precisions_cholesky, log_weights);
  return features.new_empty_symint({features.sym_size(0)});
}

std::tuple<Tensor, Tensor> grad_meta(const Tensor& features, const Tensor& means,
                                     const Tensor& precisions_cholesky, const Tensor& log_weights) {
  return {nll_meta(features, means, precisions_cholesky, log_weights),
          at::empty_like(features, at::MemoryFormat::Contiguous)};
}

Tensor hvp_meta(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                const Tensor& log_weights, const Tensor& vector) {
  check_arguments(features, means, precisions_cholesky, log_weights);
  check_vector(vector, features);
  return at::empty_like(features, at::MemoryFormat::Contiguous);
}

template <typename Signature>
auto find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

Tensor call_nll(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                const Tensor& log_weights) {
  static const auto op = find_op<decltype(nll_meta)>("uqforce::gmm_nll");
  return op.call(features, means, precisions_cholesky, log_weights);
}

std::tuple<Tensor, Tensor> call_grad(const Tensor& features, const Tensor& means,
                                     const Tensor& precisions_cholesky, const Tensor& log_weights) {
  static const auto op = find_op<decltype(grad_meta)>("uqforce::gmm_nll_grad");
  return op.call(features, means, precisions_cholesky, log_weights);
}

Tensor call_hvp(const Tensor& features, const Tensor& means, const Tensor& precisions_cholesky,
                const Tensor& log_weights, const Tensor& vector) {
  static const auto op = find_op<decltype(hvp_meta)>("uqforce::gmm_nll_hvp");
  return op.call(features, means, precisions_cholesky, log_weights, vector);
}

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("gmm_nll(Tensor features, Tensor means, Tensor precisions_cholesky, Tensor log_weights) -> Tensor");
  // Value [N] and gradient with respect to the features [N,D].
  m.def(
      "gmm_nll_grad(Tensor features, Tensor means, Tensor precisions_cholesky, Tensor log_weights)"
      " -> (Tensor, Tensor)");
  // Hessian of the value of each atom with respect to its features, times `vector` [N,D].
  m.def(
      "gmm_nll_hvp(Tensor features, Tensor means, Tensor precisions_cholesky, Tensor log_weights,"
      " Tensor vector) -> Tensor");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("gmm_nll", nll_meta);
  m.impl("gmm_nll_grad", grad_meta);
  m.impl("gmm_nll_hvp", hvp_meta);
}

}  // namespace uqforce::gmm_nll
