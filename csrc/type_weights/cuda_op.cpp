// The weights per type on CUDA: a batched matrix product for each block. They do not grow with the system, so
// that the matrix products of torch do.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "type_weights/op.h"

namespace uqforce {
namespace {

using at::Tensor;

// [rows, weight_numel] -> a block's part [mul_in, rows, mul_out]
Tensor by_channel(const Tensor& rows, const ColumnBlock& b) {
  return rows.narrow(1, b.weight_offset, b.mul_in * b.mul_out)
      .reshape({rows.size(0), b.mul_in, b.mul_out})
      .transpose(0, 1);
}

// [V * weight_numel] -> a block's part [mul_in, V, mul_out], a view
Tensor matrices(const Tensor& weight, int64_t v, const ColumnBlock& b) {
  return weight.narrow(0, v * b.weight_offset, v * b.mul_in * b.mul_out).view({b.mul_in, v, b.mul_out});
}

Tensor weights_cuda(const Tensor& features, const Tensor& weight, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  const int64_t v = features.dim() == 2 ? features.size(1) : 0;
  check_type_weights(spec, v, features, weight, {});
  const c10::DeviceGuard guard(features.device());
  const Tensor w = weight.contiguous(),
               out = at::empty({features.size(0), spec.weight_numel}, features.options());
  for (const ColumnBlock& b : spec.blocks) {
    const Tensor product = at::matmul(features, matrices(w, v, b));
    out.narrow(1, b.weight_offset, b.mul_in * b.mul_out).copy_(product.transpose(0, 1).flatten(1));
  }
  return out;
}

Tensor features_cuda(const Tensor& grad, const Tensor& weight, c10::SymInt num_features,
                     at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  const int64_t v = num_features.expect_int();
  check_type_weights(spec, v, {}, weight, grad);
  const c10::DeviceGuard guard(grad.device());
  const Tensor w = weight.contiguous(), out = at::zeros({grad.size(0), v}, grad.options());
  for (const ColumnBlock& b : spec.blocks) {
    const Tensor part = matrices(w, v, b).transpose(1, 2);
    out.add_(at::matmul(by_channel(grad, b), part).sum(0));
  }
  return out;
}

Tensor weight_cuda(const Tensor& features, const Tensor& grad, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  const int64_t v = features.dim() == 2 ? features.size(1) : 0;
  check_type_weights(spec, v, features, {}, grad);
  const c10::DeviceGuard guard(features.device());
  const Tensor out = at::empty({v * spec.weight_numel}, features.options());
  for (const ColumnBlock& b : spec.blocks) {
    matrices(out, v, b).copy_(at::matmul(features.t(), by_channel(grad, b)));
  }
  return out;
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("type_weights", &weights_cuda);
  m.impl("type_weights_features", &features_cuda);
  m.impl("type_weights_weight", &weight_cuda);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("type_weights", "type_weights_features", "type_weights_weight")

#endif
