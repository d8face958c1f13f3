// Equivariant linear map of features stored channels innermost: one matrix product per irrep, with weights
// that may depend on the type of a row. For inference: its derivative in x is itself, transposed.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace uqforce {

// One irrep: `dim` components of mul_in input and mul_out output channels, weights [mul_in, mul_out].
struct LinearBlock {
  int64_t dim, in_offset, mul_in, out_offset, mul_out, weight_offset;
};

struct LinearSpec {
  int64_t dim_in, dim_out, weight_numel;
  std::vector<LinearBlock> blocks;

  // ValueError unless every block stays within the dimensions and shares no output or weight with another.
  static LinearSpec parse(at::IntArrayRef flat);
  // Columns of the output that no block gives are zero.
  bool is_full() const;
  // Each block's matrix transposed, weight [.., weight_numel].
  at::Tensor transpose(const at::Tensor& weight) const;
  // The map from the output to the input, with such weights.
  std::vector<int64_t> transposed() const;
};

// x [N, dim_in] or [K, N, dim_in], weight [T, weight_numel], types [N] in 0..T-1, absent for T = 1
//   -> [N, dim_out] or [K, N, dim_out]
at::Tensor irreps_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& types, at::IntArrayRef spec);

// Throws unless dtypes, devices and shapes fit each other and `spec`.
void check_irreps_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& types, const LinearSpec& spec);

}  // namespace uqforce
