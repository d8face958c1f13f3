// Schemas, checks, shapes (Meta) and dispatcher calls of the convolution's inference form.
#include "tabulated_conv/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/checks.h"

namespace uqforce {

TabulatedConv::TabulatedConv(const at::Tensor& x, const at::Tensor& edge_vec, const at::Tensor& edge_index,
                             const at::Tensor& atom_types, const at::Tensor& cutoffs, const at::Tensor& table,
                             const at::Tensor& linear, at::IntArrayRef conv_spec, at::IntArrayRef linear_spec)
    : x(x),
      edge_vec(edge_vec),
      edge_index(edge_index),
      atom_types(atom_types),
      cutoffs(cutoffs),
      table(table),
      linear(linear),
      conv(ConvSpec::parse(conv_spec)),
      map(BlockSpec::parse(linear_spec)) {
  check_floating(x, "x");
  check_shape(x, "x", {kAny, conv.dim_in});
  const std::pair<const at::Tensor&, const char*> floating[] = {
      {edge_vec, "edge_vec"}, {cutoffs, "cutoffs"}, {table, "table"}, {linear, "linear"}};
  for (const auto& [tensor, name] : floating) {
    check_same_dtype(tensor, name, x, "x");
    check_same_device(tensor, name, x, "x");
  }
  check_dtype(edge_index, "edge_index", at::kLong);
  check_same_device(edge_index, "edge_index", x, "x");
  check_dtype(atom_types, "atom_types", at::kLong);
  check_same_device(atom_types, "atom_types", x, "x");
  check_shape(edge_index, "edge_index", {2, kAny});
  check_shape(edge_vec, "edge_vec", {edge_index.sym_size(1), 3});
  check_shape(atom_types, "atom_types", {x.sym_size(0)});
  check_shape(cutoffs, "cutoffs", {cutoffs.sym_size(0), cutoffs.sym_size(0)});
  check_shape(linear, "linear", {map.weight_numel});
  check_shape(table, "table", {kAny});
  TORCH_CHECK_VALUE(linear_spec[3] == 0, "linear_spec scales by 1 / sqrt(mul_in * ", linear_spec[3],
                    "): give BlockSpec(..., fan=0) and weights that are scaled");
  TORCH_CHECK_VALUE(map.dim_in == conv.dim_out, "linear_spec takes ", map.dim_in,
                    " columns but the convolution gives ", conv.dim_out);
  TORCH_CHECK_VALUE(table.size(0) % conv.weight_numel == 0 && table.size(0) >= 6 * conv.weight_numel,
                    "table has ", table.size(0), " numbers, expected a multiple of ", conv.weight_numel,
                    ", at least 6 times it");
  intervals = table.size(0) / conv.weight_numel - 5;
}

void TabulatedConv::check_cotangents(const at::Tensor& cotangents) const {
  check_same_dtype(cotangents, "cotangents", x, "x");
  check_same_device(cotangents, "cotangents", x, "x");
  check_shape(cotangents, "cotangents", {kAny, x.sym_size(0), map.dim_out});
}

at::Tensor tabulated_conv(const at::Tensor& x, const at::Tensor& edge_vec, const at::Tensor& edge_index,
                          const at::Tensor& atom_types, const at::Tensor& cutoffs, const at::Tensor& table,
                          const at::Tensor& linear, at::IntArrayRef conv_spec, at::IntArrayRef linear_spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::tabulated_conv", "")
                       .typed<decltype(tabulated_conv)>();
  return op.call(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec, linear_spec);
}

std::tuple<at::Tensor, at::Tensor> tabulated_conv_vjp(
    const at::Tensor& cotangents, const at::Tensor& x, const at::Tensor& edge_vec,
    const at::Tensor& edge_index, const at::Tensor& atom_types, const at::Tensor& cutoffs,
    const at::Tensor& table, const at::Tensor& linear_transposed, at::IntArrayRef conv_spec,
    at::IntArrayRef linear_spec, bool needs_x) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::tabulated_conv_vjp", "")
                       .typed<decltype(tabulated_conv_vjp)>();
  return op.call(cotangents, x, edge_vec, edge_index, atom_types, cutoffs, table, linear_transposed,
                 conv_spec, linear_spec, needs_x);
}

namespace {

at::Tensor meta(const at::Tensor& x, const at::Tensor& edge_vec, const at::Tensor& edge_index,
                const at::Tensor& atom_types, const at::Tensor& cutoffs, const at::Tensor& table,
                const at::Tensor& linear, at::IntArrayRef conv_spec, at::IntArrayRef linear_spec) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec,
                           linear_spec);
  return at::empty_symint({x.sym_size(0), conv.map.dim_out}, x.options());
}

std::tuple<at::Tensor, at::Tensor> meta_vjp(const at::Tensor& cotangents, const at::Tensor& x,
                                            const at::Tensor& edge_vec, const at::Tensor& edge_index,
                                            const at::Tensor& atom_types, const at::Tensor& cutoffs,
                                            const at::Tensor& table, const at::Tensor& linear_transposed,
                                            at::IntArrayRef conv_spec, at::IntArrayRef linear_spec,
                                            bool needs_x) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear_transposed, conv_spec,
                           linear_spec);
  conv.check_cotangents(cotangents);
  const c10::SymInt k = cotangents.sym_size(0);
  return {at::empty_symint({needs_x ? k : c10::SymInt(0), x.sym_size(0), x.sym_size(1)}, x.options()),
          at::empty_symint({k, edge_vec.sym_size(0), 3}, x.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def(
      "tabulated_conv(Tensor x, Tensor edge_vec, Tensor edge_index, Tensor atom_types, Tensor cutoffs, "
      "Tensor table, Tensor linear, int[] conv_spec, int[] linear_spec) -> Tensor");
  m.def(
      "tabulated_conv_vjp(Tensor cotangents, Tensor x, Tensor edge_vec, Tensor edge_index, Tensor "
      "atom_types, Tensor cutoffs, Tensor table, Tensor linear_transposed, int[] conv_spec, "
      "int[] linear_spec, bool needs_x) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("tabulated_conv", &meta);
  m.impl("tabulated_conv_vjp", &meta_vjp);
}

}  // namespace uqforce
