// CPU driver of the radial interpolation: edges grouped by their nodes, threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "common/isa.h"
#include "common/pool.h"
#include "radial_interpolation/cpu_kernels.h"
#include "radial_interpolation/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using radial::Group;
using radial::Kernels;
using radial::kWidth;

constexpr int64_t kGroup = 64;    // most edges of a group, the unit of work of a thread
constexpr int64_t kColumns = 64;  // the same for what is summed over all edges

template <typename T>
const Kernels<T>& kernels() {
  return UQFORCE_ACTIVE_OF(T, radial::kernels);
}

// Where each edge lies in a table of `rows` nodes; the edges in the order of their first node.
template <typename T>
class Edges {
 public:
  Edges(const Tensor& x, int64_t rows)
      : size_(x.size(0)), padded_((size_ + kernels<T>().lanes) / kernels<T>().lanes * kernels<T>().lanes) {
    const T* values = x.const_data_ptr<T>();
    const int64_t starts = rows - kWidth + 1;
    intervals_ = double(rows - 1);
    std::vector<int64_t> start(size_), next(starts + 1);
    for (int64_t e = 0; e < size_; ++e) {
      TORCH_CHECK_VALUE(!(values[e] < 0), "x[", e, "] is ", values[e], ": a length is not negative");
      const double node = values[e] * intervals_;
      // The edge in the middle of its nodes where the table allows; a NaN goes anywhere.
      start[e] = node >= kWidth / 2
                     ? std::min<int64_t>(std::min(node, intervals_) - (kWidth / 2 - 1), starts - 1)
                     : 0;
      ++next[start[e] + 1];
    }
    for (int64_t s = 0; s < starts; ++s) next[s + 1] += next[s];
    order_.resize(size_);
    tau_.assign(padded_, T(0));
    inside_.assign(padded_, T(0));
    first_.resize(size_);
    for (int64_t e = 0; e < size_; ++e) {
      const int64_t k = next[start[e]]++;
      order_[k] = e;
      first_[k] = start[e];
      tau_[k] = T(values[e] * intervals_ - double(start[e]));
      inside_[k] = values[e] >= T(1) ? T(0) : T(1);
    }
    for (int64_t k = 0; k < size_; ++k) {
      const bool fits = k > 0 && first_[k] == first_[k - 1] && k - groups_.back() < kGroup;
      if (!fits) groups_.push_back(k);
    }
    groups_.push_back(size_);
  }

  int64_t size() const { return size_; }
  int64_t groups() const { return int64_t(groups_.size()) - 1; }
  int64_t first_row(int64_t group) const { return first_[groups_[group]]; }
  Group<T> group(int64_t group, const std::vector<T>& coefficients) const {
    const int64_t begin = groups_[group];
    return {groups_[group + 1] - begin, order_.data() + begin, coefficients.data() + begin * kWidth};
  }

  // Of the polynomials or their derivative by x (`derivative` 0 or 1), times `factor` [E] if given.
  std::vector<T> coefficients(int derivative, const T* factor = nullptr) const {
    std::vector<T> scale(inside_), result(padded_ * kWidth);
    for (int64_t k = 0; k < size_; ++k) {
      if (derivative) scale[k] *= T(intervals_);
      if (factor) scale[k] *= factor[order_[k]];
    }
    kernels<T>().coefficients(tau_.data(), scale.data(), padded_, derivative, result.data());
    return result;
  }

 private:
  int64_t size_, padded_;
  double intervals_;
  std::vector<int64_t> order_, first_, groups_;
  std::vector<T> tau_, inside_;
};

// rows[e] = (or += if `add`) sum_k c_k table[k]
template <typename T>
void expand(const Edges<T>& edges, const std::vector<T>& coefficients, const Tensor& table, bool add,
            Tensor& rows) {
  const int64_t columns = table.size(1);
  const T* from = table.const_data_ptr<T>();
  T* to = rows.mutable_data_ptr<T>();
  at::parallel_for(0, edges.groups(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      kernels<T>().expand(edges.group(g, coefficients), from + edges.first_row(g) * columns, columns, columns,
                          add, to);
    }
  });
}

// result[e] += rows[e] . sum_k c_k table[k]
template <typename T>
void dot(const Edges<T>& edges, const std::vector<T>& coefficients, const Tensor& table, const Tensor& rows,
         Tensor& result) {
  const int64_t columns = table.size(1);
  const T* nodes = table.const_data_ptr<T>();
  const T* from = rows.const_data_ptr<T>();
  T* to = result.mutable_data_ptr<T>();
  at::parallel_for(0, edges.groups(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      kernels<T>().dot(edges.group(g, coefficients), nodes + edges.first_row(g) * columns, columns, columns,
                       from, to);
    }
  });
}

