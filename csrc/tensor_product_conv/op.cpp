// Schemas, checks, shapes (Meta) and dispatcher calls of the tensor-product convolution.
#include "tensor_product_conv/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/parsed_once.h"
#include "tensor_product_conv/coupling.h"

namespace uqforce {
namespace {

// Marks [offset + m * stride, ... + mul) for m < components; false if that leaves the array or meets a mark.
bool claim(std::vector<bool>& taken, int64_t offset, int64_t stride, int64_t components, int64_t mul) {
  const int64_t size = static_cast<int64_t>(taken.size());
  if (offset < 0 || (components > 1 && stride < mul) || offset + (components - 1) * stride + mul > size)
    return false;
  for (int64_t m = 0; m < components; ++m) {
    for (int64_t u = 0; u < mul; ++u) {
      if (taken[offset + m * stride + u]) return false;
      taken[offset + m * stride + u] = true;
    }
  }
  return true;
}

ConvSpec parse_spec(at::IntArrayRef flat) {
  constexpr size_t kHead = 5, kPerPath = 9;
  TORCH_CHECK_VALUE(flat.size() >= kHead && flat[4] >= 0 && flat.size() == kHead + kPerPath * flat[4],
                    "spec has ", flat.size(),
                    " integers, which is no list of paths: give TensorProductSpec.flat");
  ConvSpec spec{flat[0], flat[1], flat[2], flat[3], {}};
  TORCH_CHECK_VALUE(spec.dim_in >= 0 && spec.dim_out >= 0 && spec.weight_numel >= 0,
                    "spec has a negative dimension: give TensorProductSpec.flat");
  std::vector<bool> outputs(spec.dim_out), weights(spec.weight_numel);
  for (size_t p = 0; p < static_cast<size_t>(flat[4]); ++p) {
    const int64_t* v = flat.data() + kHead + p * kPerPath;
    const ConvPath path{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8]};
    const auto [l1, l2, l3, mul, in_offset, in_stride, out_offset, out_stride, weight_offset] = path;
    TORCH_CHECK_VALUE(std::min({l1, l2, l3}) >= 0 && std::max({l1, l2, l3}) <= kMaxDegree &&
                          std::abs(l1 - l2) <= l3 && l3 <= l1 + l2 && (l2 + 1) * (l2 + 1) <= spec.sh_dim,
                      "spec: path ", p, " couples degrees (", l1, ", ", l2, ", ", l3,
                      "), which must be at most ", kMaxDegree, ", keep the triangle rule and have l2 within ",
                      spec.sh_dim, " spherical harmonics");
    std::vector<bool> inputs(spec.dim_in);
    TORCH_CHECK_VALUE(mul >= 0 && claim(inputs, in_offset, in_stride, 2 * l1 + 1, mul) &&
                          claim(outputs, out_offset, out_stride, 2 * l3 + 1, mul) &&
                          claim(weights, weight_offset, 0, 1, mul),
                      "spec: path ", p,
                      " leaves its tensors or shares outputs or weights with a path before it: ",
                      "give TensorProductSpec.flat");
    if (mul > 0) spec.paths.push_back(path);
  }
  for (const auto* taken : {&outputs, &weights}) {
    TORCH_CHECK_VALUE(std::find(taken->begin(), taken->end(), false) == taken->end(),
                      "spec: an output column or a weight belongs to no path: give TensorProductSpec.flat");
  }
  return spec;
}

}  // namespace

const ConvSpec& ConvSpec::parse(at::IntArrayRef flat) { return parsed_once(flat, &parse_spec); }

void check_conv(const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
                const at::Tensor& edge_index, const ConvSpec& spec, const std::optional<at::Tensor>& grad,
                const std::optional<at::Tensor>& ddx, const std::optional<at::Tensor>& ddsh,
                const std::optional<at::Tensor>& ddw) {
  check_floating(x, "x");
  check_shape(x, "x", {kAny, spec.dim_in});
  check_dtype(edge_index, "edge_index", at::kLong);
  check_same_device(edge_index, "edge_index", x, "x");
  check_shape(edge_index, "edge_index", {2, kAny});
  const c10::SymInt nodes = x.sym_size(0), edges = edge_index.sym_size(1);
  const auto check = [&](const std::optional<at::Tensor>& tensor, const char* name, const c10::SymInt& rows,
                         int64_t columns) {
    if (!tensor.has_value() || !tensor->defined()) return;
    check_same_dtype(*tensor, name, x, "x");
    check_same_device(*tensor, name, x, "x");
    check_shape(*tensor, name, {rows, columns});
  };
  check(edge_sh, "edge_sh", edges, spec.sh_dim);
  check(edge_weight, "edge_weight", edges, spec.weight_numel);
  check(grad, "grad", nodes, spec.dim_out);
  check(ddx, "ddx", nodes, spec.dim_in);
  check(ddsh, "ddsh", edges, spec.sh_dim);
  check(ddw, "ddw", edges, spec.weight_numel);
}

