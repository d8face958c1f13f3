// Functions between the nodes of a table: with c_k the Lagrange polynomials of the kWidth nodes around x,
//   value_e = sum_k c_k(x_e) table[s_e + k],   its derivative by x_e is taken to be sum_k c_k(x_e) slope[s_e
//   + k]
// and the derivative of that sum_k c'_k(x_e) slope[s_e + k]. The backward op gives the gradients of table and
// x; the double backward op differentiates sum_k table'_k dtable_k + sum_e x'_e dx_e with respect to grad,
// slope and x.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "common/api.h"

namespace uqforce {

// table [R, W], slope [R, W], x [E, 1] -> [E, W]; zero where x >= 1
at::Tensor radial_interpolation(const at::Tensor& table, const at::Tensor& slope, const at::Tensor& x);

// grad [E, W] -> gradients of table and x; an empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor> radial_interpolation_backward(const at::Tensor& grad,
                                                                 const at::Tensor& slope, const at::Tensor& x,
                                                                 std::array<bool, 2> needs);

// Cotangents ddtable, ddx of the backward's results (absent: zero) -> gradients of grad, slope and x; an
// empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor, at::Tensor> radial_interpolation_double_backward(
    const std::optional<at::Tensor>& ddtable, const std::optional<at::Tensor>& ddx, const at::Tensor& grad,
    const at::Tensor& slope, const at::Tensor& x, std::array<bool, 3> needs);

// Throws unless dtypes, devices and shapes fit each other; what is optional may be absent.
UQFORCE_API void check_radial(const at::Tensor& slope, const at::Tensor& x,
                              const std::optional<at::Tensor>& table = {},
                              const std::optional<at::Tensor>& grad = {},
                              const std::optional<at::Tensor>& ddtable = {},
                              const std::optional<at::Tensor>& ddx = {});

}  // namespace uqforce
