// The derivative for one cotangent: through the transposed linear map to the convolution's rows, then as in
// tensor_product_conv, but for the weights, whose gradient meets their slopes at once.
#include "tabulated_conv/cuda_body.h"

namespace uqforce::tabulated {
namespace {

template <typename T, class F>
__global__ void __launch_bounds__(kBlockWarps* kWarp, sizeof(T) == 4 ? 3 : 2)
    vjp_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnit unit) {
  constexpr int n = kC<T>, width = n * kWarp, all = F::rows_before(F::size);
  const conv::CudaCall<T>& graph = call.conv;
  const int warp = threadIdx.x / kWarp, fields_size = Fields<T>::count(int(graph.sh_dim), true) * kWarp;
  T* const memory = shared_memory<T>();
  T* const rows = memory + kBlockWarps * fields_size;
  const Fields<T> fields{memory + warp * fields_size, int(graph.sh_dim)};
  const int64_t first = int64_t(blockIdx.x) * kNodes;
  const int nodes = int(min(int64_t(kNodes), graph.nodes - first));
  if (graph.begin[first] >= graph.last || graph.begin[first + nodes] <= graph.first) return;
  each_slot<F>([&](auto slot) {
    using S = decltype(slot);
    constexpr int components = 2 * S::l3 + 1, threads = kBlockWarps * kWarp, kStage = 16;
    constexpr int tasks = (components * width + threads - 1) / threads;
    const CudaUnit::Path path = unit.path[S::k];
    T sum[tasks][kNodes] = {};
    T* const staged = memory;  // cotangents [component, v, node], where the fields come later
    for (int start = 0; start < path.mul_out; start += kStage) {
      const int count = min(kStage, path.mul_out - start);
      __syncthreads();
      for (int k = threadIdx.x; k < components * kStage * kNodes; k += threads) {
        const int v = k % kStage, m = k / kStage % components, node = k / (kStage * components);
        if (v >= count || node >= nodes) continue;
        const int64_t row = (first + node) * call.dim_out + path.out;
        staged[(m * kStage + v) * kNodes + node] = __ldg(call.cotangent + row + m * path.mul_out + start + v);
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < tasks; ++j) {
        const int k = threadIdx.x + j * threads, m = k / width, u = k % width;
        if (m >= components || u >= unit.conv.channels) continue;
        for (int v = 0; v < count; ++v) {
          const T w = __ldg(call.linear + path.weight + int64_t(start + v) * path.mul_in + u);
#pragma unroll
          for (int node = 0; node < kNodes; ++node)
            sum[j][node] += w * staged[(m * kStage + v) * kNodes + node];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < tasks; ++j) {
      const int k = threadIdx.x + j * threads, m = k / width, u = k % width;
#pragma unroll
      for (int node = 0; node < kNodes; ++node) {
        if (m < components) rows[((S::row + m) * width + u) * kNodes + node] = sum[j][node];
      }
    }
  });
  __syncthreads();
  for (int node = warp; node < nodes; node += kBlockWarps) {
    const Walk<T, n> walk(graph, unit.conv, first + node);
    T g[all][n];
#pragma unroll
    for (int row = 0; row < all; ++row) {
#pragma unroll
      for (int c = 0; c < n; ++c) {
        g[row][c] = rows[(row * width + walk.lane + kWarp * c) * kNodes + node] + walk.poison;
      }
    }
    const auto edge = [&](int k, int place, int neighbour, int interval) {
      T dx[2 * F::l1 + 1][n] = {};
      if (interval >= 0) {
        T x[2 * F::l1 + 1][n], values[kSplineTerms], slopes[kSplineTerms], degree[2 * kMaxDegree + 1], dr = 0;
        walk.load_input(graph.x, neighbour, x);
#pragma unroll
        for (int j = 0; j < kSplineTerms; ++j) {
          values[j] = fields.value(j, k);
          slopes[j] = fields.slope(j, k);
        }
        each_slot<F>([&](auto slot) {
          using S = decltype(slot);
          using Table = Terms<T, S::l1, S::l2, S::l3>;
          static constexpr auto t = Table::make();
          T(&dsh)[2 * S::l2 + 1] = reinterpret_cast<T(&)[2 * S::l2 + 1]>(degree);
          if (S::first_of_degree) {
#pragma unroll
            for (int i = 0; i <= 2 * S::l2; ++i) dsh[i] = 0;
          }
          if (walk.has(S::k)) {
            T w[n], slope[n], xw[n], y[n], Y[2 * S::l2 + 1], m = 0, dm = 0;
            rebuild(call, unit, walk, S::k, interval, values, w);
            rebuild(call, unit, walk, S::k, interval, slopes, slope);
#pragma unroll
            for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = fields.sh(S::l2 * S::l2 + i, k);
#pragma unroll
            for (int i = 0; i < Table::size; ++i) {
              const int m1 = t.m1[i], row = S::row + t.m3[i];
              m = t.first[i] ? t.value[i] * Y[t.m2[i]] : m + t.value[i] * Y[t.m2[i]];
              if (t.first[i]) dm = 0;
#pragma unroll
              for (int c = 0; c < n; ++c) {
                if (t.first_m1[i]) xw[c] = x[m1][c] * w[c], y[c] = 0;
                if (t.first[i]) dm += xw[c] * g[row][c];
                if (t.last[i]) y[c] += m * g[row][c];
                if (t.last_m1[i]) dx[m1][c] += w[c] * y[c], dr += slope[c] * x[m1][c] * y[c];
              }
              dsh[t.m2[i]] += t.value[i] * dm;
            }
          }
          if (S::last_of_degree && walk.unit.degrees >> S::l2 & 1) {
            int which = 0;
            const T sum = conv::lane_sums(dsh, walk.lane, which);
            if (which <= 2 * S::l2) fields.gradient(S::l2 * S::l2 + which, k) = sum;
          }
        });
        int which = 0;
        const T along[1] = {dr}, sum = conv::lane_sums(along, walk.lane, which);
        if (which == 0) fields.gradient(fields.sh_dim, k) = sum;
      }
      if (graph.rows) walk.store_rows(place, dx);
    };
    for_edges(call, walk, fields, true, edge, [&](int place, int, const Geometry<T>& geometry) {
      const int64_t row = int64_t(unit.conv.index) * (graph.last - graph.first) + (place - graph.first);
      geometry.vjp(fields, call.l_max, walk.lane, graph.partial + row * 3);
    });
  }
}

template <typename T, class... F>
void launch_family(const CudaCall<T>& call, const CudaUnit& unit, void* stream, conv::FamilyList<F...>) {
  constexpr void (*kernels[])(CudaCall<T>, CudaUnit) = {&vjp_kernel<T, F>...};
  const size_t bytes[] = {shared_bytes<T, F>(call, true)...};
  launch("tabulated_conv_vjp", kernels[unit.family], (call.conv.nodes + kNodes - 1) / kNodes,
         kBlockWarps * kWarp, bytes[unit.family], stream, call, unit);
}

}  // namespace

template <typename T>
void vjp(const CudaCall<T>& call, const CudaUnit& unit, void* stream) {
  launch_family(call, unit, stream, conv::Families{});
}

template void vjp(const CudaCall<float>&, const CudaUnit&, void*);
template void vjp(const CudaCall<double>&, const CudaUnit&, void*);

}  // namespace uqforce::tabulated
