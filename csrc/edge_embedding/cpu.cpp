// CPU driver of the embedding of edges: threads over edges.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "common/isa.h"
#include "edge_embedding/cpu_kernels.h"
#include "edge_embedding/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using embedding::Edges;
using embedding::Kernels;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kGrain = 256;  // edges; a multiple of every number of lanes

template <typename T>
const Kernels<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
#ifdef __x86_64__
    if (active_isa() == Isa::avx512) return embedding::kernels_avx512_f32;
    if (active_isa() == Isa::avx2) return embedding::kernels_avx2_f32;
#endif
    return embedding::kernels_baseline_f32;
  } else {
#ifdef __x86_64__
    if (active_isa() == Isa::avx512) return embedding::kernels_avx512_f64;
    if (active_isa() == Isa::avx2) return embedding::kernels_avx2_f64;
#endif
    return embedding::kernels_baseline_f64;
  }
}

Tensor contiguous(const OptionalTensor& tensor) { return tensor ? tensor->contiguous() : Tensor(); }

// Runs one of the kernels on all edges. Inputs may be undefined (absent), outputs too (not wanted).
void run(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max, const OptionalTensor& grad_sh,
         const OptionalTensor& grad_length, const OptionalTensor& ddvec, Tensor sh, Tensor length,
         Tensor dvec) {
  const Tensor vec = edge_vec.contiguous(), cutoff = inverse_cutoff.contiguous(), g_sh = contiguous(grad_sh),
               g_length = contiguous(grad_length), h = contiguous(ddvec);
  const int64_t edges = vec.size(0), columns = (l_max + 1) * (l_max + 1);
  AT_DISPATCH_FLOATING_TYPES(vec.scalar_type(), "edge_embedding", [&] {
    using T = scalar_t;
    const auto kernel = ddvec            ? kernels<T>().double_backward[l_max]
                        : dvec.defined() ? kernels<T>().backward[l_max]
                                         : kernels<T>().forward[l_max];
    const auto in = [](const Tensor& t, int64_t offset) {
      return t.defined() ? t.const_data_ptr<T>() + offset : nullptr;
    };
    const auto out = [](Tensor& t, int64_t offset) {
      return t.defined() ? t.mutable_data_ptr<T>() + offset : nullptr;
    };
    const bool one = cutoff.numel() == 1;
    const int64_t blocks = (edges + kGrain - 1) / kGrain;  // fixed, whatever the number of threads
    at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kGrain, count = std::min(end * kGrain, edges) - first;
      kernel({count, in(vec, 3 * first), in(cutoff, one ? 0 : first), one, in(g_sh, columns * first),
              in(g_length, first), in(h, 3 * first), out(sh, columns * first), out(length, first),
              out(dvec, 3 * first)});
    });
  });
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max);
  const int64_t edges = edge_vec.size(0);
  Tensor sh = at::empty({edges, (l_max + 1) * (l_max + 1)}, edge_vec.options());
  Tensor length = at::empty({edges, 1}, edge_vec.options());
  run(edge_vec, inverse_cutoff, l_max, {}, {}, {}, sh, length, Tensor());
  return {sh, length};
}

Tensor backward_cpu(const OptionalTensor& grad_sh, const OptionalTensor& grad_length, const Tensor& edge_vec,
                    const Tensor& inverse_cutoff, int64_t l_max) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length);
  Tensor dvec = at::empty(edge_vec.sizes(), edge_vec.options());
  run(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, {}, Tensor(), Tensor(), dvec);
  return dvec;
}

std::tuple<Tensor, Tensor, Tensor> double_backward_cpu(const Tensor& ddvec, const OptionalTensor& grad_sh,
                                                       const OptionalTensor& grad_length,
                                                       const Tensor& edge_vec, const Tensor& inverse_cutoff,
                                                       int64_t l_max, std::array<bool, 3> needs) {
  check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec);
  const int64_t columns[] = {(l_max + 1) * (l_max + 1), 1, 3};
  Tensor results[3];
  for (int k = 0; k < 3; ++k) {
    if (needs[k]) results[k] = at::empty({edge_vec.size(0), columns[k]}, edge_vec.options());
  }
  run(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec, results[0], results[1], results[2]);
  for (Tensor& result : results) {
    if (!result.defined()) result = at::empty({0}, edge_vec.options());
  }
  return {results[0], results[1], results[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("edge_embedding", &forward_cpu);
  m.impl("edge_embedding_backward", &backward_cpu);
  m.impl("edge_embedding_double_backward", &double_backward_cpu);
}

}  // namespace uqforce
