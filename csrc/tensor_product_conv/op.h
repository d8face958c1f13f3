// The tensor-product convolution: a form that is linear in each of four tensors,
//   T(g, x, Y, w) = sum_e sum_paths sum_{m1 m2 m3 u} C[m1, m2, m3] g[i, m3, u] x[j, m1, u] Y[e, m2] w[e, u]
// with C = sqrt(2 l3 + 1) * w3j, centre i = edge_index[0, e] and neighbour j = edge_index[1, e]. The forward
// op is its gradient with respect to g; the backward op gives those with respect to x, Y and w; the double
// backward op differentiates T(g, ddx, Y, w) + T(g, x, ddY, w) + T(g, x, Y, ddw) with respect to g, x, Y and
// w.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "common/api.h"

namespace uqforce {

// One coupling (l1, l2, l3) of `mul` channels; see docs/reference.md for the offsets.
struct ConvPath {
  int64_t l1, l2, l3, mul, in_offset, in_stride, out_offset, out_stride, weight_offset;
};

struct ConvSpec {
  int64_t dim_in, dim_out, sh_dim, weight_numel;
  std::vector<ConvPath> paths;

  // ValueError unless every path stays within the dimensions and every output column and weight belongs to
  // exactly one path. Parsed once per distinct list, then remembered.
  UQFORCE_API static const ConvSpec& parse(at::IntArrayRef flat);
};

// x [N, dim_in], edge_sh [E, sh_dim], edge_weight [E, weight_numel], edge_index [2, E] int64 -> [N, dim_out]
at::Tensor tensor_product_conv(const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
                               const at::Tensor& edge_index, at::IntArrayRef spec);

// grad [N, dim_out] -> gradients of x, edge_sh, edge_weight; an empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor, at::Tensor> tensor_product_conv_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
    const at::Tensor& edge_index, at::IntArrayRef spec, std::array<bool, 3> needs);

// Cotangents ddx, ddsh, ddw of the backward's results (absent: zero) -> gradients of grad, x, edge_sh,
// edge_weight; an empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tensor_product_conv_double_backward(
    const std::optional<at::Tensor>& ddx, const std::optional<at::Tensor>& ddsh,
    const std::optional<at::Tensor>& ddw, const at::Tensor& grad, const at::Tensor& x,
    const at::Tensor& edge_sh, const at::Tensor& edge_weight, const at::Tensor& edge_index,
    at::IntArrayRef spec, std::array<bool, 4> needs);

// Throws unless dtypes, devices and shapes fit each other and `spec`; `grad` and the cotangents may be
// absent.
UQFORCE_API void check_conv(const at::Tensor& x, const at::Tensor& edge_sh, const at::Tensor& edge_weight,
                            const at::Tensor& edge_index, const ConvSpec& spec,
                            const std::optional<at::Tensor>& grad = {},
                            const std::optional<at::Tensor>& ddx = {},
                            const std::optional<at::Tensor>& ddsh = {},
                            const std::optional<at::Tensor>& ddw = {});

}  // namespace uqforce
