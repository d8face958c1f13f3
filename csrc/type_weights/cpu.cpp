// CPU kernels of the weights per type: for each input channel u of a block a product with the matrix [V,
// mul_out] that stands there in `weight`, by the kernel of block_linear. Weights are read or written once.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "block_linear/cpu_kernels.h"
#include "common/pool.h"
#include "type_weights/op.h"

namespace uqforce {
namespace {

using at::Tensor;

// One input channel of a block: its weights of one type begin at `offset`, those of all features at V times
// that.
struct Channel {
  int64_t offset, mul_out;
};

std::vector<Channel> channels(const BlockSpec& spec) {
  std::vector<Channel> all;
  for (const ColumnBlock& b : spec.blocks) {
    for (int64_t u = 0; u < b.mul_in; ++u) all.push_back({b.weight_offset + u * b.mul_out, b.mul_out});
  }
  return all;
}

// use(index, channel) for all channels, each by one thread
template <typename Use>
void for_channels(const std::vector<Channel>& all, int64_t features, const Use& use) {
  constexpr int64_t kGrainWeights = 1 << 14;
  const int64_t most = all.empty() ? 1 : std::ranges::max(all, {}, &Channel::mul_out).mul_out;
  const int64_t grain = 1 + kGrainWeights / std::max<int64_t>(1, features * most);
  at::parallel_for(0, static_cast<int64_t>(all.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) use(k, all[k]);
  });
}

template <typename T>
std::vector<T*> rows_of(T* first, int64_t count, int64_t stride) {
  std::vector<T*> rows(count);
  for (int64_t r = 0; r < count; ++r) rows[r] = first + r * stride;
  return rows;
}

// [rows, columns] at `from`, rows `stride` apart -> `to`, columns by rows
template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, int64_t stride, T* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * stride + c];
  }
}

Tensor weights_cpu(const Tensor& features, const Tensor& weight, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_type_weights(spec, features.dim() == 2 ? features.size(1) : 0, features, weight, {});
  const int64_t types = features.size(0), v = features.size(1);
  const Tensor f = features.contiguous(), w = weight.contiguous();
  const Tensor out = at::empty({types, spec.weight_numel}, f.options());
  AT_DISPATCH_FLOATING_TYPES(f.scalar_type(), "type_weights", [&] {
    const auto& kernels = linear_map::active_kernels<scalar_t>();
    const auto* matrices = w.const_data_ptr<scalar_t>();
    auto* results = out.mutable_data_ptr<scalar_t>();
    const auto rows = rows_of(f.const_data_ptr<scalar_t>(), types, v);
    for_channels(channels(spec), v, [&](int64_t, const Channel& c) {
      kernels.matmul(rows.data(), matrices + v * c.offset,
                     rows_of(results + c.offset, types, spec.weight_numel).data(), types, v, c.mul_out);
    });
  });
  return out;
}

Tensor features_cpu(const Tensor& grad, const Tensor& weight, c10::SymInt num_features,
                    at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  const int64_t v = num_features.expect_int();
  check_type_weights(spec, v, {}, weight, grad);
  const int64_t types = grad.size(0);
  const Tensor g = grad.contiguous(), w = weight.contiguous();
  const auto all = channels(spec);
  const Tensor out = at::zeros({types, v}, g.options());
  // Parts of all channels, transposed, then summed in order: whatever the threads are.
  const Tensor parts = at::empty({static_cast<int64_t>(all.size()), v, types}, g.options());
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "type_weights_features", [&] {
    const auto& kernels = linear_map::active_kernels<scalar_t>();
    const auto *matrices = w.const_data_ptr<scalar_t>(), *grads = g.const_data_ptr<scalar_t>();
    auto* part = parts.mutable_data_ptr<scalar_t>();
    for_channels(all, v, [&](int64_t k, const Channel& c) {
      std::vector<scalar_t> transposed(types * c.mul_out);
      transpose(grads + c.offset, types, c.mul_out, spec.weight_numel, transposed.data());
      kernels.matmul(rows_of(matrices + v * c.offset, v, c.mul_out).data(), transposed.data(),
                     rows_of(part + k * v * types, v, types).data(), v, c.mul_out, types);
    });
    auto* sum = out.mutable_data_ptr<scalar_t>();
    for (size_t k = 0; k < all.size(); ++k) {
      for (int64_t i = 0; i < v; ++i) {
        for (int64_t t = 0; t < types; ++t) sum[t * v + i] += part[(k * v + i) * types + t];
      }
    }
  });
  return out;
}

Tensor weight_cpu(const Tensor& features, const Tensor& grad, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_type_weights(spec, features.dim() == 2 ? features.size(1) : 0, features, {}, grad);
  const int64_t types = features.size(0), v = features.size(1);
  const Tensor f = features.t().contiguous(), g = grad.contiguous();
  const Tensor out = empty_from_pool({v * spec.weight_numel}, f.options());
  AT_DISPATCH_FLOATING_TYPES(f.scalar_type(), "type_weights_weight", [&] {
    const auto& kernels = linear_map::active_kernels<scalar_t>();
    const auto* grads = g.const_data_ptr<scalar_t>();
    auto* results = out.mutable_data_ptr<scalar_t>();
    const auto rows = rows_of(f.const_data_ptr<scalar_t>(), v, types);
    for_channels(channels(spec), v, [&](int64_t, const Channel& c) {
      std::vector<scalar_t> packed(types * c.mul_out);
      for (int64_t t = 0; t < types; ++t) {
        std::copy_n(grads + t * spec.weight_numel + c.offset, c.mul_out, packed.data() + t * c.mul_out);
      }
      kernels.matmul(rows.data(), packed.data(), rows_of(results + v * c.offset, v, c.mul_out).data(), v,
                     types, c.mul_out);
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("type_weights", &weights_cpu);
  m.impl("type_weights_features", &features_cpu);
  m.impl("type_weights_weight", &weight_cpu);
}

}  // namespace uqforce
