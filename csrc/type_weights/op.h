// The weights of an equivariant linear map for each type of atom, from features of the types: for every block
// of a BlockSpec, with V features,
//   out[t, weight_offset + u mul_out + w] = sum_v features[t, v] weight[V weight_offset + (u V + v) mul_out +
//   w],
// a form that is bilinear in features and weight. With a cotangent of the result it is trilinear, so that the
// three ops, its derivatives by each of the three, are each other's gradients and have all derivatives.
#pragma once

#include <ATen/core/Tensor.h>

#include "block_linear/op.h"
#include "common/api.h"

namespace uqforce {

// features [T, V], weight [V * weight_numel] -> [T, weight_numel]
at::Tensor type_weights(const at::Tensor& features, const at::Tensor& weight, at::IntArrayRef spec);

// grad [T, weight_numel], weight [V * weight_numel] -> gradient of features [T, V]
at::Tensor type_weights_features(const at::Tensor& grad, const at::Tensor& weight, c10::SymInt num_features,
                                 at::IntArrayRef spec);

// features [T, V], grad [T, weight_numel] -> gradient of weight [V * weight_numel]
at::Tensor type_weights_weight(const at::Tensor& features, const at::Tensor& grad, at::IntArrayRef spec);

// Throws unless dtypes, devices and shapes fit; features, weight and grad may be absent.
UQFORCE_API void check_type_weights(const BlockSpec& spec, const c10::SymInt& num_features,
                                    const std::optional<at::Tensor>& features,
                                    const std::optional<at::Tensor>& weight,
                                    const std::optional<at::Tensor>& grad);

}  // namespace uqforce
