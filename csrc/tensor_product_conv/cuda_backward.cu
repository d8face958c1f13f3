// First derivatives, see adjoin(). dx leaves as a row for each edge; those that lead to one node are added
// later, in their order.
#include "tensor_product_conv/cuda_body.h"

namespace uqforce::conv {
namespace {

template <typename T, int kC, class F>
__global__ void __launch_bounds__(kWarps* kWarp, sizeof(T) == 4 && F::columns_before(F::size) <= 9 ? 3 : 2)
    backward_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnits units) {
  each_walk<T, kC>(call, units, [&](const Walk<T, kC>& walk) {
    T g[F::rows_before(F::size)][kC];
    walk.template load_grad<F>(g);
    walk.template edges<F>(
        call.weight, nullptr, [&](int place, int edge, int neighbour, const T* weight, const T*) {
          T x[2 * F::l1 + 1][kC], dx[2 * F::l1 + 1][kC] = {}, dsh[F::columns_before(F::size)] = {};
          walk.load_input(call.x, neighbour, x);
          const T* const sh = call.sh + edge * call.sh_dim;
          each_slot<F>([&](auto slot) {
            using S = decltype(slot);
            if (!walk.has(S::k)) return;
            T(&degree)[2 * S::l2 + 1] = reinterpret_cast<T(&)[2 * S::l2 + 1]>(dsh[S::column]);
            T w[kC], dw[kC], Y[2 * S::l2 + 1];
            walk.read_weight(weight, S::k, w);
#pragma unroll
            for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = __ldg(sh + S::l2 * S::l2 + i);
            adjoin<S>(Y, w, x, g + S::row, dx, dw, degree);
            if (call.dw) walk.store_weight(call.dw, edge, S::k, dw);
          });
          if (call.partial) store_partial<F::l2(0)>(walk, place, dsh);
          if (call.rows) walk.store_rows(call.rows, place, dx);
        });
  });
}

}  // namespace

template <typename T>
void backward(const CudaCall<T>& call, const CudaUnits& units, void* stream) {
  constexpr int kC = kBackwardChannels<T> / kWarp;
  launch_units<T, kC>(
      "tensor_product_conv_backward", [](auto family) { return &backward_kernel<T, kC, decltype(family)>; },
      1, call, units, stream);
}

template void backward(const CudaCall<float>&, const CudaUnits&, void*);
template void backward(const CudaCall<double>&, const CudaUnits&, void*);

}  // namespace uqforce::conv
