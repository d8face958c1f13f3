// First derivatives: with y[m1] = sum_m3 M[m1, m3] g[m3]
//   dx[m1] += w y[m1]    dw = sum_m1 x[m1] y[m1]    dM[m1, m3] = sum_channels (w x[m1]) g[m3]
// dx leaves as a row for each edge; those that lead to one node are added later, in their order.
#include "tensor_product_conv/cuda_body.h"

namespace uqforce::conv {
namespace {

template <typename T, int kC, class F>
__global__ void __launch_bounds__(kWarps* kWarp, sizeof(T) == 4 ? 3 : 2)
    backward_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnits units) {
  const Walk<T, kC> walk(call, units);
  if (walk.idle()) return;
  T g[F::rows_before(F::size)][kC];
  walk.template load_grad<F>(g);
  walk.edges(call.weight, nullptr, [&](int place, int edge, int neighbour) {
    T x[2 * F::l1 + 1][kC], dx[2 * F::l1 + 1][kC] = {}, dsh[2 * kMaxDegree + 1];
    walk.load_input(call.x, neighbour, x);
    const T* const sh = call.sh + edge * call.sh_dim;
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      using Table = Terms<T, S::l1, S::l2, S::l3>;
      static constexpr auto t = Table::make();
      T(&degree)[2 * S::l2 + 1] = reinterpret_cast<T(&)[2 * S::l2 + 1]>(dsh);
      if (S::first_of_degree) {
#pragma unroll
        for (int i = 0; i <= 2 * S::l2; ++i) degree[i] = 0;
      }
      if (walk.has(S::k)) {
        T w[kC], dw[kC] = {}, xw[kC], y[kC], Y[2 * S::l2 + 1], m = 0, dm = 0;
        walk.load_weight(call.weight, edge, S::k, w);
#pragma unroll
        for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = __ldg(sh + S::l2 * S::l2 + i);
#pragma unroll
        for (int i = 0; i < Table::size; ++i) {
          const int m1 = t.m1[i], row = S::row + t.m3[i];
          m = t.first[i] ? t.value[i] * Y[t.m2[i]] : m + t.value[i] * Y[t.m2[i]];
          if (t.first[i]) dm = 0;
#pragma unroll
          for (int c = 0; c < kC; ++c) {
            if (t.first_m1[i]) xw[c] = x[m1][c] * w[c], y[c] = 0;
            if (t.first[i]) dm += xw[c] * g[row][c];
            if (t.last[i]) y[c] += m * g[row][c];
            if (t.last_m1[i]) dx[m1][c] += w[c] * y[c], dw[c] += x[m1][c] * y[c];
          }
          degree[t.m2[i]] += t.value[i] * dm;
        }
        if (call.dw) walk.store_weight(call.dw, edge, S::k, dw);
      }
      if (S::last_of_degree && call.partial && walk.unit.degrees >> S::l2 & 1) {
        store_partial<S::l2>(walk, place, degree);
      }
    });
    if (call.rows) walk.store_rows(place, dx);
  });
}

template <typename T, class... F>
void launch_family(const CudaCall<T>& call, const CudaUnits& units, void* stream, FamilyList<F...>) {
  constexpr int kC = kBackwardChannels<T> / kWarp;
  constexpr void (*kernels[])(CudaCall<T>, CudaUnits) = {&backward_kernel<T, kC, F>...};
  launch_units("tensor_product_conv_backward", kernels[units.family], call, units, stream);
}

}  // namespace

template <typename T>
void backward(const CudaCall<T>& call, const CudaUnits& units, void* stream) {
  launch_family(call, units, stream, Families{});
}

template void backward(const CudaCall<float>&, const CudaUnits&, void*);
template void backward(const CudaCall<double>&, const CudaUnits&, void*);

}  // namespace uqforce::conv