// The dispatcher calls.

at::Tensor tensor_product_conv(const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
                               const at::Tensor& edge_index, at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::tensor_product_conv", "")
                       .typed<decltype(tensor_product_conv)>();
  return op.call(x, edge_sh, edge_weight, edge_index, spec);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> tensor_product_conv_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
    const at::Tensor& edge_index, at::IntArrayRef spec, std::array<bool, 3> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::tensor_product_conv_backward", "")
                       .typed<decltype(tensor_product_conv_backward)>();
  return op.call(grad, x, edge_sh, edge_weight, edge_index, spec, needs);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tensor_product_conv_double_backward(
    const std::optional<at::Tensor>& ddx, const std::optional<at::Tensor>& ddsh,
    const std::optional<at::Tensor>& ddw, const at::Tensor& grad, const at::Tensor& x,
    const at::Tensor& edge_sh, const at::Tensor& edge_weight, const at::Tensor& edge_index,
    at::IntArrayRef spec, std::array<bool, 4> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::tensor_product_conv_double_backward", "")
                       .typed<decltype(tensor_product_conv_double_backward)>();
  return op.call(ddx, ddsh, ddw, grad, x, edge_sh, edge_weight, edge_index, spec, needs);
}

namespace {

at::Tensor empty_like_or_none(const at::Tensor& like, bool needed) {
  return needed ? at::empty_symint(like.sym_sizes(), like.options()) : at::empty({0}, like.options());
}

at::Tensor meta(const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
                const at::Tensor& edge_index, at::IntArrayRef flat) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec);
  return at::empty_symint({x.sym_size(0), spec.dim_out}, x.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> meta_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
    const at::Tensor& edge_index, at::IntArrayRef flat, std::array<bool, 3> needs) {
  check_conv(x, edge_sh, edge_weight, edge_index, ConvSpec::parse(flat), grad);
  return {empty_like_or_none(x, needs[0]), empty_like_or_none(edge_sh, needs[1]),
          empty_like_or_none(edge_weight, needs[2])};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> meta_double_backward(
    const std::optional<at::Tensor>& ddx, const std::optional<at::Tensor>& ddsh,
    const std::optional<at::Tensor>& ddw, const at::Tensor& grad, const at::Tensor& x,
    const at::Tensor& edge_sh, const at::Tensor& edge_weight, const at::Tensor& edge_index,
    at::IntArrayRef flat, std::array<bool, 4> needs) {
  check_conv(x, edge_sh, edge_weight, edge_index, ConvSpec::parse(flat), grad, ddx, ddsh, ddw);
  return {empty_like_or_none(grad, needs[0]), empty_like_or_none(x, needs[1]),
          empty_like_or_none(edge_sh, needs[2]), empty_like_or_none(edge_weight, needs[3])};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def(
      "tensor_product_conv(Tensor x, Tensor edge_sh, Tensor edge_weight, Tensor edge_index, int[] spec) -> "
      "Tensor");
  m.def(
      "tensor_product_conv_backward(Tensor grad, Tensor x, Tensor edge_sh, Tensor edge_weight, Tensor "
      "edge_index, "
      "int[] spec, bool[3] needs) -> (Tensor, Tensor, Tensor)");
  m.def(
      "tensor_product_conv_double_backward(Tensor? ddx, Tensor? ddsh, Tensor? ddw, Tensor grad, Tensor x, "
      "Tensor edge_sh, Tensor edge_weight, Tensor edge_index, int[] spec, bool[4] needs) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("tensor_product_conv", &meta);
  m.impl("tensor_product_conv_backward", &meta_backward);
  m.impl("tensor_product_conv_double_backward", &meta_double_backward);
}

}  // namespace uqforce
