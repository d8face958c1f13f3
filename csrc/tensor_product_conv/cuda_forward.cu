// The convolution: out[m3] += sum_m1 M[m1, m3] (w x[m1]) over the edges of a centre.
#include "tensor_product_conv/cuda_body.h"

namespace uqforce::conv {
namespace {

template <typename T, int kC, class F>
__global__ void __launch_bounds__(kWarps* kWarp, sizeof(T) == 4 ? 5 : 4)
    forward_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnits units) {
  const Walk<T, kC> walk(call, units);
  if (walk.idle()) return;
  T sum[F::rows_before(F::size)][kC];
  walk.template begin_out<F>(sum);
  walk.edges(call.weight, nullptr, [&](int, int edge, int neighbour) {
    T x[2 * F::l1 + 1][kC];
    walk.load_input(call.x, neighbour, x);
    const T* const sh = call.sh + edge * call.sh_dim;
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      using Table = Terms<T, S::l1, S::l2, S::l3>;
      static constexpr auto t = Table::make();
      if (!walk.has(S::k)) return;
      T w[kC], xw[kC], Y[2 * S::l2 + 1], m = 0;
      walk.load_weight(call.weight, edge, S::k, w);
#pragma unroll
      for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = __ldg(sh + S::l2 * S::l2 + i);
#pragma unroll
      for (int i = 0; i < Table::size; ++i) {
        m = t.first[i] ? t.value[i] * Y[t.m2[i]] : m + t.value[i] * Y[t.m2[i]];
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          if (t.first_m1[i]) xw[c] = x[t.m1[i]][c] * w[c];
          if (t.last[i]) sum[S::row + t.m3[i]][c] += xw[c] * m;
        }
      }
    });
  });
  walk.template store_out<F>(sum);
}

template <typename T, class... F>
void launch_family(const CudaCall<T>& call, const CudaUnits& units, void* stream, FamilyList<F...>) {
  constexpr int kC = kForwardChannels<T> / kWarp;
  constexpr void (*kernels[])(CudaCall<T>, CudaUnits) = {&forward_kernel<T, kC, F>...};
  launch_units("tensor_product_conv", kernels[units.family], call, units, stream);
}

}  // namespace

template <typename T>
void forward(const CudaCall<T>& call, const CudaUnits& units, void* stream) {
  launch_family(call, units, stream, Families{});
}

template void forward(const CudaCall<float>&, const CudaUnits&, void*);
template void forward(const CudaCall<double>&, const CudaUnits&, void*);

}  // namespace uqforce::conv
