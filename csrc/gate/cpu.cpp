// CPU driver of the gate: threads over rows.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "common/isa.h"
#include "gate/cpu_kernels.h"
#include "gate/run.h"

namespace uqforce {
namespace {

using namespace gating;

constexpr int64_t kColumns = 16384;  // of rows that are worth a thread

template <typename T>
const Kernels<T>& kernels() {
  return UQFORCE_ACTIVE_OF(T, gating::kernels);
}

struct Cpu {
  template <typename T>
  static void run(Order order, const Arrays<T>& arrays, const Layout& layout, const at::Tensor& /*x*/) {
    const auto kernel = order == Order::forward    ? kernels<T>().forward
                        : order == Order::backward ? kernels<T>().backward
                                                   : kernels<T>().double_backward;
    const int64_t rows = arrays.rows * arrays.batch, grain = kColumns / (layout.dim_in + 1) + 1;
    at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { kernel(arrays, layout, begin, end); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("gate", &forward<Cpu>);
  m.impl("gate_backward", &backward<Cpu>);
  m.impl("gate_double_backward", &double_backward<Cpu>);
}

}  // namespace uqforce
