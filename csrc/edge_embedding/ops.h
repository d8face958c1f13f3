// The three ops of a device: checks and memory. `run` evaluates: inputs may be undefined (absent), results
// too (not wanted).
#pragma once

#include <ATen/ops/empty.h>

#include "edge_embedding/cpu_kernels.h"
#include "edge_embedding/op.h"

namespace uqforce::embedding {

// Contiguous inputs and the results' memory.
struct Arguments {
  Order order;
  at::Tensor vec, inverse_cutoff, grad_sh, grad_length, ddvec;
  at::Tensor sh, length, dvec;
  int64_t l_max;

  // The rows from `first` on.
  template <typename T>
  Edges<T> rows(int64_t first, int64_t count) const {
    const int64_t columns = (l_max + 1) * (l_max + 1);
    const auto in = [=](const at::Tensor& t, int64_t width) {
      return t.defined() ? t.const_data_ptr<T>() + first * width : nullptr;
    };
    const auto out = [=](const at::Tensor& t, int64_t width) {
      return t.defined() ? t.mutable_data_ptr<T>() + first * width : nullptr;
    };
    const bool one = inverse_cutoff.numel() == 1;
    return {count,        in(vec, 3),           in(inverse_cutoff, one ? 0 : 1),
            one,          in(grad_sh, columns), in(grad_length, 1),
            in(ddvec, 3), out(sh, columns),     out(length, 1),
            out(dvec, 3)};
  }
};

template <void (*run)(const Arguments&)>
struct Ops {
  using Tensor = at::Tensor;
  using OptionalTensor = std::optional<Tensor>;

  static Tensor contiguous(const OptionalTensor& tensor) { return tensor ? tensor->contiguous() : Tensor(); }

  static std::tuple<Tensor, Tensor> forward(const Tensor& edge_vec, const Tensor& inverse_cutoff,
                                            int64_t l_max) {
    check_embedding(edge_vec, inverse_cutoff, l_max);
    const int64_t edges = edge_vec.size(0);
    const Tensor sh = at::empty({edges, (l_max + 1) * (l_max + 1)}, edge_vec.options()),
                 length = at::empty({edges, 1}, edge_vec.options());
    run({Order::forward,
         edge_vec.contiguous(),
         inverse_cutoff.contiguous(),
         {},
         {},
         {},
         sh,
         length,
         {},
         l_max});
    return {sh, length};
  }

  static Tensor backward(const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
                         const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max) {
    check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length);
    const Tensor dvec = at::empty(edge_vec.sizes(), edge_vec.options());
    run({Order::backward,
         edge_vec.contiguous(),
         inverse_cutoff.contiguous(),
         contiguous(grad_sh),
         contiguous(grad_length),
         {},
         {},
         {},
         dvec,
         l_max});
    return dvec;
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const Tensor& ddvec, const OptionalTensor& grad_sh, const OptionalTensor& grad_length,
      const Tensor& edge_vec, const Tensor& inverse_cutoff, int64_t l_max, std::array<bool, 3> needs) {
    check_embedding(edge_vec, inverse_cutoff, l_max, grad_sh, grad_length, ddvec);
    const int64_t columns[] = {(l_max + 1) * (l_max + 1), 1, 3};
    Tensor results[3];
    for (int k = 0; k < 3; ++k) {
      if (needs[k]) results[k] = at::empty({edge_vec.size(0), columns[k]}, edge_vec.options());
    }
    run({Order::double_backward, edge_vec.contiguous(), inverse_cutoff.contiguous(), contiguous(grad_sh),
         contiguous(grad_length), ddvec.contiguous(), results[0], results[1], results[2], l_max});
    for (Tensor& result : results) {
      if (!result.defined()) result = at::empty({0}, edge_vec.options());
    }
    return {results[0], results[1], results[2]};
  }
};

}  // namespace uqforce::embedding
