// NequIP's gated nonlinearity, f(z) = silu_factor silu(z), h(z) = tanh_factor tanh(z). A row of x holds odd
// scalars o, even scalars s, gates g (one for each channel of the blocks) and blocks b [2l+1, mul]:
//   out = f(s), h(o), b f(g)
// Its derivative by x for a cotangent, and the derivative of that, are ops of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

#include "common/api.h"
#include "gate/body.h"

namespace uqforce {

// spec = [odd scalars, even scalars, gates, then for every block: first column of x, 2l+1, mul]
// x [N, dim_in] -> [N, dim_out]
at::Tensor gate(const at::Tensor& x, at::IntArrayRef spec, double silu_factor, double tanh_factor);

// grad [N, dim_out], or [K, N, dim_out] for K cotangents -> gradient of x for each
at::Tensor gate_backward(const at::Tensor& grad, const at::Tensor& x, at::IntArrayRef spec,
                         double silu_factor, double tanh_factor);

// ddx [N, dim_in] -> gradients of grad [N, dim_out] and x; an empty tensor where needs[k] is false.
std::tuple<at::Tensor, at::Tensor> gate_double_backward(const at::Tensor& ddx, const at::Tensor& grad,
                                                        const at::Tensor& x, at::IntArrayRef spec,
                                                        double silu_factor, double tanh_factor,
                                                        std::array<bool, 2> needs);

// ValueError unless the columns of the spec cover a row. Parsed once per distinct list, then remembered.
UQFORCE_API const gating::Layout& gate_layout(at::IntArrayRef spec);

// Throws unless dtypes, devices and shapes fit; undefined tensors are absent.
UQFORCE_API void check_gate(const gating::Layout& layout, const at::Tensor& x, const at::Tensor& grad = {},
                            const at::Tensor& ddx = {});

}  // namespace uqforce
