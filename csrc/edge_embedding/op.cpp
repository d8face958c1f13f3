// Schemas, checks, shapes (Meta) and dispatcher calls of the embedding of edges.
#include "edge_embedding/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "common/checks.h"
#include "edge_embedding/cpu_kernels.h"

namespace uqforce {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_embedding(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max,
                     const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
                     const OptionalTensor& ddvec) {
  TORCH_CHECK_VALUE(0 <= l_max && l_max <= embedding::kMaxDegree, "l_max is ", l_max, ", expected 0 to ",
                    embedding::kMaxDegree);
  check_floating(edge_vec, "edge_vec");
  check_shape(edge_vec, "edge_vec", {kAny, 3});
  const auto check = [&](const OptionalTensor& tensor, const char* name,
                         std::initializer_list<c10::SymInt> shape) {
    if (!tensor) return;
    check_shape(*tensor, name, shape);
    check_same_dtype(*tensor, name, edge_vec, "edge_vec");
    check_same_device(*tensor, name, edge_vec, "edge_vec");
  };
  const auto edges = edge_vec.sym_size(0);
  const bool one = inverse_cutoff.dim() == 1 && inverse_cutoff.sym_size(0) == 1;
  check(inverse_cutoff, "inverse_cutoff", {one ? c10::SymInt(1) : edges});
  check(grad_sh, "grad_sh", {edges, (l_max + 1) * (l_max + 1)});
  check(grad_length, "grad_length", {edges, 1});
  check(ddvec, "ddvec", {edges, 3});
}

std::tuple<Tensor, Tensor> edge_embedding(const Tensor& edge_vec, const Tensor& inverse_cutoff,
                                          int64_t l_max) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::edge_embedding", "")
                       .typed<decltype(edge_embedding)>();
  return op.call(edge_vec, inverse_cutoff, l_max);
}

Tensor edge_embedding_backward(const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
                               const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::edge_embedding_backward", "")
                       .typed<decltype(edge_embedding_backward)>();
  return op.call(grad_sh, grad_length, edge_vec, inverse_cutoff, l_max);
}

std::tuple<Tensor, Tensor, Tensor> edge_embedding_double_backward(
    const Tensor& ddvec, const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
    const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max, std::array<bool, 3> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::edge_embedding_double_backward", "")
                       .typed<decltype(edge_embedding_double_backward)>();
  return op.call(ddvec, grad_sh, grad_length, edge_vec, inverse_cutoff, l_max, needs);
}

namespace {

std::tuple<Tensor, Tensor> meta(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max);
  return {edge_vec.new_empty_symint({edge_vec.sym_size(0), (l_max + 1) * (l_max + 1)}),
          edge_vec.new_empty_symint({edge_vec.sym_size(0), 1})};
}

Tensor meta_backward(const OptionalTensor& grad_sh, const OptionalTensor& grad_length, const Tensor& edge_vec,
                     const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length);
  return edge_vec.new_empty_symint(edge_vec.sym_sizes());
}

std::tuple<Tensor, Tensor, Tensor> meta_double_backward(const Tensor& ddvec, const OptionalTensor& grad_sh,
                                                        const OptionalTensor& grad_length,
                                                        const Tensor& edge_vec, const Tensor& inverse_cutoff,
                                                        int64_t l_max, std::array<bool, 3> needs) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec);
  const auto edges = edge_vec.sym_size(0);
  const auto result = [&](bool needed, int64_t columns) {
    return needed ? edge_vec.new_empty_symint({edges, columns}) : edge_vec.new_empty_symint({0});
  };
  return {result(needs[0], (l_max + 1) * (l_max + 1)), result(needs[1], 1), result(needs[2], 3)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("edge_embedding(Tensor edge_vec, Tensor inverse_cutoff, int l_max) -> (Tensor, Tensor)");
  m.def(
      "edge_embedding_backward(Tensor? grad_sh, Tensor? grad_length, Tensor edge_vec, Tensor inverse_cutoff, "
      "int l_max) -> Tensor");
  m.def(
      "edge_embedding_double_backward(Tensor ddvec, Tensor? grad_sh, Tensor? grad_length, Tensor edge_vec, "
      "Tensor inverse_cutoff, int l_max, bool[3] needs) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("edge_embedding", &meta);
  m.impl("edge_embedding_backward", &meta_backward);
  m.impl("edge_embedding_double_backward", &meta_double_backward);
}

}  // namespace uqforce
