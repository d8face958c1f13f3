// CUDA kernels of the gate: a thread for each scalar and each channel of the blocks, with its gate.
#include <cmath>

#include "common/cuda.h"
#include "gate/body.h"
#include "gate/cuda.h"

namespace uqforce::gating {
namespace {

template <typename T>
struct One {
  __device__ T load(const T* p) const { return *p; }
  __device__ void store(T* p, T value) const { *p = value; }
};

template <typename T, Order order>
__global__ void __launch_bounds__(kThreads) gate(Arrays<T> a, Layout layout) {
  const int first_gate = layout.odd + layout.scalars, columns = first_gate + layout.gates;
  const int64_t thread = global_thread();
  if (thread >= a.rows * a.batch * columns) return;
  const Row<T> row(a, layout, thread / columns);
  const int column = int(thread % columns);
  const One<T> io;
  const T x = row.x[column];
  if (column < layout.odd) {
    const Curve<T> h = tanh(x, std::exp(-2 * std::abs(x)), a.tanh_factor);
    scalar<order>(io, row, h, column, layout.scalars + column);
    return;
  }
  const Curve<T> f = silu(x, std::exp(-std::abs(x)), a.silu_factor);
  if (column < first_gate) {
    scalar<order>(io, row, f, column, column - layout.odd);
    return;
  }
  int b = 0;
  while (column >= layout.block[b].gate + layout.block[b].mul) ++b;
  gated<order>(io, row, f, column, layout.block[b], column - layout.block[b].gate);
}

}  // namespace

template <typename T>
void evaluate(Order order, const Arrays<T>& a, const Layout& layout, void* stream) {
  const int64_t blocks = blocks_of(a.rows * a.batch * (layout.odd + layout.scalars + layout.gates));
  const auto kernel = order == Order::forward    ? gate<T, Order::forward>
                      : order == Order::backward ? gate<T, Order::backward>
                                                 : gate<T, Order::double_backward>;
  launch("gate", kernel, blocks, kThreads, 0, stream, a, layout);
}

template void evaluate(Order, const Arrays<float>&, const Layout&, void*);
template void evaluate(Order, const Arrays<double>&, const Layout&, void*);

}  // namespace uqforce::gating
