// Schemas, checks, shapes (Meta) and dispatcher calls of the radial interpolation.
#include "radial_interpolation/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/checks.h"
#include "radial_interpolation/cpu_kernels.h"

namespace uqforce {

void check_radial(const at::Tensor& slope, const at::Tensor& x, const std::optional<at::Tensor>& table,
                  const std::optional<at::Tensor>& grad, const std::optional<at::Tensor>& ddtable,
                  const std::optional<at::Tensor>& ddx) {
  check_floating(slope, "slope");
  check_shape(slope, "slope", {kAny, kAny});
  const auto rows = slope.sym_size(0), columns = slope.sym_size(1), edges = x.sym_size(0);
  TORCH_CHECK_VALUE(rows >= radial::kWidth, "slope has ", rows, " rows, but values are interpolated between ",
                    radial::kWidth, ": give more nodes");
  const auto check = [&](const std::optional<at::Tensor>& tensor, const char* name,
                         std::initializer_list<c10::SymInt> shape) {
    if (!tensor.has_value()) return;
    check_shape(*tensor, name, shape);
    check_same_dtype(*tensor, name, slope, "slope");
    check_same_device(*tensor, name, slope, "slope");
  };
  check(x, "x", {kAny, 1});
  check(table, "table", {rows, columns});
  check(grad, "grad", {edges, columns});
  check(ddtable, "ddtable", {rows, columns});
  check(ddx, "ddx", {edges, 1});
}

at::Tensor radial_interpolation(const at::Tensor& table, const at::Tensor& slope, const at::Tensor& x) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::radial_interpolation", "")
                       .typed<decltype(radial_interpolation)>();
  return op.call(table, slope, x);
}

std::tuple<at::Tensor, at::Tensor> radial_interpolation_backward(const at::Tensor& grad,
                                                                 const at::Tensor& slope, const at::Tensor& x,
                                                                 std::array<bool, 2> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::radial_interpolation_backward", "")
                       .typed<decltype(radial_interpolation_backward)>();
  return op.call(grad, slope, x, needs);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> radial_interpolation_double_backward(
    const std::optional<at::Tensor>& ddtable, const std::optional<at::Tensor>& ddx, const at::Tensor& grad,
    const at::Tensor& slope, const at::Tensor& x, std::array<bool, 3> needs) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::radial_interpolation_double_backward", "")
                       .typed<decltype(radial_interpolation_double_backward)>();
  return op.call(ddtable, ddx, grad, slope, x, needs);
}

namespace {

at::Tensor empty_like_or_none(const at::Tensor& like, bool needed) {
  return needed ? at::empty_symint(like.sym_sizes(), like.options()) : at::empty({0}, like.options());
}

at::Tensor meta(const at::Tensor& table, const at::Tensor& slope, const at::Tensor& x) {
  check_radial(slope, x, table);
  return at::empty_symint({x.sym_size(0), table.sym_size(1)}, table.options());
}

std::tuple<at::Tensor, at::Tensor> meta_backward(const at::Tensor& grad, const at::Tensor& slope,
                                                 const at::Tensor& x, std::array<bool, 2> needs) {
  check_radial(slope, x, {}, grad);
  return {empty_like_or_none(slope, needs[0]), empty_like_or_none(x, needs[1])};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> meta_double_backward(
    const std::optional<at::Tensor>& ddtable, const std::optional<at::Tensor>& ddx, const at::Tensor& grad,
    const at::Tensor& slope, const at::Tensor& x, std::array<bool, 3> needs) {
  check_radial(slope, x, {}, grad, ddtable, ddx);
  return {empty_like_or_none(grad, needs[0]), empty_like_or_none(slope, needs[1]),
          empty_like_or_none(x, needs[2])};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("radial_interpolation(Tensor table, Tensor slope, Tensor x) -> Tensor");
  m.def(
      "radial_interpolation_backward(Tensor grad, Tensor slope, Tensor x, bool[2] needs) -> (Tensor, "
      "Tensor)");
  m.def(
      "radial_interpolation_double_backward(Tensor? ddtable, Tensor? ddx, Tensor grad, Tensor slope, Tensor "
      "x, bool[3] needs) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("radial_interpolation", &meta);
  m.impl("radial_interpolation_backward", &meta_backward);
  m.impl("radial_interpolation_double_backward", &meta_double_backward);
}

}  // namespace uqforce
