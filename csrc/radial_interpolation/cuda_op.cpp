// The CUDA ops of the radial interpolation: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "radial_interpolation/cuda.h"
#include "radial_interpolation/op.h"

namespace uqforce {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The edges' places, and the memory that they stand in.
template <typename T>
struct Placed {
  void* stream;
  Tensor memory;
  radial::Places<T> places;

  Placed(const Tensor& x, const Tensor& table, bool reduces)
      : stream(current_stream(x.device())),
        memory(at::empty({radial::places_bytes<T>(x.size(0), table.size(0), table.size(1), reduces)},
                         x.options().dtype(at::kByte))),
        places(radial::find_places(memory.mutable_data_ptr(), x.const_data_ptr<T>(), x.size(0), table.size(0),
                                   table.size(1), reduces, stream)) {}
};

template <typename T>
radial::Term<T> term(const Tensor& table, const Tensor& factor = {}) {
  return {table.defined() ? table.const_data_ptr<T>() : nullptr,
          factor.defined() ? factor.const_data_ptr<T>() : nullptr};
}

Tensor empty_if(bool needed, const Tensor& like) {
  return needed ? at::empty(like.sizes(), like.options()) : at::empty({0}, like.options());
}

Tensor forward_cuda(const Tensor& table, const Tensor& slope, const Tensor& x) {
  check_radial(slope, x, table);
  const c10::DeviceGuard guard(x.device());
  const Tensor nodes = table.contiguous(), positions = x.contiguous(),
               out = at::empty({x.size(0), table.size(1)}, table.options());
  AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "radial_interpolation", [&] {
    using T = scalar_t;
    const Placed<T> placed(positions, nodes, false);
    radial::expand(placed.places, term<T>(nodes), {}, out.mutable_data_ptr<T>(), placed.stream);
  });
  return out;
}

std::tuple<Tensor, Tensor> backward_cuda(const Tensor& grad, const Tensor& slope, const Tensor& x,
                                         std::array<bool, 2> needs) {
  check_radial(slope, x, {}, grad);
  const c10::DeviceGuard guard(x.device());
  const Tensor g = grad.contiguous(), slopes = slope.contiguous(), positions = x.contiguous(),
               dtable = empty_if(needs[0], slope), dx = empty_if(needs[1], x);
  AT_DISPATCH_FLOATING_TYPES(slope.scalar_type(), "radial_interpolation_backward", [&] {
    using T = scalar_t;
    const Placed<T> placed(positions, slopes, needs[0]);
    const T* const rows = g.const_data_ptr<T>();
    if (needs[0]) {
      radial::reduce<T>(placed.places, nullptr, rows, dtable.mutable_data_ptr<T>(), placed.stream);
    }
    if (needs[1]) {
      radial::dot(placed.places, term<T>(slopes), {}, false, rows, dx.mutable_data_ptr<T>(), placed.stream);
    }
  });
  return {dtable, dx};
}

std::tuple<Tensor, Tensor, Tensor> double_backward_cuda(const OptionalTensor& ddtable,
                                                        const OptionalTensor& ddx, const Tensor& grad,
                                                        const Tensor& slope, const Tensor& x,
                                                        std::array<bool, 3> needs) {
  check_radial(slope, x, {}, grad, ddtable, ddx);
  const c10::DeviceGuard guard(x.device());
  const Tensor g = grad.contiguous(), slopes = slope.contiguous(), positions = x.contiguous();
  const Tensor dd = ddtable ? ddtable->contiguous() : Tensor(), u = ddx ? ddx->contiguous() : Tensor();
  const Tensor dgrad = empty_if(needs[0], grad), dslope = empty_if(needs[1], slope),
               dx = empty_if(needs[2], x);
  if (!u.defined()) dslope.zero_();
  if (!u.defined() && !dd.defined()) {
    dgrad.zero_();
    dx.zero_();
    return {dgrad, dslope, dx};
  }
  AT_DISPATCH_FLOATING_TYPES(slope.scalar_type(), "radial_interpolation_double_backward", [&] {
    using T = scalar_t;
    const Placed<T> placed(positions, slopes, needs[1] && u.defined());
    const T* const rows = g.const_data_ptr<T>();
    const auto first = u.defined() ? term<T>(slopes, u) : radial::Term<T>{}, second = term<T>(dd);
    if (needs[0]) {
      radial::expand(placed.places, first, second, dgrad.mutable_data_ptr<T>(), placed.stream);
    }
    if (needs[1] && u.defined()) {
      radial::reduce(placed.places, u.const_data_ptr<T>(), rows, dslope.mutable_data_ptr<T>(), placed.stream);
    }
    if (needs[2]) {
      radial::dot(placed.places, first, second, true, rows, dx.mutable_data_ptr<T>(), placed.stream);
    }
  });
  return {dgrad, dslope, dx};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("radial_interpolation", &forward_cuda);
  m.impl("radial_interpolation_backward", &backward_cuda);
  m.impl("radial_interpolation_double_backward", &double_backward_cuda);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("radial_interpolation", "radial_interpolation_backward",
                     "radial_interpolation_double_backward")

#endif
