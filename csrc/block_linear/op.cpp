// Schemas, checks, shapes (Meta) and dispatcher calls of the equivariant linear map.
#include "block_linear/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "common/checks.h"
#include "common/parsed_once.h"

namespace uqforce {
namespace {

// Marks [offset, offset + size); false if that leaves the array or meets a mark.
bool claim(std::vector<bool>& taken, int64_t offset, int64_t size) {
  if (offset < 0 || size < 0 || offset + size > static_cast<int64_t>(taken.size())) return false;
  for (int64_t k = offset; k < offset + size; ++k) {
    if (taken[k]) return false;
    taken[k] = true;
  }
  return true;
}

bool all(const std::vector<bool>& taken) {
  return std::find(taken.begin(), taken.end(), false) == taken.end();
}

BlockSpec parse_spec(at::IntArrayRef flat) {
  constexpr size_t kHead = 4, kPerBlock = 6;
  TORCH_CHECK_VALUE(flat.size() >= kHead && (flat.size() - kHead) % kPerBlock == 0 && flat[0] >= 0 &&
                        flat[1] >= 0 && flat[2] >= 0 && flat[3] >= 0,
                    "spec has ", flat.size(), " integers, which is no list of blocks: give BlockSpec.flat");
  BlockSpec spec{flat[0], flat[1], flat[2], false, false, {}};
  std::vector<bool> inputs(spec.dim_in), outputs(spec.dim_out), weights(spec.weight_numel);
  for (size_t k = kHead; k < flat.size(); k += kPerBlock) {
    const ColumnBlock b{flat[k],
                        flat[k + 1],
                        flat[k + 2],
                        flat[k + 3],
                        flat[k + 4],
                        flat[k + 5],
                        flat[3] == 0 ? 1.0 : 1.0 / std::sqrt(static_cast<double>(flat[k + 1] * flat[3]))};
    TORCH_CHECK_VALUE(b.components > 0 && b.mul_in > 0 && b.mul_out > 0 &&
                          claim(inputs, b.in_offset, b.components * b.mul_in) &&
                          claim(outputs, b.out_offset, b.components * b.mul_out) &&
                          claim(weights, b.weight_offset, b.mul_in * b.mul_out),
                      "spec: block ", (k - kHead) / kPerBlock,
                      " leaves its tensors or shares columns or weights with a block before it");
    spec.blocks.push_back(b);
  }
  TORCH_CHECK_VALUE(all(weights), "spec: some of the ", spec.weight_numel, " weights belong to no block");
  spec.covers_in = all(inputs);
  spec.covers_out = all(outputs);
  return spec;
}

}  // namespace

const BlockSpec& BlockSpec::parse(at::IntArrayRef flat) { return parsed_once(flat, &parse_spec); }

at::Tensor BlockSpec::transpose(const at::Tensor& weight) const {
  const at::Tensor out = at::empty_like(weight);
  for (const ColumnBlock& b : blocks) {
    const auto part = [&b](const at::Tensor& all, int64_t rows, int64_t columns) {
      return all.slice(-1, b.weight_offset, b.weight_offset + rows * columns).unflatten(-1, {rows, columns});
    };
    part(out, b.mul_out, b.mul_in).copy_(part(weight, b.mul_in, b.mul_out).transpose(-1, -2));
  }
  return out;
}

void check_block_linear(const BlockSpec& spec, const std::optional<at::Tensor>& types,
                        const c10::SymInt& num_types, const std::optional<at::Tensor>& x,
                        const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& grad) {
  const at::Tensor& first = x ? *x : *grad;
  const char* first_name = x ? "x" : "grad";
  check_floating(first, first_name);
  const auto check = [&](const std::optional<at::Tensor>& tensor, const char* name,
                         std::initializer_list<c10::SymInt> shape) {
    if (!tensor) return;
    check_shape(*tensor, name, shape);
    check_same_dtype(*tensor, name, first, first_name);
    check_same_device(*tensor, name, first, first_name);
  };
  check(x, "x", {kAny, spec.dim_in});
  check(grad, "grad", {x ? x->sym_size(0) : c10::SymInt(kAny), spec.dim_out});
  check(weight, "weight", {num_types, spec.weight_numel});
  if (types) {
    check_shape(*types, "types", {first.sym_size(0)});
    check_dtype(*types, "types", at::kLong);
    check_same_device(*types, "types", first, first_name);
  } else {
    TORCH_CHECK_VALUE(num_types == 1, "weight has ", num_types, " rows but there are no types: give 1 row");
  }
}

at::Tensor block_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& types,
                        at::IntArrayRef spec, bool transposed) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::block_linear", "")
                       .typed<decltype(block_linear)>();
  return op.call(x, weight, types, spec, transposed);
}

at::Tensor block_linear_weight(const at::Tensor& x, const at::Tensor& grad,
                               const std::optional<at::Tensor>& types, c10::SymInt num_types,
                               at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::block_linear_weight", "")
                       .typed<decltype(block_linear_weight)>();
  return op.call(x, grad, types, std::move(num_types), spec);
}

namespace {

at::Tensor meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& types,
                at::IntArrayRef flat, bool transposed) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  const std::optional<at::Tensor> none;
  check_shape(weight, "weight", {kAny, spec.weight_numel});
  check_block_linear(spec, types, weight.sym_size(0), transposed ? none : x, weight, transposed ? x : none);
  return x.new_empty_symint({x.sym_size(0), transposed ? spec.dim_in : spec.dim_out});
}

at::Tensor meta_weight(const at::Tensor& x, const at::Tensor& grad, const std::optional<at::Tensor>& types,
                       c10::SymInt num_types, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_block_linear(spec, types, num_types, x, {}, grad);
  return x.new_empty_symint({num_types, spec.weight_numel});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def(
      "block_linear(Tensor x, Tensor weight, Tensor? types, int[] spec, bool transposed) -> "
      "Tensor");
  m.def("block_linear_weight(Tensor x, Tensor grad, Tensor? types, SymInt num_types, int[] spec) -> Tensor");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("block_linear", &meta);
  m.impl("block_linear_weight", &meta_weight);
}

}  // namespace uqforce
