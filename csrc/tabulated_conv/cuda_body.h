// What value and derivative share: a block of threads has some nodes; its warps walk their edges for one
// unit, 32 edges at a time: each lane makes the spherical harmonics and splines of one of them first, for all
// lanes to read. The convolution's rows stay in shared memory.
#pragma once

#include "tabulated_conv/cuda.h"
#include "tensor_product_conv/cuda_body.h"

namespace uqforce::tabulated {
namespace {

using conv::each_slot;
using conv::Terms;
using conv::Walk;

// Rows of the linear map's input that a block has at most: of nodes, or of their cotangents.
constexpr int kColumns = 8;
constexpr int kBlockWarps = 4, kSplineTerms = 6;
constexpr int kAtBytes = 16;  // of shared memory, before all else
template <typename T>
constexpr int kC = conv::kForwardChannels<T> / kWarp;

// Square roots of (2l + 1) / (3l), see cpu_body.h.
template <int l>
constexpr double kRaise = l == 2   ? 0.91287092917527685576
                          : l == 3 ? 0.88191710368819686230
                                   : 0.86602540378443864676;
constexpr double kSqrt3 = 1.73205080756887729353;

// What lanes tell each other of their edges, [field, lane] in shared memory.
template <typename T>
struct Fields {
  T* memory;
  int sh_dim;
  int cotangent = 0;

  __host__ __device__ static int count(int sh_dim, int cotangents) {
    return 1 + sh_dim + kSplineTerms + (cotangents > 0 ? kSplineTerms + cotangents * (sh_dim + 1) : 0);
  }
  __device__ T& interval(int edge) const { return memory[edge]; }  // -1: beyond the cutoff
  __device__ T& sh(int c, int edge) const { return memory[(1 + c) * kWarp + edge]; }
  __device__ T& value(int k, int edge) const { return sh(sh_dim + k, edge); }
  __device__ T& slope(int k, int edge) const { return value(kSplineTerms + k, edge); }
  // Of the cotangent, gradients of the spherical harmonics, and of the length.
  __device__ T& gradient(int c, int edge) const {
    return slope(kSplineTerms + cotangent * (sh_dim + 1) + c, edge);
  }
};

template <int l, typename T>
__device__ void raise(const Fields<T>& fields, int l_max, int lane) {
  if constexpr (l <= kMaxDegree) {
    if (l > l_max) return;
    static constexpr auto t = Terms<T, 1, l - 1, l>::make();
    T y[2 * l + 1] = {};
#pragma unroll
    for (int i = 0; i < Terms<T, 1, l - 1, l>::size; ++i) {
      y[t.m3[i]] += T(kRaise<l>) * t.value[i] * fields.sh(1 + t.m1[i], lane) *
                    fields.sh((l - 1) * (l - 1) + t.m2[i], lane);
    }
#pragma unroll
    for (int m = 0; m <= 2 * l; ++m) fields.sh(l * l + m, lane) = y[m];
    raise<l + 1>(fields, l_max, lane);
  }
}

// Hands the gradient of Y_l down to Y_{l-1} and Y_1, then those of the lower degrees.
template <int l, typename T>
__device__ void lower(const Fields<T>& fields, int l_max, int lane) {
  if constexpr (l >= 2) {
    if (l <= l_max) {
      static constexpr auto t = Terms<T, 1, l - 1, l>::make();
      T one[3] = {}, rest[2 * l - 1] = {};
#pragma unroll
      for (int i = 0; i < Terms<T, 1, l - 1, l>::size; ++i) {
        const T dy = T(kRaise<l>) * t.value[i] * fields.gradient(l * l + t.m3[i], lane);
        one[t.m1[i]] += dy * fields.sh((l - 1) * (l - 1) + t.m2[i], lane);
        rest[t.m2[i]] += dy * fields.sh(1 + t.m1[i], lane);
      }
#pragma unroll
      for (int m = 0; m < 3; ++m) fields.gradient(1 + m, lane) += one[m];
#pragma unroll
      for (int m = 0; m < 2 * l - 1; ++m) fields.gradient((l - 1) * (l - 1) + m, lane) += rest[m];
    }
    lower<l - 1>(fields, l_max, lane);
  }
}

// One edge, of one lane.
template <typename T>
struct Geometry {
  T direction[3], inverse_length;

  __device__ void embed(const CudaCall<T>& call, int64_t centre, int neighbour, int edge,
                        const Fields<T>& fields, int lane) {
    const int64_t a = call.types[centre], b = call.types[neighbour];
    const bool known = min(a, b) >= 0 && max(a, b) < call.num_types;
    const T inverse_cutoff =
        known ? 1 / call.cutoffs[a * call.num_types + b] : std::numeric_limits<T>::quiet_NaN();
    T vec[3], square = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      vec[d] = call.edge_vec[int64_t(edge) * 3 + d];
      square += vec[d] * vec[d];
    }
    // An edge of no length has no direction. Not a number stays one.
    const T length = sqrt(square);
    inverse_length = square <= (sizeof(T) == 4 ? T(1e-30) : T(1e-200)) ? T(0) : 1 / length;
    fields.sh(0, lane) = 1;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      direction[d] = vec[d] * inverse_length;
      if (call.l_max >= 1) fields.sh(1 + d, lane) = T(kSqrt3) * direction[d];
    }
    raise<2>(fields, call.l_max, lane);

