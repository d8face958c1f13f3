// The CUDA ops of the embedding of edges: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "edge_embedding/cuda.h"
#include "edge_embedding/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using embedding::Order;
using OptionalTensor = std::optional<Tensor>;

Tensor contiguous(const OptionalTensor& tensor) { return tensor ? tensor->contiguous() : Tensor(); }

// Inputs may be undefined (absent), outputs too (not wanted).
void run(Order order, const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max,
         const OptionalTensor& grad_sh, const OptionalTensor& grad_length, const OptionalTensor& ddvec,
         const Tensor& sh, const Tensor& length, const Tensor& dvec) {
  const c10::DeviceGuard guard(edge_vec.device());
  const Tensor vec = edge_vec.contiguous(), cutoff = inverse_cutoff.contiguous(), g_sh = contiguous(grad_sh),
               g_length = contiguous(grad_length), h = contiguous(ddvec);
  AT_DISPATCH_FLOATING_TYPES(vec.scalar_type(), "edge_embedding", [&] {
    using T = scalar_t;
    const auto in = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<T>() : nullptr; };
    const auto out = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<T>() : nullptr; };
    embedding::evaluate<T>({vec.size(0), in(vec), in(cutoff), cutoff.numel() == 1, in(g_sh), in(g_length),
                            in(h), out(sh), out(length), out(dvec)},
                           int(l_max), order, current_stream(vec.device()));
  });
}

std::tuple<Tensor, Tensor> forward_cuda(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max);
  const int64_t edges = edge_vec.size(0);
  const Tensor sh = at::empty({edges, (l_max + 1) * (l_max + 1)}, edge_vec.options()),
               length = at::empty({edges, 1}, edge_vec.options());
  run(Order::forward, edge_vec, inverse_cutoff, l_max, {}, {}, {}, sh, length, {});
  return {sh, length};
}

Tensor backward_cuda(const OptionalTensor& grad_sh, const OptionalTensor& grad_length, const Tensor& edge_vec,
                     const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length);
  const Tensor dvec = at::empty(edge_vec.sizes(), edge_vec.options());
  run(Order::backward, edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, {}, {}, {}, dvec);
  return dvec;
}

std::tuple<Tensor, Tensor, Tensor> double_backward_cuda(const Tensor& ddvec, const OptionalTensor& grad_sh,
                                                        const OptionalTensor& grad_length,
                                                        const Tensor& edge_vec, const Tensor& inverse_cutoff,
                                                        int64_t l_max, std::array<bool, 3> needs) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec);
  const int64_t columns[] = {(l_max + 1) * (l_max + 1), 1, 3};
  Tensor results[3];
  for (int k = 0; k < 3; ++k) {
    if (needs[k]) results[k] = at::empty({edge_vec.size(0), columns[k]}, edge_vec.options());
  }
  run(Order::double_backward, edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec, results[0],
      results[1], results[2]);
  for (Tensor& result : results) {
    if (!result.defined()) result = at::empty({0}, edge_vec.options());
  }
  return {results[0], results[1], results[2]};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("edge_embedding", &forward_cuda);
  m.impl("edge_embedding_backward", &backward_cuda);
  m.impl("edge_embedding_double_backward", &double_backward_cuda);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("edge_embedding", "edge_embedding_backward", "edge_embedding_double_backward")

#endif
