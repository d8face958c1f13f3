// CPU driver of the embedding of edges: threads over edges.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "common/isa.h"
#include "edge_embedding/cpu_kernels.h"
#include "edge_embedding/ops.h"

namespace uqforce {
namespace {

using embedding::Kernels;
using embedding::Order;

constexpr int64_t kGrain = 256;  // edges; a multiple of every number of lanes

template <typename T>
const Kernels<T>& kernels() {
  return UQFORCE_ACTIVE_OF(T, embedding::kernels);
}

void run(const embedding::Arguments& a) {
  const int64_t edges = a.vec.size(0);
  AT_DISPATCH_FLOATING_TYPES(a.vec.scalar_type(), "edge_embedding", [&] {
    const auto& table = kernels<scalar_t>();
    const auto kernel = a.order == Order::forward    ? table.forward[a.l_max]
                        : a.order == Order::backward ? table.backward[a.l_max]
                                                     : table.double_backward[a.l_max];
    const int64_t blocks = (edges + kGrain - 1) / kGrain;  // fixed, whatever the number of threads
    at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kGrain;
      kernel(a.rows<scalar_t>(first, std::min(end * kGrain, edges) - first));
    });
  });
}

using Ops = embedding::Ops<run>;

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("edge_embedding", &Ops::forward);
  m.impl("edge_embedding_backward", &Ops::backward);
  m.impl("edge_embedding_double_backward", &Ops::double_backward);
}

}  // namespace uqforce
