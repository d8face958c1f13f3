// CPU driver of the equivariant linear map: rows of one type together, block of rows by block, every row read
// and written in place. The gradient of the weights is torch's matrix product, one for each block and type,
// of rows that are copied together where they do not stand so.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cstring>
#include <utility>

#include "block_linear/cpu_kernels.h"
#include "block_linear/op.h"
#include "common/checks.h"
#include "common/isa.h"
#include "common/pool.h"

namespace uqforce {
namespace linear_map {

template <typename T>
const Kernels<T>& active_kernels() {
  return UQFORCE_ACTIVE_OF(T, linear_map::kernels);
}
template const Kernels<float>& active_kernels();
template const Kernels<double>& active_kernels();

}  // namespace linear_map

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor columns(const Tensor& t, int64_t offset, int64_t count) {
  return t.as_strided({t.size(0), count}, {t.size(1), 1}, t.storage_offset() + offset);
}

Tensor matrix(const Tensor& weight, int64_t type, const ColumnBlock& b) {
  return weight.as_strided({b.mul_in, b.mul_out}, {b.mul_out, 1},
                           weight.storage_offset() + type * weight.size(1) + b.weight_offset);
}

// out = scale a b
void product(Tensor out, const Tensor& a, const Tensor& b, double scale) {
  at::addmm_out(out, out, a, b, 0, scale);
}

// Atoms in the order of their types: those of type t are order[begin[t]] to order[begin[t + 1] - 1].
struct Grouped {
  std::vector<int64_t> begin, order;

  Grouped(const Tensor& types, int64_t num_types) : begin(num_types + 1, 0), order(types.numel()) {
    const Tensor of = types.contiguous();
    const int64_t* type = of.const_data_ptr<int64_t>();
    const int64_t atoms = of.numel();
    for (int64_t n = 0; n < atoms; ++n) {
      TORCH_CHECK_INDEX(0 <= type[n] && type[n] < num_types, "types has ", type[n], " but weight has ",
                        num_types, " rows");
      ++begin[type[n] + 1];
    }
    for (int64_t t = 0; t < num_types; ++t) begin[t + 1] += begin[t];
    std::vector<int64_t> next(begin);
    for (int64_t n = 0; n < atoms; ++n) order[next[type[n]]++] = n;
  }
};

// Columns `offset` to `offset + width` of the rows, in their order or that of `grouped`,
// [atoms * width / mul, mul]
Tensor pack(const Tensor& rows, const std::optional<Grouped>& grouped, int64_t offset, int64_t width,
            int64_t mul) {
  Tensor packed = at::empty({rows.size(0) * width / mul, mul}, rows.options());
  const int64_t item = rows.element_size(), stride = rows.size(1) * item;
  const char* from = static_cast<const char*>(rows.const_data_ptr()) + offset * item;
  char* to = static_cast<char*>(packed.mutable_data_ptr());
  for (int64_t n = 0; n < rows.size(0); ++n) {
    std::memcpy(to, from + (grouped ? grouped->order[n] : n) * stride, width * item);
    to += width * item;
  }
  return packed;
}

// to = scale from [rows, columns], or its transpose
template <typename T>
void scaled(const T* from, int64_t rows, int64_t columns, T scale, bool transposed, T* to) {
  if (!transposed) {
    for (int64_t i = 0; i < rows * columns; ++i) to[i] = scale * from[i];
    return;
  }
  constexpr int64_t kTile = 16;  // whose lines stay in the cache
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t last = std::min(r0 + kTile, rows);
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = r0; r < last; ++r) to[c * rows + r] = scale * from[r * columns + c];
    }
  }
}

// weight [T, numel] as the kernel takes it: scaled, and transposed where the map is.
template <typename T>
Tensor matrices(const Tensor& weight, const BlockSpec& spec, bool transposed) {
  const bool as_it_is = !transposed && std::all_of(spec.blocks.begin(), spec.blocks.end(),
                                                   [](auto& b) { return b.scale == 1; });
  const Tensor given = weight.contiguous();
  if (as_it_is) return given;
  const Tensor out = empty_from_pool(given.sizes(), given.options());
  const T* from = given.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for (int64_t type = 0; type < given.size(0); ++type) {
    for (const ColumnBlock& b : spec.blocks) {
      const int64_t first = type * spec.weight_numel + b.weight_offset;
      scaled<T>(from + first, b.mul_in, b.mul_out, static_cast<T>(b.scale), transposed, to + first);
    }
  }
  return out;
}

