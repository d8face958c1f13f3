// The value: sums of the centre's edges as in tensor_product_conv, then what the linear map makes of them.
#include "tabulated_conv/cuda_body.h"

namespace uqforce::tabulated {
namespace {

template <typename T, class F>
__global__ void __launch_bounds__(kBlockWarps* kWarp, sizeof(T) == 4 ? 4 : 3)
    value_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnit unit) {
  constexpr int n = kC<T>, width = n * kWarp, all = F::rows_before(F::size);
  const int warp = threadIdx.x / kWarp, fields_size = Fields<T>::count(int(call.conv.sh_dim), 0) * kWarp;
  T* const memory = shared_memory<T>();
  T* const rows = memory + kBlockWarps * fields_size;
  const Fields<T> fields{memory + warp * fields_size, int(call.conv.sh_dim)};
  const int64_t first = int64_t(blockIdx.x) * kColumns;
  for (int node = warp; node < kColumns && first + node < call.conv.nodes; node += kBlockWarps) {
    const Walk<T, n> walk(call.conv, unit.conv, first + node);
    T sum[all][n];
#pragma unroll
    for (int row = 0; row < all; ++row) {
#pragma unroll
      for (int c = 0; c < n; ++c) sum[row][c] = walk.poison;
    }
    const auto edge = [&](int k, int, int neighbour, int interval) {
      if (interval < 0) return;
      T x[2 * F::l1 + 1][n], terms[kSplineTerms];
      walk.load_input(call.conv.x, neighbour, x);
#pragma unroll
      for (int j = 0; j < kSplineTerms; ++j) terms[j] = fields.value(j, k);
      each_slot<F>([&](auto slot) {
        using S = decltype(slot);
        if (!walk.has(S::k)) return;
        T w[n] = {}, Y[2 * S::l2 + 1];
        rebuild(call, unit, walk, S::k, interval, [&](int c, int j, T t) { w[c] += terms[j] * t; });
#pragma unroll
        for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = fields.sh(S::l2 * S::l2 + i, k);
        conv::couple<S>(Y, w, x, sum + S::row);
      });
    };
    for_edges(call, walk, fields, edge, [](int, int, const Geometry<T>&) {});
#pragma unroll
    for (int row = 0; row < all; ++row) {
#pragma unroll
      for (int c = 0; c < n; ++c) rows[(row * width + walk.lane + kWarp * c) * kColumns + node] = sum[row][c];
    }
  }
  __syncthreads();
  const int nodes = int(min(int64_t(kColumns), call.conv.nodes - first));
  each_slot<F>([&](auto slot) {
    using S = decltype(slot);
    const CudaUnit::Path path = unit.path[S::k];
    if (unit.conv.path[S::k].weight_offset < 0 || path.mul_out == 0) return;
    // The same thread for the same columns, whatever the path: what it adds to is its own.
    for (int k = threadIdx.x; k < (2 * S::l3 + 1) * path.mul_out; k += blockDim.x) {
      const int m = k / path.mul_out, v = k % path.mul_out;
      const T *const weight = call.linear + path.weight + v, *const row =
                                                                 rows + (S::row + m) * width * kColumns;
      T sum[kColumns] = {};
      for (int u = 0; u < unit.conv.channels; ++u) {
        const T w = __ldg(weight + int64_t(u) * path.mul_out);
#pragma unroll
        for (int node = 0; node < kColumns; ++node) sum[node] += w * row[u * kColumns + node];
      }
#pragma unroll
      for (int node = 0; node < kColumns; ++node) {
        if (node < nodes) call.out[(first + node) * call.dim_out + path.out + k] += sum[node];
      }
    }
  });
}

}  // namespace

template <typename T>
void value(CudaCall<T> call, const CudaUnit& unit, void* stream) {
  call.block_nodes = kColumns;
  launch_nodes<T>(
      "tabulated_conv", [](auto family) { return &value_kernel<T, decltype(family)>; }, call, unit, stream);
}

template void value(CudaCall<float>, const CudaUnit&, void*);
template void value(CudaCall<double>, const CudaUnit&, void*);

}  // namespace uqforce::tabulated
