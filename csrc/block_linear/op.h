// Equivariant linear maps: for every block, its components m and the matrix W = weight[types[n]] of an atom
// n,
//   out[n, out_offset + m mul_out + w] = scale sum_u x[n, in_offset + m mul_in + u] W[weight_offset + u
//   mul_out + w],
// a form that is bilinear in x and weight. Its gradients are forms of the same kind: the transposed map and
// block_linear_weight, whose own gradients are the two maps again. So two ops have all derivatives.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "common/api.h"

namespace uqforce {

struct ColumnBlock {
  int64_t components, mul_in, mul_out, in_offset, out_offset, weight_offset;
  double scale;  // 1 / sqrt(mul_in * fan), 1 for fan = 0
};

struct BlockSpec {
  int64_t dim_in, dim_out, weight_numel;
  bool covers_in, covers_out;  // every column belongs to a block
  std::vector<ColumnBlock> blocks;

  // ValueError unless every block stays within the dimensions and shares no output and no weight.
  // Parsed once per distinct list, then remembered.
  UQFORCE_API static const BlockSpec& parse(at::IntArrayRef flat);
  // weight [.., weight_numel] with the matrix of each block transposed.
  at::Tensor transpose(const at::Tensor& weight) const;
};

// x [N, dim_in], weight [T, weight_numel], types [N] int64 below T (absent: T is 1) ->
// [N, dim_out], zero outside the blocks. `transposed` maps x [N, dim_out] -> [N, dim_in].
at::Tensor block_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& types,
                        at::IntArrayRef spec, bool transposed);

// x [N, dim_in], grad [N, dim_out] -> gradient of weight [T, weight_numel]
at::Tensor block_linear_weight(const at::Tensor& x, const at::Tensor& grad,
                               const std::optional<at::Tensor>& types, c10::SymInt num_types,
                               at::IntArrayRef spec);

// Throws unless dtypes, devices and shapes fit; x, weight and grad may be absent.
UQFORCE_API void check_block_linear(const BlockSpec& spec, const std::optional<at::Tensor>& types,
                                    const c10::SymInt& num_types, const std::optional<at::Tensor>& x,
                                    const std::optional<at::Tensor>& weight,
                                    const std::optional<at::Tensor>& grad);

}  // namespace uqforce