template <typename T>
void multiply(const BlockSpec& spec, bool transposed, const Tensor& x, const Tensor& weight,
              const std::optional<Grouped>& grouped, const Tensor& out) {
  constexpr int64_t kBlock = 16 * linear_map::kRows;
  const auto& kernels = linear_map::active_kernels<T>();
  const T *from = x.const_data_ptr<T>(), *weights = weight.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for (int64_t type = 0; type < weight.size(0); ++type) {
    const int64_t first = grouped ? grouped->begin[type] : 0,
                  last = grouped ? grouped->begin[type + 1] : x.size(0);
    at::parallel_for(0, (last - first + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
      std::vector<const T*> sources;
      std::vector<T*> targets;
      for (int64_t block = begin; block < end; ++block) {
        for (const ColumnBlock& b : spec.blocks) {
          const int64_t k = transposed ? b.mul_out : b.mul_in, n = transposed ? b.mul_in : b.mul_out;
          const int64_t source = transposed ? b.out_offset : b.in_offset;
          const int64_t target = transposed ? b.in_offset : b.out_offset;
          sources.clear(), targets.clear();
          for (int64_t r = first + block * kBlock; r < std::min(first + (block + 1) * kBlock, last); ++r) {
            const int64_t row = grouped ? grouped->order[r] : r;
            for (int64_t m = 0; m < b.components; ++m) {
              sources.push_back(from + row * x.size(1) + source + m * k);
              targets.push_back(to + row * out.size(1) + target + m * n);
            }
          }
          kernels.matmul(sources.data(), weights + type * spec.weight_numel + b.weight_offset, targets.data(),
                         sources.size(), k, n);
        }
      }
    });
  }
}

Tensor linear_cpu(const Tensor& x, const Tensor& weight, const OptionalTensor& types, at::IntArrayRef flat,
                  bool transposed) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_shape(weight, "weight", {kAny, spec.weight_numel});
  const OptionalTensor none;
  const int64_t num_types = weight.size(0), dim = transposed ? spec.dim_in : spec.dim_out;
  check_block_linear(spec, types, num_types, transposed ? none : x, weight, transposed ? x : none);
  std::optional<Grouped> grouped;
  if (types) grouped.emplace(*types, num_types);
  const bool covered = transposed ? spec.covers_in : spec.covers_out;
  const Tensor out =
      covered ? at::empty({x.size(0), dim}, x.options()) : at::zeros({x.size(0), dim}, x.options());
  const Tensor rows = x.contiguous();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "block_linear", [&] {
    multiply<scalar_t>(spec, transposed, rows, matrices<scalar_t>(weight, spec, transposed), grouped, out);
  });
  return out;
}

Tensor weight_cpu(const Tensor& x, const Tensor& grad, const OptionalTensor& types, c10::SymInt sym_num_types,
                  at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_block_linear(spec, types, sym_num_types, x, {}, grad);
  const int64_t num_types = sym_num_types.expect_int(), atoms = x.size(0);
  const Tensor rows = x.contiguous(), g = grad.contiguous();
  Tensor out = at::zeros({num_types, spec.weight_numel}, x.options());
  std::optional<Grouped> grouped;
  if (types) grouped.emplace(*types, num_types);
  for (size_t k = 0; atoms > 0 && k < spec.blocks.size(); ++k) {
    const ColumnBlock& b = spec.blocks[k];
    if (!grouped && b.components == 1) {
      product(matrix(out, 0, b), columns(rows, b.in_offset, b.mul_in).t(),
              columns(g, b.out_offset, b.mul_out), b.scale);
      continue;
    }
    const Tensor packed = pack(rows, grouped, b.in_offset, b.components * b.mul_in, b.mul_in);
    const Tensor packed_g = pack(g, grouped, b.out_offset, b.components * b.mul_out, b.mul_out);
    for (int64_t t = 0; t < num_types; ++t) {
      const int64_t first = grouped ? grouped->begin[t] * b.components : 0,
                    last = grouped ? grouped->begin[t + 1] * b.components : packed.size(0);
      if (first == last) continue;
      product(matrix(out, t, b), packed.slice(0, first, last).t(), packed_g.slice(0, first, last), b.scale);
    }
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("block_linear", &linear_cpu);
  m.impl("block_linear_weight", &weight_cpu);
}

}  // namespace uqforce
