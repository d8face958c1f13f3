// The CUDA ops of the embedding of edges: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/Dispatch.h>

#include "edge_embedding/cuda.h"
#include "edge_embedding/ops.h"

namespace uqforce {
namespace {

void run(const embedding::Arguments& a) {
  const c10::DeviceGuard guard(a.vec.device());
  AT_DISPATCH_FLOATING_TYPES(a.vec.scalar_type(), "edge_embedding", [&] {
    embedding::evaluate<scalar_t>(a.rows<scalar_t>(0, a.vec.size(0)), int(a.l_max), a.order,
                                  current_stream(a.vec.device()));
  });
}

using Ops = embedding::Ops<run>;

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("edge_embedding", &Ops::forward);
  m.impl("edge_embedding_backward", &Ops::backward);
  m.impl("edge_embedding_double_backward", &Ops::double_backward);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("edge_embedding", "edge_embedding_backward", "edge_embedding_double_backward")

#endif