    const T scaled = length * inverse_cutoff, n = call.intervals, x = scaled >= 1 ? T(1) : scaled;
    const int k = x * n < n - 1 ? int(x * n) : call.intervals - 1;
    const T t = x * n - T(k), s = 1 - t, t2 = t * t, s2 = s * s;
    const T left = 1 - x, envelope = left * left * left / 120;
    const T denvelope = -3 * left * left / 120 * inverse_cutoff, dt = envelope * n * inverse_cutoff;
    fields.interval(lane) = scaled >= 1 ? T(-1) : T(k);
    const T u = 1 + t, v = 1 + s, u2 = u * u, v2 = v * v, u4 = u2 * u2, v4 = v2 * v2;
    const T t4 = t2 * t2, s4 = s2 * s2;
    const T value[] = {s4 * s,
                       v4 * v - 6 * s4 * s,
                       66 - 60 * t2 + 30 * t4 - 10 * t4 * t,
                       66 - 60 * s2 + 30 * s4 - 10 * s4 * s,
                       u4 * u - 6 * t4 * t,
                       t4 * t};
    const T slope[] = {-5 * s4,
                       -5 * v4 + 30 * s4,
                       -120 * t + 120 * t2 * t - 50 * t4,
                       120 * s - 120 * s2 * s + 50 * s4,
                       5 * u4 - 30 * t4,
                       5 * t4};
#pragma unroll
    for (int j = 0; j < kSplineTerms; ++j) {
      fields.value(j, lane) = envelope * value[j];
      if (call.cotangents > 0) fields.slope(j, lane) = denvelope * value[j] + dt * slope[j];
    }
    for (int c = 0; c < call.cotangents * (fields.sh_dim + 1); ++c) fields.gradient(c, lane) = 0;
  }

  // From the gradients in `fields`.
  __device__ void vjp(const Fields<T>& fields, int l_max, int lane, T* dvec) const {
    lower<kMaxDegree>(fields, l_max, lane);
    T across[3] = {}, along = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      if (l_max >= 1) across[d] = T(kSqrt3) * fields.gradient(1 + d, lane);
      along += across[d] * direction[d];
    }
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      dvec[d] = (across[d] - along * direction[d]) * inverse_length +
                fields.gradient(fields.sh_dim, lane) * direction[d];
    }
  }
};

// Calls edge(k, place, neighbour, interval) for each edge k of up to 32, interval -1 beyond the cutoff, and
// after them, in all lanes that have one, last(place, edge, geometry).
template <typename T, int kC, class Edge, class Last>
__device__ void for_edges(const CudaCall<T>& call, const Walk<T, kC>& walk, const Fields<T>& fields,
                          const Edge& edge, const Last& last) {
  for (int start = walk.from; start < walk.to; start += kWarp) {
    const int count = min(kWarp, walk.to - start), mine = start + min(walk.lane, count - 1);
    const int my_edge = call.conv.edge[mine], my_neighbour = call.conv.neighbour[mine];
    Geometry<T> geometry;
    geometry.embed(call, walk.centre, my_neighbour, my_edge, fields, walk.lane);
    __syncwarp();
    for (int k = 0; k < count; ++k) {
      edge(k, start + k, __shfl_sync(kAll, my_neighbour, k), int(fields.interval(k)));
    }
    __syncwarp();
    if (walk.lane < count) last(mine, my_edge, geometry);
    __syncwarp();
  }
}

// Weights of an edge for coupling k and, for the derivative, their slopes: from one reading of the table.
template <typename T, int kC, class Sums>
__device__ void rebuild(const CudaCall<T>& call, const CudaUnit& unit, const Walk<T, kC>& walk, int k,
                        int interval, const Sums& add) {
  const T* const p = call.table + unit.path[k].table + int64_t(interval) * unit.mul;
#pragma unroll
  for (int c = 0; c < kC; ++c) {
#pragma unroll
    for (int j = 0; j < kSplineTerms; ++j) add(c, j, __ldg(p + j * unit.mul + walk.channel[c]));
  }
}

// Of a block with so many columns.
template <typename T>
int64_t shared_bytes(int family, int64_t sh_dim, int cotangents, int columns) {
  const int fields = Fields<T>::count(int(sh_dim), cotangents);
  const int rows = conv::of_family(
      family, [](auto its) { return decltype(its)::rows_before(decltype(its)::size); }, conv::Families{});
  return kAtBytes + int64_t(sizeof(T)) * (kBlockWarps * fields * kWarp + rows * kWarp * kC<T> * columns);
}

template <typename T, class KernelOf>
void launch_nodes(const char* name, const KernelOf& kernel_of, const CudaCall<T>& call, const CudaUnit& unit,
                  void* stream) {
  const int columns = call.block_nodes * std::max(call.cotangents, 1);
  launch(name, conv::of_family(unit.family, kernel_of, conv::Families{}),
         blocks_of(call.conv.pass_nodes, call.block_nodes), kBlockWarps * kWarp,
         size_t(shared_bytes<T>(unit.family, call.conv.sh_dim, call.cotangents, columns)), stream, call,
         unit);
}

}  // namespace
}  // namespace uqforce::tabulated
