// The ops of parallel engines on CUDA tensors. The engine reads and writes the host's memory: rows go there
// and back, through pinned memory and on the current stream, and the host waits for them.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty.h>

#include "ghost_exchange/op.h"

namespace uqforce {
namespace {

using at::Tensor;

Tensor on_host(const Tensor& like, at::IntArrayRef sizes) {
  return at::empty(sizes, like.options().device(at::kCPU).pinned_memory(like.is_cuda()));
}

Tensor exchange_cuda(const Tensor& x, int64_t num_atoms) {
  check_exchange(x, num_atoms);
  const c10::DeviceGuard guard(x.device());
  const int64_t owned = x.size(0), ghosts = num_atoms - owned;
  const Tensor rows = at::empty({num_atoms, x.size(1)}, x.options());
  rows.narrow(0, 0, owned).copy_(x);
  if (Ranks* engine = ranks("ghost_exchange", ghosts)) {
    Tensor host = on_host(x, rows.sizes());
    host.narrow(0, 0, owned).copy_(x);
    engine->to_ghosts(host);
    rows.narrow(0, owned, ghosts).copy_(host.narrow(0, owned, ghosts));
  }
  return rows;
}

Tensor exchange_vjp_cuda(const Tensor& cotangents, int64_t num_owned) {
  check_exchange_vjp(cotangents, num_owned);
  const c10::DeviceGuard guard(cotangents.device());
  const Tensor rows = at::empty({cotangents.size(0), num_owned, cotangents.size(2)}, cotangents.options());
  if (Ranks* engine = ranks("ghost_exchange_vjp", cotangents.size(1) - num_owned)) {
    Tensor host = on_host(cotangents, cotangents.sizes());
    host.copy_(cotangents);
    engine->to_owners(host);
    return rows.copy_(host.narrow(1, 0, num_owned));
  }
  return rows.copy_(cotangents.narrow(1, 0, num_owned));
}

Tensor sum_cuda(const Tensor& values) {
  check_sum(values);
  const c10::DeviceGuard guard(values.device());
  const Tensor sums = at::empty(values.sizes(), values.options());
  if (Ranks* engine = ranks("sum_over_ranks", 0)) {
    Tensor host = on_host(values, values.sizes());
    host.copy_(values);
    engine->sum(host);
    return sums.copy_(host);
  }
  return sums.copy_(values);
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("ghost_exchange", &exchange_cuda);
  m.impl("ghost_exchange_vjp", &exchange_vjp_cuda);
  m.impl("sum_over_ranks", &sum_cuda);
}

}  // namespace uqforce

#else

UQFORCE_WITHOUT_CUDA("ghost_exchange", "ghost_exchange_vjp", "sum_over_ranks")

#endif
