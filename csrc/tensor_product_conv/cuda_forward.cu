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
  walk.template edges<F>(call.weight, nullptr, [&](int, int edge, int neighbour, const T* weight, const T*) {
    T x[2 * F::l1 + 1][kC];
    walk.load_input(call.x, neighbour, x);
    const T* const sh = call.sh + edge * call.sh_dim;
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      if (!walk.has(S::k)) return;
      T w[kC], Y[2 * S::l2 + 1];
      walk.read_weight(weight, S::k, w);
#pragma unroll
      for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = __ldg(sh + S::l2 * S::l2 + i);
      couple<S>(Y, w, x, sum + S::row);
    });
  });
  walk.template store_out<F>(sum);
}

}  // namespace

template <typename T>
void forward(const CudaCall<T>& call, const CudaUnits& units, void* stream) {
  constexpr int kC = kForwardChannels<T> / kWarp;
  launch_units<T, kC>(
      "tensor_product_conv", [](auto family) { return &forward_kernel<T, kC, decltype(family)>; }, 1, call,
      units, stream);
}

template void forward(const CudaCall<float>&, const CudaUnits&, void*);
template void forward(const CudaCall<double>&, const CudaUnits&, void*);

}  // namespace uqforce::conv
