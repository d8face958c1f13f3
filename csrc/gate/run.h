// The three ops of the gate on a device, from what differs between devices: how kernels are called.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "gate/op.h"

namespace uqforce::gating {
namespace {

using at::Tensor;

// Device has `static void run(Order, const Arrays<T>&, const Layout&, const Tensor& x)`; undefined tensors
// are absent.
template <typename Device>
void run(Order order, const Layout& layout, const Tensor& x, double silu_factor, double tanh_factor,
         const Tensor& grad, const Tensor& ddx, const Tensor& out, const Tensor& dgrad, const Tensor& dx) {
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gate", [&] {
    using T = scalar_t;
    const auto in = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<T>() : nullptr; };
    const auto result = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<T>() : nullptr; };
    const int64_t batch = grad.defined() && grad.dim() == 3 ? grad.size(0) : 1;
    const Arrays<T> arrays{x.size(0), batch,   T(silu_factor), T(tanh_factor), in(x),
                           in(grad),  in(ddx), result(out),    result(dgrad),  result(dx)};
    Device::run(order, arrays, layout, x);
  });
}

template <typename Device>
Tensor forward(const Tensor& x, at::IntArrayRef spec, double silu_factor, double tanh_factor) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x);
  const Tensor out = at::empty({x.size(0), layout.dim_out}, x.options());
  run<Device>(Order::forward, layout, x.contiguous(), silu_factor, tanh_factor, {}, {}, out, {}, {});
  return out;
}

template <typename Device>
Tensor backward(const Tensor& grad, const Tensor& x, at::IntArrayRef spec, double silu_factor,
                double tanh_factor) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x, grad);
  auto sizes = grad.sizes().vec();
  sizes.back() = layout.dim_in;
  const Tensor dx = at::empty(sizes, x.options());
  run<Device>(Order::backward, layout, x.contiguous(), silu_factor, tanh_factor, grad.contiguous(), {}, {},
              {}, dx);
  return dx;
}

template <typename Device>
std::tuple<Tensor, Tensor> double_backward(const Tensor& ddx, const Tensor& grad, const Tensor& x,
                                           at::IntArrayRef spec, double silu_factor, double tanh_factor,
                                           std::array<bool, 2> needs) {
  const Layout& layout = gate_layout(spec);
  check_gate(layout, x, grad, ddx);
  TORCH_CHECK_VALUE(grad.dim() == 2 && ddx.dim() == 2, "grad and ddx have ", grad.dim(), " and ", ddx.dim(),
                    " dimensions: the second derivative takes one cotangent, [N, columns]");
  const Tensor dgrad = needs[0] ? at::empty(grad.sizes(), x.options()) : Tensor(),
               dx = needs[1] ? at::empty(x.sizes(), x.options()) : Tensor();
  run<Device>(Order::double_backward, layout, x.contiguous(), silu_factor, tanh_factor, grad.contiguous(),
              ddx.contiguous(), {}, dgrad, dx);
  const auto or_empty = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, x.options()); };
  return {or_empty(dgrad), or_empty(dx)};
}

}  // namespace
}  // namespace uqforce::gating
