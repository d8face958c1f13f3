// The CUDA ops of the gate: the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include "gate/cuda.h"
#include "gate/run.h"

namespace uqforce {
namespace {

using namespace gating;

struct Cuda {
  template <typename T>
  static void run(Order order, const Arrays<T>& arrays, const Layout& layout, const at::Tensor& x) {
    const c10::DeviceGuard guard(x.device());
    evaluate(order, arrays, layout, current_stream(x.device()));
  }
};

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("gate", &forward<Cuda>);
  m.impl("gate_backward", &backward<Cuda>);
  m.impl("gate_double_backward", &double_backward<Cuda>);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("gate", "gate_backward", "gate_double_backward")

#endif
