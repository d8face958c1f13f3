// Schemas, checks, shapes (Meta) and dispatcher calls of the gate.
#include "gate/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/parsed_once.h"

namespace uqforce {

using at::Tensor;
using gating::Layout;

namespace {

Layout parse(at::IntArrayRef spec) {
  constexpr size_t head = 3, each = 3;
  TORCH_CHECK_VALUE(spec.size() >= head && (spec.size() - head) % each == 0, "the gate's spec ", spec,
                    " has ", spec.size(), " entries, expected 3 and 3 for every block");
  const size_t blocks = (spec.size() - head) / each;
  TORCH_CHECK_VALUE(blocks <= gating::kMaxBlocks, "the gate's spec has ", blocks,
                    " blocks, expected at most ", gating::kMaxBlocks);
  for (const int64_t entry : spec) {
    TORCH_CHECK_VALUE(0 <= entry && entry < (1 << 20), "the gate's spec ", spec, " holds ", entry);
  }
  Layout layout{};
  layout.odd = int(spec[0]);
  layout.scalars = int(spec[1]);
  layout.gates = int(spec[2]);
  layout.blocks = int(blocks);
  layout.dim_in = layout.odd + layout.scalars + layout.gates;
  layout.dim_out = layout.odd + layout.scalars;
  const int first_block = layout.dim_in;
  int gate = layout.odd + layout.scalars;
  for (size_t b = 0; b < blocks; ++b) {
    const int64_t* block = spec.data() + head + each * b;
    layout.block[b] = {int(block[0]), layout.dim_out, int(block[1]), int(block[2]), gate};
    gate += layout.block[b].mul;
    layout.dim_in += layout.block[b].dim * layout.block[b].mul;
    layout.dim_out += layout.block[b].dim * layout.block[b].mul;
  }
  TORCH_CHECK_VALUE(gate == first_block, "the gate's spec ", spec, " has ", layout.gates, " gates for ",
                    gate - layout.odd - layout.scalars, " channels");
  std::vector<bool> taken(layout.dim_in);
  for (int b = 0; b < layout.blocks; ++b) {
    const auto& block = layout.block[b];
    const int size = block.dim * block.mul;
    for (int column = block.start; column < block.start + size; ++column) {
      TORCH_CHECK_VALUE(column >= first_block && column < layout.dim_in && !taken[column], "the gate's spec ",
                        spec, ": column ", column, " of block ", b,
                        " lies outside of the row or in another block");
      taken[column] = true;
    }
  }
  return layout;
}

}  // namespace

const Layout& gate_layout(at::IntArrayRef spec) { return parsed_once<Layout>(spec, &parse); }

void check_gate(const Layout& layout, const Tensor& x, const Tensor& grad, const Tensor& ddx) {
  check_floating(x, "x");
  check_shape(x, "x", {kAny, layout.dim_in});
  const auto check = [&](const Tensor& tensor, const char* name, int columns) {
    if (!tensor.defined()) return;
    if (tensor.dim() == 3) {
      check_shape(tensor, name, {kAny, x.sym_size(0), columns});
    } else {
      check_shape(tensor, name, {x.sym_size(0), columns});
    }
    check_same_dtype(tensor, name, x, "x");
    check_same_device(tensor, name, x, "x");
  };
  check(grad, "grad", layout.dim_out);
  check(ddx, "ddx", layout.dim_in);
}

Tensor gate(const Tensor& x, at::IntArrayRef spec, double silu_factor, double tanh_factor) {
  static auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("uqforce::gate", "").typed<decltype(gate)>();
  return op.call(x, spec, silu_factor, tanh_factor);
}

Tensor gate_backward(const Tensor& grad, const Tensor& x, at::IntArrayRef spec, double silu_factor,
                     double tanh_factor) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::gate_backward", "")
                       .typed<decltype(gate_backward)>();
  return op.call(grad, x, spec, silu_factor, tanh_factor);
}

std::tuple<Tensor, Tensor> gate_double_backward(const Tensor& ddx, const Tensor& grad, const Tensor& x,
                                                at::IntArrayRef spec, double silu_factor, double tanh_factor,
                                                std::array<bool, 2> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::gate_double_backward", "")
                       .typed<decltype(gate_double_backward)>();
  return op.call(ddx, grad, x, spec, silu_factor, tanh_factor, needs);
}

namespace {

Tensor meta(const Tensor& x, at::IntArrayRef spec, double /*silu_factor*/, double /*tanh_factor*/) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x);
  return x.new_empty_symint({x.sym_size(0), layout.dim_out});
}

Tensor meta_backward(const Tensor& grad, const Tensor& x, at::IntArrayRef spec, double /*silu_factor*/,
                     double /*tanh_factor*/) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x, grad);
  if (grad.dim() == 2) return x.new_empty_symint(x.sym_sizes());
  return x.new_empty_symint({grad.sym_size(0), x.sym_size(0), layout.dim_in});
}

std::tuple<Tensor, Tensor> meta_double_backward(const Tensor& ddx, const Tensor& grad, const Tensor& x,
                                                at::IntArrayRef spec, double /*silu_factor*/,
                                                double /*tanh_factor*/, std::array<bool, 2> needs) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x, grad, ddx);
  return {needs[0] ? x.new_empty_symint(grad.sym_sizes()) : x.new_empty_symint({0}),
          needs[1] ? x.new_empty_symint(x.sym_sizes()) : x.new_empty_symint({0})};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("gate(Tensor x, int[] spec, float silu_factor, float tanh_factor) -> Tensor");
  m.def("gate_backward(Tensor grad, Tensor x, int[] spec, float silu_factor, float tanh_factor) -> Tensor");
  m.def(
      "gate_double_backward(Tensor ddx, Tensor grad, Tensor x, int[] spec, float silu_factor, float "
      "tanh_factor, bool[2] needs) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("gate", &meta);
  m.impl("gate_backward", &meta_backward);
  m.impl("gate_double_backward", &meta_double_backward);
}

}  // namespace uqforce
