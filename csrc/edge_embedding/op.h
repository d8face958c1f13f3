// Spherical harmonics of the edges' directions ("component" normalisation, e3nn's order) and their lengths
// over the cutoff. With n = v / |v|, h a cotangent of dv and gY, gx cotangents of the results:
//   dv = P J(n)^T gY / |v| + n c gx,   J = dY/dn, P = 1 - n n^T, c = 1 / cutoff
// and the double backward op differentiates h . dv with respect to gY, gx and v.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "common/api.h"

namespace uqforce {

// edge_vec [E, 3], inverse_cutoff [E] or [1] -> edge_sh [E, (l_max + 1)^2], scaled length [E, 1]
std::tuple<at::Tensor, at::Tensor> edge_embedding(const at::Tensor& edge_vec,
                                                  const at::Tensor& inverse_cutoff, int64_t l_max);

// Gradient of edge_vec from those of the results (absent: zero).
at::Tensor edge_embedding_backward(const std::optional<at::Tensor>& grad_sh,
                                   const std::optional<at::Tensor>& grad_length, const at::Tensor& edge_vec,
                                   const at::Tensor& inverse_cutoff, int64_t l_max);

// ddvec [E, 3] -> gradients of grad_sh, grad_length, edge_vec; an empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor, at::Tensor> edge_embedding_double_backward(
    const at::Tensor& ddvec, const std::optional<at::Tensor>& grad_sh,
    const std::optional<at::Tensor>& grad_length, const at::Tensor& edge_vec,
    const at::Tensor& inverse_cutoff, int64_t l_max, std::array<bool, 3> needs);

// Throws unless dtypes, devices and shapes fit.
UQFORCE_API void check_embedding(const at::Tensor& edge_vec, const at::Tensor& inverse_cutoff, int64_t l_max,
                                 const std::optional<at::Tensor>& grad_sh = {},
                                 const std::optional<at::Tensor>& grad_length = {},
                                 const std::optional<at::Tensor>& ddvec = {});

}  // namespace uqforce
