// The inference form of a NequIP convolution: spherical harmonics of the edges, weights from a table of the
// radial network, tensor product, sum over the neighbours, linear map, in one op. With W_e the weights of an
// edge's length, C(x, Y, W) the tensor-product convolution and L its linear map:
//   out = L(C(x, Y(edge_vec), W))    W_e = (1 - s)^3 sum_k B_k(s) table[k]    s = |edge_vec| / cutoff
// with quintic B-splines B_k on `intervals` equal parts of 0 <= s <= 1; zero beyond.
#pragma once

#include <tuple>

#include "block_linear/op.h"
#include "tensor_product_conv/op.h"

namespace uqforce {

// What value and derivative have in common.
struct TabulatedConv {
  at::Tensor x;           // [N, dim_in]
  at::Tensor edge_vec;    // [E, 3], A
  at::Tensor edge_index;  // [2, E]
  at::Tensor atom_types;  // [N]
  at::Tensor cutoffs;     // [T, T], of centre and neighbour, A
  at::Tensor table;       // for each path in turn [intervals + 5, mul]
  at::Tensor linear;      // the blocks' weights; for the derivative each transposed
  const ConvSpec& conv;
  const BlockSpec& map;
  int64_t intervals;

  // Checks all but the values of indices.
  UQFORCE_API TabulatedConv(const at::Tensor& x, const at::Tensor& edge_vec, const at::Tensor& edge_index,
                            const at::Tensor& atom_types, const at::Tensor& cutoffs, const at::Tensor& table,
                            const at::Tensor& linear, at::IntArrayRef conv_spec, at::IntArrayRef linear_spec);
  UQFORCE_API void check_cotangents(const at::Tensor& cotangents) const;
};

// -> [N, dim_out of the linear map]
at::Tensor tabulated_conv(const at::Tensor& x, const at::Tensor& edge_vec, const at::Tensor& edge_index,
                          const at::Tensor& atom_types, const at::Tensor& cutoffs, const at::Tensor& table,
                          const at::Tensor& linear, at::IntArrayRef conv_spec, at::IntArrayRef linear_spec);

// cotangents [K, N, dim_out] -> gradients of x [K, N, dim_in], or [0, N, dim_in] without needs_x, and of
// edge_vec [K, E, 3]
std::tuple<at::Tensor, at::Tensor> tabulated_conv_vjp(
    const at::Tensor& cotangents, const at::Tensor& x, const at::Tensor& edge_vec,
    const at::Tensor& edge_index, const at::Tensor& atom_types, const at::Tensor& cutoffs,
    const at::Tensor& table, const at::Tensor& linear_transposed, at::IntArrayRef conv_spec,
    at::IntArrayRef linear_spec, bool needs_x);

}  // namespace uqforce
