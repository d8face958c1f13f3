// CPU driver of the equivariant linear map. With one type of atoms, a matrix product for each component of
// each block, on columns in place, so that nothing is split, reshaped or joined. With several types, the
// atoms of one type are copied together, block by block, and there is one product per block and type.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cstring>
#include <utility>

#include "block_linear/op.h"
#include "common/checks.h"

namespace uqforce {
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

// out = (or += if `add`) scale a b
void product(Tensor out, const Tensor& a, const Tensor& b, double scale, bool add) {
  at::addmm_out(out, out, a, b, add ? 1 : 0, scale);
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

  // Columns `offset` to `offset + width` of all rows, [atoms * width / mul, mul]
  Tensor pack(const Tensor& rows, int64_t offset, int64_t width, int64_t mul) const {
    Tensor packed = at::empty({rows.size(0) * width / mul, mul}, rows.options());
    const int64_t item = rows.element_size(), stride = rows.size(1) * item;
    const char* from = static_cast<const char*>(rows.const_data_ptr()) + offset * item;
    char* to = static_cast<char*>(packed.mutable_data_ptr());
    for (const int64_t n : order) {
      std::memcpy(to, from + n * stride, width * item);
      to += width * item;
    }
    return packed;
  }
  void unpack(const Tensor& packed, int64_t offset, int64_t width, Tensor& rows) const {
    const int64_t item = rows.element_size(), stride = rows.size(1) * item;
    const char* from = static_cast<const char*>(packed.const_data_ptr());
    char* to = static_cast<char*>(rows.mutable_data_ptr()) + offset * item;
    for (const int64_t n : order) {
      std::memcpy(to + n * stride, from, width * item);
      from += width * item;
    }
  }
};

// One block of a map: columns of the input and of the output.
struct Side {
  int64_t offset, mul;
};

Tensor linear_cpu(const Tensor& x, const Tensor& weight, const OptionalTensor& types, at::IntArrayRef flat,
                  bool transposed) {
  const auto spec = BlockSpec::parse(flat);
  check_shape(weight, "weight", {kAny, spec.weight_numel});
  const OptionalTensor none;
  const int64_t num_types = weight.size(0);
  check_block_linear(spec, types, num_types, transposed ? none : x, weight, transposed ? x : none);
  const int64_t atoms = x.size(0), dim = transposed ? spec.dim_in : spec.dim_out;
  const Tensor rows = x.contiguous(), w = weight.contiguous();
  const bool covered = transposed ? spec.covers_in : spec.covers_out;
  Tensor out = covered ? at::empty({atoms, dim}, x.options()) : at::zeros({atoms, dim}, x.options());
  std::optional<Grouped> grouped;
  if (types) grouped.emplace(*types, num_types);
  for (size_t k = 0; atoms > 0 && k < spec.blocks.size(); ++k) {
    const ColumnBlock& b = spec.blocks[k];
    Side from{b.in_offset, b.mul_in}, to{b.out_offset, b.mul_out};
    if (transposed) std::swap(from, to);
    const auto map = [&](int64_t t) { return transposed ? matrix(w, t, b).t() : matrix(w, t, b); };
    if (num_types == 1) {
      for (int64_t c = 0; c < b.components; ++c) {
        product(columns(out, to.offset + c * to.mul, to.mul),
                columns(rows, from.offset + c * from.mul, from.mul), map(0), b.scale, false);
      }
      continue;
    }
    const Tensor packed = grouped->pack(rows, from.offset, b.components * from.mul, from.mul);
    Tensor result = at::empty({atoms * b.components, to.mul}, x.options());
    for (int64_t t = 0; t < num_types; ++t) {
      const int64_t first = grouped->begin[t] * b.components, last = grouped->begin[t + 1] * b.components;
      if (first == last) continue;
      product(result.slice(0, first, last), packed.slice(0, first, last), map(t), b.scale, false);
    }
    grouped->unpack(result, to.offset, b.components * to.mul, out);
  }
  return out;
}

Tensor weight_cpu(const Tensor& x, const Tensor& grad, const OptionalTensor& types, c10::SymInt sym_num_types,
                  at::IntArrayRef flat) {
  const auto spec = BlockSpec::parse(flat);
  check_block_linear(spec, types, sym_num_types, x, {}, grad);
  const int64_t num_types = sym_num_types.expect_int(), atoms = x.size(0);
  const Tensor rows = x.contiguous(), g = grad.contiguous();
  Tensor out = at::zeros({num_types, spec.weight_numel}, x.options());
  std::optional<Grouped> grouped;
  if (types) grouped.emplace(*types, num_types);
  for (size_t k = 0; atoms > 0 && k < spec.blocks.size(); ++k) {
    const ColumnBlock& b = spec.blocks[k];
    if (num_types == 1) {
      for (int64_t c = 0; c < b.components; ++c) {
        product(matrix(out, 0, b), columns(rows, b.in_offset + c * b.mul_in, b.mul_in).t(),
                columns(g, b.out_offset + c * b.mul_out, b.mul_out), b.scale, c > 0);
      }
      continue;
    }
    const Tensor packed = grouped->pack(rows, b.in_offset, b.components * b.mul_in, b.mul_in);
    const Tensor packed_g = grouped->pack(g, b.out_offset, b.components * b.mul_out, b.mul_out);
    for (int64_t t = 0; t < num_types; ++t) {
      const int64_t first = grouped->begin[t] * b.components, last = grouped->begin[t + 1] * b.components;
      if (first == last) continue;
      product(matrix(out, t, b), packed.slice(0, first, last).t(), packed_g.slice(0, first, last), b.scale,
              false);
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
