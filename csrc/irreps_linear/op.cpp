// Schema, checks, shapes (Meta) and dispatcher call of the equivariant linear map.
#include "irreps_linear/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "common/checks.h"
#include "common/without_cuda.h"

namespace uqforce {

LinearSpec LinearSpec::parse(at::IntArrayRef flat) {
  constexpr size_t kHead = 4, kPerBlock = 6;
  TORCH_CHECK_VALUE(flat.size() >= kHead && flat[3] >= 0 && flat.size() == kHead + kPerBlock * flat[3],
                    "spec has ", flat.size(), " integers, which is no list of blocks: give LinearSpec.flat");
  LinearSpec spec{flat[0], flat[1], flat[2], {}};
  for (size_t k = 0; k < static_cast<size_t>(flat[3]); ++k) {
    const int64_t* v = flat.data() + kHead + k * kPerBlock;
    const LinearBlock b{v[0], v[1], v[2], v[3], v[4], v[5]};
    bool apart = true;
    for (const LinearBlock& a : spec.blocks) {
      apart &= b.out_offset >= a.out_offset + a.dim * a.mul_out ||
               a.out_offset >= b.out_offset + b.dim * b.mul_out;
      apart &= b.weight_offset >= a.weight_offset + a.mul_in * a.mul_out ||
               a.weight_offset >= b.weight_offset + b.mul_in * b.mul_out;
    }
    TORCH_CHECK_VALUE(*std::min_element(v, v + kPerBlock) >= 0 && apart &&
                          b.in_offset + b.dim * b.mul_in <= spec.dim_in &&
                          b.out_offset + b.dim * b.mul_out <= spec.dim_out &&
                          b.weight_offset + b.mul_in * b.mul_out <= spec.weight_numel,
                      "spec: block ", k, " leaves its tensors or overlaps another: give LinearSpec.flat");
    spec.blocks.push_back(b);
  }
  return spec;
}

bool LinearSpec::is_full() const {
  int64_t columns = 0;
  for (const LinearBlock& b : blocks) columns += b.dim * b.mul_out;
  return columns == dim_out;
}

at::Tensor LinearSpec::transpose(const at::Tensor& weight) const {
  std::vector<at::Tensor> parts{weight.slice(-1, 0, 0)};
  for (const LinearBlock& b : blocks) {
    const at::Tensor part = weight.slice(-1, b.weight_offset, b.weight_offset + b.mul_in * b.mul_out);
    parts.push_back(part.unflatten(-1, {b.mul_in, b.mul_out}).transpose(-1, -2).flatten(-2));
  }
  return at::cat(parts, -1);
}

std::vector<int64_t> LinearSpec::transposed() const {
  std::vector<int64_t> flat{dim_out, dim_in, weight_numel, static_cast<int64_t>(blocks.size())};
  for (const LinearBlock& b : blocks)
    flat.insert(flat.end(), {b.dim, b.out_offset, b.mul_out, b.in_offset, b.mul_in, b.weight_offset});
  return flat;
}

void check_irreps_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& types, const LinearSpec& spec) {
  check_floating(x, "x");
  TORCH_CHECK_VALUE(x.dim() == 2 || x.dim() == 3, "x has shape ", x.sym_sizes(),
                    ", expected [nodes, columns] or [cotangents, nodes, columns]");
  TORCH_CHECK_VALUE(x.sym_size(-1) == spec.dim_in, "x has ", x.sym_size(-1), " columns, expected ",
                    spec.dim_in);
  check_same_dtype(weight, "weight", x, "x");
  check_same_device(weight, "weight", x, "x");
  check_shape(weight, "weight", {kAny, spec.weight_numel});
  if (types.has_value()) {
    check_dtype(*types, "types", at::kLong);
    check_same_device(*types, "types", x, "x");
    check_shape(*types, "types", {x.sym_size(-2)});
  } else {
    TORCH_CHECK_VALUE(weight.sym_size(0) == 1, "weight is for ", weight.sym_size(0), " types: give `types`");
  }
}

at::Tensor irreps_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& types, at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::irreps_linear", "")
                       .typed<decltype(irreps_linear)>();
  return op.call(x, weight, types, spec);
}

namespace {

at::Tensor meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& types,
                at::IntArrayRef flat) {
  const LinearSpec spec = LinearSpec::parse(flat);
  check_irreps_linear(x, weight, types, spec);
  auto sizes = x.sym_sizes().vec();
  sizes.back() = spec.dim_out;
  return at::empty_symint(sizes, x.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("irreps_linear(Tensor x, Tensor weight, Tensor? types, int[] spec) -> Tensor");
}
TORCH_LIBRARY_IMPL(uqforce, Meta, m) { m.impl("irreps_linear", &meta); }
UQFORCE_WITHOUT_CUDA("irreps_linear")

}  // namespace uqforce
