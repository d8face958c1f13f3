// The gradient of T(g, ddx, Y, w) + T(g, x, ddY, w) + T(g, x, Y, ddw) with respect to g, x, Y and w; N is the
// matrix of ddY and q[m1] = w ddx[m1] + ddw x[m1]:
//   dg[m3] += sum_m1 M[m1, m3] q[m1] + N[m1, m3] (w x[m1])
//   with y[m1] = sum_m3 M[m1, m3] g[m3] and z[m1] = sum_m3 N[m1, m3] g[m3]
//   dx[m1] += ddw y[m1] + w z[m1]    dw = sum_m1 ddx[m1] y[m1] + x[m1] z[m1]
//   dM[m1, m3] = sum_channels q[m1] g[m3]
#include "tensor_product_conv/cuda_body.h"

namespace uqforce::conv {
namespace {

template <typename T, int kC, class F>
__global__ void __launch_bounds__(kWarps* kWarp, 2)
    double_backward_kernel(const __grid_constant__ CudaCall<T> call,
                           const __grid_constant__ CudaUnits units) {
  each_walk<T, kC>(call, units, [&](const Walk<T, kC>& walk) {
    T g[F::rows_before(F::size)][kC], sum[F::rows_before(F::size)][kC];
    walk.template load_grad<F>(g);
    if (call.out) walk.template begin_out<F>(sum);
    walk.template edges<F>(
        call.weight, call.ddw, [&](int place, int edge, int neighbour, const T* weight, const T* more) {
          constexpr int n = 2 * F::l1 + 1;
          T x[n][kC], ddx[n][kC] = {}, dx[n][kC] = {}, dsh[2 * kMaxDegree + 1];
          walk.load_input(call.x, neighbour, x);
          if (call.ddx) walk.load_input(call.ddx, neighbour, ddx);
          const T *const sh = call.sh + edge * call.sh_dim, *const ddsh = call.ddsh
                                                                              ? call.ddsh + edge * call.sh_dim
                                                                              : nullptr;
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
              T w[kC], ddw[kC] = {}, dw[kC] = {}, Y[2 * S::l2 + 1], ddY[2 * S::l2 + 1];
              T q[kC], xw[kC], y[kC], z[kC], mm = 0, nn = 0, dm = 0;
              walk.read_weight(weight, S::k, w);
              if (call.ddw) walk.read_weight(more, S::k, ddw);
#pragma unroll
              for (int i = 0; i <= 2 * S::l2; ++i) {
                Y[i] = __ldg(sh + S::l2 * S::l2 + i);
                ddY[i] = ddsh ? __ldg(ddsh + S::l2 * S::l2 + i) : T(0);
              }
#pragma unroll
              for (int i = 0; i < Table::size; ++i) {
                const int m1 = t.m1[i], m2 = t.m2[i], row = S::row + t.m3[i];
                mm = t.first[i] ? t.value[i] * Y[m2] : mm + t.value[i] * Y[m2];
                nn = t.first[i] ? t.value[i] * ddY[m2] : nn + t.value[i] * ddY[m2];
                if (t.first[i]) dm = 0;
#pragma unroll
                for (int c = 0; c < kC; ++c) {
                  if (t.first_m1[i]) {
                    q[c] = ddx[m1][c] * w[c];
                    q[c] += x[m1][c] * ddw[c];
                    xw[c] = x[m1][c] * w[c];
                    y[c] = z[c] = 0;
                  }
                  if (t.first[i]) dm += q[c] * g[row][c];
                  if (t.last[i]) {
                    y[c] += mm * g[row][c];
                    z[c] += nn * g[row][c];
                    sum[row][c] += mm * q[c];
                    sum[row][c] += nn * xw[c];
                  }
                  if (t.last_m1[i]) {
                    dx[m1][c] += ddw[c] * y[c];
                    dx[m1][c] += w[c] * z[c];
                    dw[c] += ddx[m1][c] * y[c];
                    dw[c] += x[m1][c] * z[c];
                  }
                }
                degree[m2] += t.value[i] * dm;
              }
              if (call.dw) walk.store_weight(call.dw, edge, S::k, dw);
            }
            if (S::last_of_degree && call.partial && walk.unit.degrees >> S::l2 & 1) {
              store_partial<S::l2>(walk, place, degree);
            }
          });
          if (call.rows) walk.store_rows(call.rows, place, dx);
        });
    if (call.out) walk.template store_out<F>(sum);
  });
}

}  // namespace

template <typename T>
void double_backward(const CudaCall<T>& call, const CudaUnits& units, void* stream) {
  constexpr int kC = kDoubleBackwardChannels<T> / kWarp;
  launch_units<T, kC>(
      "tensor_product_conv_double_backward",
      [](auto family) { return &double_backward_kernel<T, kC, decltype(family)>; }, call.ddw ? 2 : 1, call,
      units, stream);
}

template void double_backward(const CudaCall<float>&, const CudaUnits&, void*);
template void double_backward(const CudaCall<double>&, const CudaUnits&, void*);

}  // namespace uqforce::conv
