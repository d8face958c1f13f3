// The derivative for some cotangents at once: through the transposed linear map to the convolution's rows,
// which stay in shared memory, then as in tensor_product_conv, but for the weights, whose gradient meets
// their slopes at once. Weights and slopes are rebuilt once for all cotangents. A block has up to kColumns
// pairs of a node and a cotangent; where that leaves fewer nodes than warps, they share a node's edges.
#include <algorithm>

#include "tabulated_conv/cuda_body.h"

namespace uqforce::tabulated {
namespace {

constexpr int kMostCotangents = 4;
template <class F>
constexpr int highest_degree() {
  int highest = F::l1;
  for (int k = 0; k < F::size; ++k) highest = std::max({highest, F::l2(k), F::l3(k)});
  return highest;
}
// Blocks of a multiprocessor in float32: as many as the registers allow without spills.
template <class F>
constexpr int kBlocks = highest_degree<F>() > 2 ? 2
                        : F::l1 > 0             ? 3
                                                : 4;

template <typename T, class F>
__global__ void __launch_bounds__(kBlockWarps* kWarp, sizeof(T) == 4 ? kBlocks<F> : 2)
    vjp_kernel(const __grid_constant__ CudaCall<T> call, const __grid_constant__ CudaUnit unit) {
  constexpr int n = kC<T>, width = n * kWarp, all = F::rows_before(F::size);
  const conv::CudaCall<T>& graph = call.conv;
  const int warp = threadIdx.x / kWarp, cotangents = call.cotangents, nodes = call.block_nodes;
  const int fields_size = Fields<T>::count(int(graph.sh_dim), cotangents) * kWarp;
  // The first of the nodes that the block is at; in memory and read where it is wanted, to spare a register.
  volatile int* const at = shared_memory<int>();
  T* const memory = shared_memory<T>() + kAtBytes / sizeof(T);
  T* const rows = memory + kBlockWarps * fields_size;  // [column, row, channel]
  const Fields<T> fields{memory + warp * fields_size, int(graph.sh_dim)};
  const T poison = *graph.bad ? std::numeric_limits<T>::quiet_NaN() : T(0);
  // The host launches about as many blocks as the pass has nodes for; where it has more, they go on.
  const auto move_to = [&](int node) {
    __syncthreads();
    if (threadIdx.x == 0) *at = node;
    __syncthreads();
  };
  move_to(conv::Centres(graph).begin + int(blockIdx.x) * nodes);
  for (; *at < conv::Centres(graph).end; move_to(*at + int(gridDim.x) * nodes)) {
    const int count = min(nodes, int(graph.nodes) - *at), columns = count * cotangents;
    if (graph.begin[*at] >= graph.last || graph.begin[*at + count] <= graph.first) continue;
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      constexpr int components = 2 * S::l3 + 1, threads = kBlockWarps * kWarp, kStage = 16;
      constexpr int tasks = (components * width + threads - 1) / threads;
      const CudaUnit::Path path = unit.path[S::k];
      T sum[tasks][kColumns] = {};
      T* const staged = memory;  // cotangents [component, v, column], where the fields come later
      for (int start = 0; start < path.mul_out; start += kStage) {
        const int size = min(kStage, path.mul_out - start);
        __syncthreads();
        for (int k = threadIdx.x; k < components * kStage * columns; k += threads) {
          const int v = k % kStage, m = k / kStage % components, column = k / (kStage * components);
          if (v >= size) continue;
          const int64_t node = *at + column / cotangents, which = column % cotangents;
          const T* const from = call.cotangent + (which * graph.nodes + node) * call.dim_out + path.out;
          staged[(m * kStage + v) * kColumns + column] = __ldg(from + m * path.mul_out + start + v);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < tasks; ++j) {
          const int k = threadIdx.x + j * threads, m = k / width, u = k % width;
          if (m >= components || u >= unit.conv.channels) continue;
          for (int v = 0; v < size; ++v) {
            const T w = __ldg(call.linear + path.weight + int64_t(start + v) * path.mul_in + u);
#pragma unroll
            for (int column = 0; column < kColumns; ++column) {
              sum[j][column] += w * staged[(m * kStage + v) * kColumns + column];
            }
          }
        }
      }
#pragma unroll
      for (int j = 0; j < tasks; ++j) {
        const int k = threadIdx.x + j * threads, m = k / width, u = k % width;
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          if (m < components && column < columns) {
            rows[(column * all + S::row + m) * width + u] = sum[j][column] + poison;
          }
        }
      }
    });
    __syncthreads();
    const int parts = nodes < kBlockWarps ? kBlockWarps / nodes : 1;  // warps of a node
    for (int task = warp; task < count * parts; task += kBlockWarps) {
      Walk<T, n> walk(graph, unit.conv, *at + task / parts);
      walk.share(task % parts, parts);
      const T* const its_rows = rows + task / parts * cotangents * all * width;
      const auto edge = [&](int k, int place, int neighbour, int interval) {
        T x[2 * F::l1 + 1][n], w[F::size][n], slope[F::size][n];
        if (interval >= 0) {
          T values[kSplineTerms], slopes[kSplineTerms];
          walk.load_input(graph.x, neighbour, x);
#pragma unroll
          for (int j = 0; j < kSplineTerms; ++j) {
            values[j] = fields.value(j, k);
            slopes[j] = fields.slope(j, k);
          }
          each_slot<F>([&](auto slot) {
            using S = decltype(slot);
            if (!walk.has(S::k)) return;
#pragma unroll
            for (int c = 0; c < n; ++c) w[S::k][c] = slope[S::k][c] = 0;
            rebuild(call, unit, walk, S::k, interval, [&](int c, int j, T t) {
              w[S::k][c] += values[j] * t;
              slope[S::k][c] += slopes[j] * t;
            });
          });
        }
        for (int cotangent = 0; cotangent < cotangents; ++cotangent) {
          T dx[2 * F::l1 + 1][n] = {}, degree[2 * kMaxDegree + 1], dr = 0;
          const Fields<T> its{fields.memory, fields.sh_dim, cotangent};
          each_slot<F>([&](auto slot) {
            using S = decltype(slot);
            if (interval < 0) return;
            T(&dsh)[2 * S::l2 + 1] = reinterpret_cast<T(&)[2 * S::l2 + 1]>(degree);
            if (S::first_of_degree) {
#pragma unroll
              for (int i = 0; i <= 2 * S::l2; ++i) dsh[i] = 0;
            }
            if (walk.has(S::k)) {
              T g[2 * S::l3 + 1][n], dw[n], Y[2 * S::l2 + 1];
              const T* const row = its_rows + (cotangent * all + S::row) * width + walk.lane;
#pragma unroll
              for (int m = 0; m <= 2 * S::l3; ++m) {
#pragma unroll
                for (int c = 0; c < n; ++c) g[m][c] = row[m * width + kWarp * c];
              }
#pragma unroll
              for (int i = 0; i <= 2 * S::l2; ++i) Y[i] = fields.sh(S::l2 * S::l2 + i, k);
              conv::adjoin<S>(Y, w[S::k], x, g, dx, dw, dsh);
#pragma unroll
              for (int c = 0; c < n; ++c) dr += slope[S::k][c] * dw[c];
            }
            if (S::last_of_degree && walk.unit.degrees >> S::l2 & 1) {
              int which = 0;
              const T sum = conv::lane_sums(dsh, walk.lane, which);
              if (which <= 2 * S::l2) its.gradient(S::l2 * S::l2 + which, k) = sum;
            }
          });
          if (interval >= 0) {
            int which = 0;
            const T along[1] = {dr}, sum = conv::lane_sums(along, walk.lane, which);
            if (which == 0) its.gradient(fields.sh_dim, k) = sum;
          }
          if (graph.rows) walk.store_rows(graph.rows + cotangent * call.rows_stride, place, dx);
        }
      };
      for_edges(call, walk, fields, edge, [&](int place, int, const Geometry<T>& geometry) {
        const int64_t row = int64_t(unit.conv.index) * (graph.last - graph.first) + (place - graph.first);
        for (int cotangent = 0; cotangent < cotangents; ++cotangent) {
          const Fields<T> its{fields.memory, fields.sh_dim, cotangent};
          geometry.vjp(its, call.l_max, walk.lane, graph.partial + cotangent * call.partial_stride + row * 3);
        }
      });
    }
  }
}

