// The equivariant linear map's CUDA ops: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "block_linear/cuda.h"
#include "block_linear/op.h"
#include "common/checks.h"

namespace uqforce::linear_map {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Atoms by type, in memory of torch.
struct Types {
  Tensor sorted, order, begin;
  CudaTypes types{};

  Types(const OptionalTensor& of, int64_t count, const Tensor& rows, void* stream) {
    TORCH_CHECK_VALUE(count < std::numeric_limits<int>::max(), "weight has ", count, " rows: too many");
    types.count = int(count);
    if (of) {
      std::tie(sorted, order) = at::sort(*of, /*stable=*/true, /*dim=*/0, /*descending=*/false);
      types.sorted = sorted.const_data_ptr<int64_t>();
      types.order = order.const_data_ptr<int64_t>();
    }
    begin = at::empty({count + 1}, rows.options().dtype(at::kLong));
    types.begin = begin.mutable_data_ptr<int64_t>();
    find_types(rows.size(0), types, stream);
  }
};

// The blocks of a map, CudaBlocks::kMost at a time.
template <class Use>
void for_blocks(const BlockSpec& spec, bool transposed, const Use& use) {
  for (size_t first = 0; first < spec.blocks.size(); first += CudaBlocks::kMost) {
    CudaBlocks blocks{};
    for (size_t k = first; k < std::min(first + CudaBlocks::kMost, spec.blocks.size()); ++k) {
      const ColumnBlock& b = spec.blocks[k];
      CudaBlock& block = blocks.block[blocks.count++];
      block = {int(b.components), int(b.mul_in),        int(b.mul_out), int(b.in_offset),
               int(b.out_offset), int(b.weight_offset), b.scale,        0};
      if (transposed) std::swap(block.from, block.to), std::swap(block.from_offset, block.to_offset);
    }
    use(blocks);
  }
}

void check_sizes(const BlockSpec& spec, int64_t num_types) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  TORCH_CHECK_VALUE(std::max(spec.dim_in, spec.dim_out) < most &&
                        spec.weight_numel < most / std::max<int64_t>(num_types, 1),
                    "spec and types need more than 2^31 - 1 columns or weights");
}

Tensor linear_cuda(const Tensor& x, const Tensor& weight, const OptionalTensor& types, at::IntArrayRef flat,
                   bool transposed) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_shape(weight, "weight", {kAny, spec.weight_numel});
  const OptionalTensor none;
  const int64_t num_types = weight.size(0), dim = transposed ? spec.dim_in : spec.dim_out;
  check_block_linear(spec, types, num_types, transposed ? none : x, weight, transposed ? x : none);
  check_sizes(spec, num_types);
  const c10::DeviceGuard guard(x.device());
  const bool covered = transposed ? spec.covers_in : spec.covers_out;
  const Tensor out =
      covered ? at::empty({x.size(0), dim}, x.options()) : at::zeros({x.size(0), dim}, x.options());
  if (x.size(0) == 0) return out;
  void* const stream = current_stream(x.device());
  const Tensor rows = x.contiguous(), w = weight.contiguous();
  const Types grouped(types, num_types, rows, stream);
  const auto with_type = [&]<typename T>(T) {
    const CudaMap<T> map{rows.size(0),
                         rows.size(1),
                         dim,
                         spec.weight_numel,
                         grouped.types,
                         rows.const_data_ptr<T>(),
                         out.mutable_data_ptr<T>()};
    for_blocks(spec, transposed, [&](const CudaBlocks& blocks) {
      map_rows<T>(map, blocks, w.const_data_ptr<T>(), transposed, stream);
    });
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return out;
}

Tensor weight_cuda(const Tensor& x, const Tensor& grad, const OptionalTensor& types,
                   c10::SymInt sym_num_types, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_block_linear(spec, types, sym_num_types, x, {}, grad);
  const int64_t num_types = sym_num_types.expect_int();
  check_sizes(spec, num_types);
  const c10::DeviceGuard guard(x.device());
  if (x.size(0) == 0) return at::zeros({num_types, spec.weight_numel}, x.options());
  const Tensor out = at::empty({num_types, spec.weight_numel}, x.options());
  void* const stream = current_stream(x.device());
  const Tensor rows = x.contiguous(), g = grad.contiguous();
  const Types grouped(types, num_types, rows, stream);
  const auto with_type = [&]<typename T>(T) {
    const CudaMap<T> map{rows.size(0),
                         rows.size(1),
                         g.size(1),
                         spec.weight_numel,
                         grouped.types,
                         rows.const_data_ptr<T>(),
                         const_cast<T*>(g.const_data_ptr<T>())};
    for_blocks(spec, false, [&](const CudaBlocks& blocks) {
      const Tensor partial = at::empty({partial_size(map.atoms, map.types.count, blocks)}, x.options());
      weight_gradient<T>(map, blocks, partial.mutable_data_ptr<T>(), out.mutable_data_ptr<T>(), stream);
    });
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return out;
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("block_linear", &linear_cuda);
  m.impl("block_linear_weight", &weight_cuda);
}

}  // namespace uqforce::linear_map

#else

UQFORCE_WITHOUT_CUDA("block_linear", "block_linear_weight")

#endif
