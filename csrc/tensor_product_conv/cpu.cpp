// CPU kernels, written plainly (fast ones follow).
#include <ATen/Dispatch.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "tensor_product_conv/coupling.h"
#include "tensor_product_conv/op.h"

namespace uqforce {
namespace {

using at::Tensor;

struct Terms {
  const CouplingTerm* begin_ = nullptr;
  const CouplingTerm* end_ = nullptr;
  const CouplingTerm* begin() const { return begin_; }
  const CouplingTerm* end() const { return end_; }
};

Terms terms_of(const ConvPath& path) {
  static const auto table = [] {
    std::array<std::array<std::array<Terms, kMaxDegree + 1>, kMaxDegree + 1>, kMaxDegree + 1> t{};
#define UQFORCE_ENTRY(a, b, c) \
  t[a][b][c] = {std::begin(Coupling<a, b, c>::terms), std::end(Coupling<a, b, c>::terms)};
    UQFORCE_FOR_EACH_COUPLING(UQFORCE_ENTRY)
#undef UQFORCE_ENTRY
    return t;
  }();
  return table[path.l1][path.l2][path.l3];
}

void check_indices(const Tensor& edge_index, int64_t nodes) {
  const auto index = edge_index.contiguous();
  const int64_t* data = index.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < index.numel(); ++k) {
    TORCH_CHECK_INDEX(data[k] >= 0 && data[k] < nodes, "edge_index has ", data[k], " but x has ", nodes,
                      " nodes: indices must be in 0..", nodes - 1);
  }
}

// f(path offsets..., value) over edges, paths, terms and channels.
template <class F>
void for_each_product(const Tensor& edge_index, const ConvSpec& spec, F&& f) {
  const auto index = edge_index.contiguous();
  const int64_t edges = index.size(1);
  const int64_t* centre = index.const_data_ptr<int64_t>();
  const auto order = at::argsort(index[0], /*stable=*/true, 0);
  for (int64_t k = 0; k < edges; ++k) {
    const int64_t e = order.const_data_ptr<int64_t>()[k];
    const int64_t i = centre[e], j = centre[edges + e];
    for (const auto& p : spec.paths) {
      for (const auto& t : terms_of(p)) {
        const int64_t g = i * spec.dim_out + p.out_offset + t.m3 * p.out_stride;
        const int64_t x = j * spec.dim_in + p.in_offset + t.m1 * p.in_stride;
        const int64_t y = e * spec.sh_dim + p.l2 * p.l2 + t.m2;
        const int64_t w = e * spec.weight_numel + p.weight_offset;
        for (int64_t u = 0; u < p.mul; ++u) f(g + u, x + u, y, w + u, t.value);
      }
    }
  }
}

Tensor zeros_or_none(const Tensor& like, bool needed) {
  return needed ? at::zeros(like.sizes(), like.options()) : at::empty({0}, like.options());
}

Tensor forward(const Tensor& x_, const Tensor& edge_sh, const Tensor& edge_weight, const Tensor& edge_index,
               at::IntArrayRef flat) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x_, edge_sh, edge_weight, edge_index, spec);
  check_indices(edge_index, x_.size(0));
  const auto xt = x_.contiguous(), yt = edge_sh.contiguous(), wt = edge_weight.contiguous();
  Tensor out = at::zeros({x_.size(0), spec.dim_out}, x_.options());
  AT_DISPATCH_FLOATING_TYPES(x_.scalar_type(), "tensor_product_conv", [&] {
    const auto *x = xt.const_data_ptr<scalar_t>(), *y = yt.const_data_ptr<scalar_t>(),
               *w = wt.const_data_ptr<scalar_t>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    for_each_product(edge_index, spec, [&](int64_t g, int64_t a, int64_t b, int64_t c, double value) {
      o[g] += static_cast<scalar_t>(value) * x[a] * y[b] * w[c];
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x_, const Tensor& edge_sh,
                                            const Tensor& edge_weight, const Tensor& edge_index,
                                            at::IntArrayRef flat, std::array<bool, 3> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x_, edge_sh, edge_weight, edge_index, spec, grad);
  check_indices(edge_index, x_.size(0));
  const auto xt = x_.contiguous(), yt = edge_sh.contiguous(), wt = edge_weight.contiguous(),
             gt = grad.contiguous();
  Tensor dx = zeros_or_none(x_, needs[0]), dy = zeros_or_none(edge_sh, needs[1]),
         dw = zeros_or_none(edge_weight, needs[2]);
  AT_DISPATCH_FLOATING_TYPES(x_.scalar_type(), "tensor_product_conv_backward", [&] {
    const auto *x = xt.const_data_ptr<scalar_t>(), *y = yt.const_data_ptr<scalar_t>(),
               *w = wt.const_data_ptr<scalar_t>(), *g = gt.const_data_ptr<scalar_t>();
    auto *dxp = dx.mutable_data_ptr<scalar_t>(), *dyp = dy.mutable_data_ptr<scalar_t>(),
         *dwp = dw.mutable_data_ptr<scalar_t>();
    for_each_product(edge_index, spec, [&](int64_t d, int64_t a, int64_t b, int64_t c, double value) {
      const auto v = static_cast<scalar_t>(value) * g[d];
      if (needs[0]) dxp[a] += v * y[b] * w[c];
      if (needs[1]) dyp[b] += v * x[a] * w[c];
      if (needs[2]) dwp[c] += v * x[a] * y[b];
    });
  });
  return {dx, dy, dw};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& ddx_, const std::optional<Tensor>& ddsh, const std::optional<Tensor>& ddw_,
    const Tensor& grad, const Tensor& x_, const Tensor& edge_sh, const Tensor& edge_weight,
    const Tensor& edge_index, at::IntArrayRef flat, std::array<bool, 4> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x_, edge_sh, edge_weight, edge_index, spec, grad, ddx_, ddsh, ddw_);
  check_indices(edge_index, x_.size(0));
  const auto or_zero = [](const std::optional<Tensor>& t, const Tensor& like) {
    return t.has_value() && t->defined() ? t->contiguous() : at::zeros(like.sizes(), like.options());
  };
  const auto xt = x_.contiguous(), yt = edge_sh.contiguous(), wt = edge_weight.contiguous(),
             gt = grad.contiguous();
  const auto ddxt = or_zero(ddx_, x_), ddyt = or_zero(ddsh, edge_sh), ddwt = or_zero(ddw_, edge_weight);
  Tensor dg = zeros_or_none(grad, needs[0]), dx = zeros_or_none(x_, needs[1]),
         dy = zeros_or_none(edge_sh, needs[2]), dw = zeros_or_none(edge_weight, needs[3]);
  AT_DISPATCH_FLOATING_TYPES(x_.scalar_type(), "tensor_product_conv_double_backward", [&] {
    const auto *x = xt.const_data_ptr<scalar_t>(), *y = yt.const_data_ptr<scalar_t>(),
               *w = wt.const_data_ptr<scalar_t>(), *g = gt.const_data_ptr<scalar_t>(),
               *ddx = ddxt.const_data_ptr<scalar_t>(), *ddy = ddyt.const_data_ptr<scalar_t>(),
               *ddw = ddwt.const_data_ptr<scalar_t>();
    auto *dgp = dg.mutable_data_ptr<scalar_t>(), *dxp = dx.mutable_data_ptr<scalar_t>(),
         *dyp = dy.mutable_data_ptr<scalar_t>(), *dwp = dw.mutable_data_ptr<scalar_t>();
    for_each_product(edge_index, spec, [&](int64_t d, int64_t a, int64_t b, int64_t c, double value) {
      const auto v = static_cast<scalar_t>(value);
      const auto xw = ddx[a] * w[c] + x[a] * ddw[c];
      if (needs[0]) dgp[d] += v * (xw * y[b] + x[a] * w[c] * ddy[b]);
      if (needs[1]) dxp[a] += v * g[d] * (ddy[b] * w[c] + y[b] * ddw[c]);
      if (needs[2]) dyp[b] += v * g[d] * xw;
      if (needs[3]) dwp[c] += v * g[d] * (ddx[a] * y[b] + x[a] * ddy[b]);
    });
  });
  return {dg, dx, dy, dw};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("tensor_product_conv", &forward);
  m.impl("tensor_product_conv_backward", &backward);
  m.impl("tensor_product_conv_double_backward", &double_backward);
}

}  // namespace uqforce