// Nodes of a block with so many cotangents each: as many as kColumns and the memory of a block allow.
template <typename T>
int block_nodes(int family, int64_t sh_dim, int cotangents) {
  int nodes = kColumns / cotangents;
  const int64_t most = most_shared_memory();
  while (nodes > 0 && shared_bytes<T>(family, sh_dim, cotangents, nodes * cotangents) > most) --nodes;
  return nodes;
}

}  // namespace

template <typename T>
int most_cotangents(int64_t sh_dim) {
  const auto fits = [=](int count) {
    for (int family = 0; family < conv::Families::size; ++family) {
      if (block_nodes<T>(family, sh_dim, count) < kColumns / count) return false;
    }
    return true;
  };
  int count = kMostCotangents;
  while (count > 1 && !fits(count)) --count;
  return count;
}

template <typename T>
void vjp(CudaCall<T> call, const CudaUnit& unit, void* stream) {
  call.block_nodes = block_nodes<T>(unit.family, call.conv.sh_dim, call.cotangents);
  if (call.block_nodes == 0) throw std::runtime_error("tabulated_conv_vjp: a block has too little memory");
  launch_nodes<T>(
      "tabulated_conv_vjp", [](auto family) { return &vjp_kernel<T, decltype(family)>; }, call, unit, stream);
}

template int most_cotangents<float>(int64_t);
template int most_cotangents<double>(int64_t);
template void vjp(CudaCall<float>, const CudaUnit&, void*);
template void vjp(CudaCall<double>, const CudaUnit&, void*);

}  // namespace uqforce::tabulated