// table[k] += sum_e c_k rows[e]: threads share the columns, so that every sum has its fixed order.
template <typename T>
void reduce(const Edges<T>& edges, const std::vector<T>& coefficients, const Tensor& rows, Tensor& table) {
  const int64_t columns = table.size(1);
  const T* from = rows.const_data_ptr<T>();
  T* to = table.mutable_data_ptr<T>();
  at::parallel_for(0, (columns + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns, count = std::min(end * kColumns, columns) - first;
    for (int64_t g = 0; g < edges.groups(); ++g) {
      kernels<T>().reduce(edges.group(g, coefficients), from + first, columns, count,
                          to + edges.first_row(g) * columns + first);
    }
  });
}

Tensor zeros_if(bool needed, const Tensor& like) {
  return needed ? at::zeros(like.sizes(), like.options()) : at::empty({0}, like.options());
}

Tensor forward_cpu(const Tensor& table, const Tensor& slope, const Tensor& x) {
  check_radial(slope, x, table);
  const Tensor nodes = table.contiguous(), positions = x.contiguous();
  Tensor out = empty_from_pool({x.size(0), table.size(1)}, table.options());
  AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "radial_interpolation", [&] {
    const Edges<scalar_t> edges(positions, table.size(0));
    expand<scalar_t>(edges, edges.coefficients(0), nodes, false, out);
  });
  return out;
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& slope, const Tensor& x,
                                        std::array<bool, 2> needs) {
  check_radial(slope, x, {}, grad);
  const Tensor g = grad.contiguous(), slopes = slope.contiguous(), positions = x.contiguous();
  Tensor dtable = zeros_if(needs[0], slope), dx = zeros_if(needs[1], x);
  AT_DISPATCH_FLOATING_TYPES(slope.scalar_type(), "radial_interpolation_backward", [&] {
    const Edges<scalar_t> edges(positions, slope.size(0));
    const auto c = edges.coefficients(0);
    if (needs[0]) reduce<scalar_t>(edges, c, g, dtable);
    if (needs[1]) dot<scalar_t>(edges, c, slopes, g, dx);
  });
  return {dtable, dx};
}

std::tuple<Tensor, Tensor, Tensor> double_backward_cpu(const std::optional<Tensor>& ddtable,
                                                       const std::optional<Tensor>& ddx, const Tensor& grad,
                                                       const Tensor& slope, const Tensor& x,
                                                       std::array<bool, 3> needs) {
  check_radial(slope, x, {}, grad, ddtable, ddx);
  const Tensor g = grad.contiguous(), slopes = slope.contiguous(), positions = x.contiguous();
  const Tensor dd = ddtable ? ddtable->contiguous() : Tensor(), u = ddx ? ddx->contiguous() : Tensor();
  // The first of the two terms is written, the second added.
  Tensor dgrad = needs[0] ? empty_from_pool(grad.sizes(), grad.options()) : at::empty({0}, grad.options());
  if (needs[0] && !u.defined() && !dd.defined()) dgrad.zero_();
  Tensor dslope = zeros_if(needs[1], slope), dx = zeros_if(needs[2], x);
  AT_DISPATCH_FLOATING_TYPES(slope.scalar_type(), "radial_interpolation_double_backward", [&] {
    const Edges<scalar_t> edges(positions, slope.size(0));
    if (u.defined()) {
      const scalar_t* factor = u.const_data_ptr<scalar_t>();
      const auto c = edges.coefficients(0, factor);
      if (needs[0]) expand<scalar_t>(edges, c, slopes, false, dgrad);
      if (needs[1]) reduce<scalar_t>(edges, c, g, dslope);
      if (needs[2]) dot<scalar_t>(edges, edges.coefficients(1, factor), slopes, g, dx);
    }
    if (dd.defined()) {
      if (needs[0]) expand<scalar_t>(edges, edges.coefficients(0), dd, u.defined(), dgrad);
      if (needs[2]) dot<scalar_t>(edges, edges.coefficients(1), dd, g, dx);
    }
  });
  return {dgrad, dslope, dx};
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("radial_interpolation", &forward_cpu);
  m.impl("radial_interpolation_backward", &backward_cpu);
  m.impl("radial_interpolation_double_backward", &double_backward_cpu);
}

}  // namespace uqforce
