// The convolution's CUDA ops: checks, memory, the stream; the kernels are in cuda_*.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "tensor_product_conv/cuda_edges.h"
#include "tensor_product_conv/cuda_plan.h"

namespace uqforce::conv {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined() ? tensor->contiguous() : Tensor();
}
template <typename T>
const T* rows(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <typename T>
T* result(const Tensor& tensor, bool wanted) {
  return wanted ? tensor.mutable_data_ptr<T>() : nullptr;
}
Tensor empty_if(bool wanted, at::IntArrayRef sizes, const Tensor& like) {
  return at::empty(wanted ? sizes : at::IntArrayRef({0}), like.options());
}

template <typename T>
CudaCall<T> call_of(const ConvSpec& spec, const Edges& edges) {
  CudaCall<T> call{};
  call.dim_in = spec.dim_in, call.dim_out = spec.dim_out;
  call.sh_dim = spec.sh_dim, call.weight_numel = spec.weight_numel;
  call.nodes = call.pass_nodes = edges.lists.nodes, call.last = call.edges = int(edges.lists.edges);
  call.centre = edges.index.const_data_ptr<int64_t>();
  call.begin = edges.lists.by_centre.begin, call.edge = edges.lists.by_centre.order;
  call.neighbour = edges.lists.neighbour, call.bad = edges.lists.bad;
  return call;
}

// Launches all units, in passes of so many edges that what these leave behind fits the workspace; dx and dsh
// are the sums of that. The order of a sum does not depend on the passes.
template <typename T>
void run(void (*launch)(const CudaCall<T>&, const CudaUnits&, void*), const CudaPlan& plan, CudaCall<T> call,
         const Edges& edges, const Tensor& like, T* dx, T* dsh, void* stream) {
  const int64_t count = edges.lists.edges;
  const int64_t row = dx ? call.dim_in : 0, partial = dsh ? plan.degrees.count * call.sh_dim : 0;
  const Passes passes = edges.passes((row + partial) * int64_t(sizeof(T)));
  const int64_t step = passes.step;
  const Tensor left = at::empty({step * (row + partial)}, like.options());
  call.rows = dx ? left.mutable_data_ptr<T>() : nullptr;
  call.partial = dsh ? left.mutable_data_ptr<T>() + step * row : nullptr;
  call.pass_nodes = passes.nodes(call.nodes);
  for (int64_t first = 0; first == 0 || first < count; first += step) {
    call.first = int(first), call.last = int(std::min(first + step, count));
    if (dx && plan.zero_rows) left.slice(0, 0, step * row).zero_();
    for (const CudaUnits& units : plan.launches) launch(call, units, stream);
    if (dx) add_rows(call, edges.by_neighbour, 1, 0, dx, stream);
    if (dsh) add_partial(call, plan.degrees, dsh, stream);
  }
}

Tensor forward_cuda(const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight,
                    const Tensor& edge_index, at::IntArrayRef flat) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec);
  const c10::DeviceGuard guard(x.device());
  const Tensor out = at::empty({x.size(0), spec.dim_out}, x.options());
  if (!check_sizes(x, edge_index)) return out;
  const Tensor in = x.contiguous(), sh = edge_sh.contiguous(), weight = edge_weight.contiguous();
  void* const stream = current_stream(x.device());
  const Edges edges(edge_index, x.size(0), false, stream);
  const auto with_type = [&]<typename T>(T) {
    CudaCall<T> call = call_of<T>(spec, edges);
    call.x = rows<T>(in), call.sh = rows<T>(sh), call.weight = rows<T>(weight);
    call.out = out.mutable_data_ptr<T>();
    run<T>(&forward<T>, CudaPlan::of(spec, kForwardChannels<T>), call, edges, x, nullptr, nullptr, stream);
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& edge_sh,
                                                 const Tensor& edge_weight, const Tensor& edge_index,
                                                 at::IntArrayRef flat, std::array<bool, 3> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec, grad);
  const c10::DeviceGuard guard(x.device());
  const Tensor dx = empty_if(needs[0], x.sizes(), x), dsh = empty_if(needs[1], edge_sh.sizes(), x),
               dw = empty_if(needs[2], edge_weight.sizes(), x);
  if (!check_sizes(x, edge_index)) return {dx, dsh, dw};
  const Tensor g = grad.contiguous(), in = x.contiguous(), sh = edge_sh.contiguous(),
               weight = edge_weight.contiguous();
  void* const stream = current_stream(x.device());
  const Edges edges(edge_index, x.size(0), needs[0], stream);
  const auto with_type = [&]<typename T>(T) {
    CudaCall<T> call = call_of<T>(spec, edges);
    call.grad = rows<T>(g), call.x = rows<T>(in), call.sh = rows<T>(sh), call.weight = rows<T>(weight);
    call.dw = result<T>(dw, needs[2]);
    run<T>(&backward<T>, CudaPlan::of(spec, kBackwardChannels<T>), call, edges, x, result<T>(dx, needs[0]),
           result<T>(dsh, needs[1]), stream);
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return {dx, dsh, dw};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward_cuda(
    const OptionalTensor& ddx, const OptionalTensor& ddsh, const OptionalTensor& ddw, const Tensor& grad,
    const Tensor& x, const Tensor& edge_sh, const Tensor& edge_weight, const Tensor& edge_index,
    at::IntArrayRef flat, std::array<bool, 4> needs) {
  const ConvSpec& spec = ConvSpec::parse(flat);
  check_conv(x, edge_sh, edge_weight, edge_index, spec, grad, ddx, ddsh, ddw);
  const c10::DeviceGuard guard(x.device());
  const Tensor dgrad = empty_if(needs[0], grad.sizes(), x), dx = empty_if(needs[1], x.sizes(), x),
               dsh = empty_if(needs[2], edge_sh.sizes(), x), dw = empty_if(needs[3], edge_weight.sizes(), x);
  if (!check_sizes(x, edge_index)) return {dgrad, dx, dsh, dw};
  const Tensor g = grad.contiguous(), in = x.contiguous(), sh = edge_sh.contiguous(),
               weight = edge_weight.contiguous();
  const Tensor ddin = contiguous(ddx), ddsphere = contiguous(ddsh), ddweight = contiguous(ddw);
  void* const stream = current_stream(x.device());
  const Edges edges(edge_index, x.size(0), needs[1], stream);
  const auto with_type = [&]<typename T>(T) {
    CudaCall<T> call = call_of<T>(spec, edges);
    call.grad = rows<T>(g), call.x = rows<T>(in), call.sh = rows<T>(sh), call.weight = rows<T>(weight);
    call.ddx = rows<T>(ddin), call.ddsh = rows<T>(ddsphere), call.ddw = rows<T>(ddweight);
    call.out = result<T>(dgrad, needs[0]), call.dw = result<T>(dw, needs[3]);
    run<T>(&double_backward<T>, CudaPlan::of(spec, kDoubleBackwardChannels<T>), call, edges, x,
           result<T>(dx, needs[1]), result<T>(dsh, needs[2]), stream);
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return {dgrad, dx, dsh, dw};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("tensor_product_conv", &forward_cuda);
  m.impl("tensor_product_conv_backward", &backward_cuda);
  m.impl("tensor_product_conv_double_backward", &double_backward_cuda);
}

}  // namespace uqforce::conv

#else

UQFORCE_WITHOUT_CUDA("tensor_product_conv", "tensor_product_conv_backward",
                     "tensor_product_conv_double_backward")

#endif
