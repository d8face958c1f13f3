// CPU implementation of the tensor-product convolution: arguments in, arrays out.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/pool.h"
#include "tensor_product_conv/cpu_plan.h"

namespace uqforce {
namespace {

using at::Tensor;
using conv::Arrays;
using conv::CouplingKernels;
using conv::EdgesByCentre;
using conv::Kernels;
using conv::Plan;

// An input's rows, contiguous while this lives; null where it is absent.
class Input {
 public:
  explicit Input(const Tensor& tensor) : tensor_(tensor.contiguous()) {}
  explicit Input(const std::optional<Tensor>& tensor) {
    if (tensor.has_value() && tensor->defined()) tensor_ = tensor->contiguous();
  }
  template <typename T>
  const T* rows() const {
    return tensor_.defined() ? tensor_.const_data_ptr<T>() : nullptr;
  }

 private:
  Tensor tensor_;
};

// A result; an empty tensor and null rows where it is not wanted.
class Output {
 public:
  Output(at::IntArrayRef sizes, const Tensor& like, bool wanted)
      : wanted_(wanted),
        tensor_(wanted ? empty_from_pool(sizes, like.options()) : at::empty({0}, like.options())) {}
  Output& zero() {
    tensor_.zero_();
    return *this;
  }
  template <typename T>
  T* rows() const {
    return wanted_ ? tensor_.mutable_data_ptr<T>() : nullptr;
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  bool wanted_;
  Tensor tensor_;
};

template <typename T>
void run(const ConvSpec& spec, typename CouplingKernels<T>::Op CouplingKernels<T>::*op,
         const EdgesByCentre& edges, const Arrays<T>& arrays) {
  const Kernels<T>& kernels = conv::active_kernels<T>();
  conv::walk(spec, kernels, Plan<T>(spec, kernels, op, /*grouped=*/true), edges, arrays);
}

Tensor forward(const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight, const Tensor& edge_index,
               at::IntArrayRef flat) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec);
  const EdgesByCentre edges(edge_index, x.size(0));
  const Input in(x), sh(edge_sh), weight(edge_weight);
  const Output out({x.size(0), spec.dim_out}, x, true);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "tensor_product_conv", [&] {
    Arrays<scalar_t> arrays{};
    arrays.x = in.rows<scalar_t>();
    arrays.sh = sh.rows<scalar_t>();
    arrays.weight = weight.rows<scalar_t>();
    arrays.out = out.rows<scalar_t>();
    run<scalar_t>(spec, &CouplingKernels<scalar_t>::forward, edges, arrays);
  });
  return out.tensor();
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& edge_sh,
                                            const Tensor& edge_weight, const Tensor& edge_index,
                                            at::IntArrayRef flat, std::array<bool, 3> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec, grad);
  const EdgesByCentre edges(edge_index, x.size(0));
  const Input g(grad), in(x), sh(edge_sh), weight(edge_weight);
  const Output dx = Output(x.sizes(), x, needs[0]).zero(), dsh(edge_sh.sizes(), x, needs[1]),
               dw(edge_weight.sizes(), x, needs[2]);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "tensor_product_conv_backward", [&] {
    Arrays<scalar_t> arrays{};
    arrays.x = in.rows<scalar_t>();
    arrays.sh = sh.rows<scalar_t>();
    arrays.weight = weight.rows<scalar_t>();
    arrays.grad = g.rows<scalar_t>();
    arrays.dx = dx.rows<scalar_t>();
    arrays.dsh = dsh.rows<scalar_t>();
    arrays.dw = dw.rows<scalar_t>();
    run<scalar_t>(spec, &CouplingKernels<scalar_t>::backward, edges, arrays);
  });
  return {dx.tensor(), dsh.tensor(), dw.tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& ddx, const std::optional<Tensor>& ddsh, const std::optional<Tensor>& ddw,
    const Tensor& grad, const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight,
    const Tensor& edge_index, at::IntArrayRef flat, std::array<bool, 4> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec, grad, ddx, ddsh, ddw);
  const EdgesByCentre edges(edge_index, x.size(0));
  const Input g(grad), in(x), sh(edge_sh), weight(edge_weight), ddin(ddx), ddsphere(ddsh), ddweight(ddw);
  const Output dgrad(grad.sizes(), x, needs[0]), dx = Output(x.sizes(), x, needs[1]).zero(),
                                                 dsh(edge_sh.sizes(), x, needs[2]),
                                                 dw(edge_weight.sizes(), x, needs[3]);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "tensor_product_conv_double_backward", [&] {
    Arrays<scalar_t> arrays{};
    arrays.x = in.rows<scalar_t>();
    arrays.sh = sh.rows<scalar_t>();
    arrays.weight = weight.rows<scalar_t>();
    arrays.grad = g.rows<scalar_t>();
    arrays.ddx = ddin.rows<scalar_t>();
    arrays.ddsh = ddsphere.rows<scalar_t>();
    arrays.ddw = ddweight.rows<scalar_t>();
    arrays.out = dgrad.rows<scalar_t>();
    arrays.dx = dx.rows<scalar_t>();
    arrays.dsh = dsh.rows<scalar_t>();
    arrays.dw = dw.rows<scalar_t>();
    run<scalar_t>(spec, &CouplingKernels<scalar_t>::double_backward, edges, arrays);
  });
  return {dgrad.tensor(), dx.tensor(), dsh.tensor(), dw.tensor()};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("tensor_product_conv", &forward);
  m.impl("tensor_product_conv_backward", &backward);
  m.impl("tensor_product_conv_double_backward", &double_backward);
}

}  // namespace uqforce
