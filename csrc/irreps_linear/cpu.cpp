// CPU implementation of the equivariant linear map: rows of one type together, block of rows by block.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "common/isa.h"
#include "irreps_linear/cpu_kernels.h"
#include "irreps_linear/op.h"

namespace uqforce {
namespace linear_map {

template <typename T>
const Kernels<T>& active_kernels() {
  const auto choose = [](const Kernels<float>& f32, const Kernels<double>& f64) -> const Kernels<T>& {
    if constexpr (std::is_same_v<T, float>) {
      return f32;
    } else {
      return f64;
    }
  };
  switch (active_isa()) {
#ifdef __x86_64__
    case Isa::avx512:
      return choose(kernels_avx512_f32, kernels_avx512_f64);
    case Isa::avx2:
      return choose(kernels_avx2_f32, kernels_avx2_f64);
#endif
    default:
      return choose(kernels_baseline_f32, kernels_baseline_f64);
  }
}
template const Kernels<float>& active_kernels();
template const Kernels<double>& active_kernels();

}  // namespace linear_map

namespace {

using at::Tensor;

template <typename T>
void run(const LinearSpec& spec, const Tensor& x, const Tensor& weight, const int64_t* types, int64_t nodes,
         const Tensor& out) {
  constexpr int64_t kBlock = 16 * linear_map::kRows;
  const auto& kernels = linear_map::active_kernels<T>();
  const int64_t rows = x.numel() / std::max<int64_t>(spec.dim_in, 1), blocks = (rows + kBlock - 1) / kBlock;
  const T *from = x.const_data_ptr<T>(), *weights = weight.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    std::vector<const T*> sources;
    std::vector<T*> targets;
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kBlock, end = std::min(begin + kBlock, rows);
      for (int64_t type = 0; type < weight.size(0); ++type) {
        for (const LinearBlock& b : spec.blocks) {
          sources.clear(), targets.clear();
          for (int64_t r = begin; r < end; ++r) {
            if (types && types[r % nodes] != type) continue;
            for (int64_t m = 0; m < b.dim; ++m) {
              sources.push_back(from + r * spec.dim_in + b.in_offset + m * b.mul_in);
              targets.push_back(to + r * spec.dim_out + b.out_offset + m * b.mul_out);
            }
          }
          kernels.matmul(sources.data(), weights + type * spec.weight_numel + b.weight_offset, targets.data(),
                         sources.size(), b.mul_in, b.mul_out);
        }
      }
    }
  });
}

Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& types,
               at::IntArrayRef flat) {
  const LinearSpec spec = LinearSpec::parse(flat);
  check_irreps_linear(x, weight, types, spec);
  const Tensor rows = x.contiguous(), weights = weight.contiguous(),
               of_rows = types ? types->contiguous() : Tensor();
  const int64_t* type = types ? of_rows.const_data_ptr<int64_t>() : nullptr;
  const int64_t nodes = x.size(-2);
  for (int64_t i = 0; type && i < nodes; ++i) {
    TORCH_CHECK_INDEX(type[i] >= 0 && type[i] < weight.size(0), "types has ", type[i], " but weight is for ",
                      weight.size(0), " types: types must be in 0..", weight.size(0) - 1);
  }
  auto sizes = x.sizes().vec();
  sizes.back() = spec.dim_out;
  const Tensor out = spec.is_full() ? at::empty(sizes, x.options()) : at::zeros(sizes, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "irreps_linear",
                             [&] { run<scalar_t>(spec, rows, weights, type, nodes, out); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) { m.impl("irreps_linear", &forward); }

}  // namespace uqforce
