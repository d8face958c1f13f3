// What the CUDA kernels of the three ops share. A warp walks the edges of one centre for one unit, its lanes
// are channels; the centre's rows stay in registers. As on the CPU an edge's spherical harmonics and a
// coupling's constants become M[m1, m3] first, here pair by pair in registers (see cpu_body.h).
#pragma once

#include <limits>
#include <type_traits>
#include <utility>

#include "common/cuda.h"
#include "tensor_product_conv/coupling.h"
#include "tensor_product_conv/cuda.h"

namespace uqforce::conv {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kAhead = 4;  // edges whose weights are on their way to the second-level cache

// Brings the line of an address to the second-level cache.
__device__ inline void prefetch(const void* address) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// A coupling's terms in the order of their pairs (m1, m3), so that what belongs to m1 lives shortly.
template <typename T, int l1, int l2, int l3>
struct Terms {
  static constexpr auto& terms = Coupling<l1, l2, l3>::terms;
  static constexpr int size = sizeof(terms) / sizeof(CouplingTerm);
  struct Table {
    int m1[size], m2[size], m3[size];
    bool first[size], last[size];        // of its pair
    bool first_m1[size], last_m1[size];  // of its m1
    T value[size];
  };
  static constexpr Table make() {
    Table t{};
    for (int k = 0; k < size; ++k) {
      t.m1[k] = terms[k].m1;
      t.m2[k] = terms[k].m2;
      t.m3[k] = terms[k].m3;
      t.value[k] = static_cast<T>(terms[k].value);
      t.first_m1[k] = k == 0 || terms[k].m1 != terms[k - 1].m1;
      t.first[k] = t.first_m1[k] || terms[k].m3 != terms[k - 1].m3;
      if (k > 0) t.last[k - 1] = t.first[k], t.last_m1[k - 1] = t.first_m1[k];
    }
    t.last[size - 1] = t.last_m1[size - 1] = true;
    return t;
  }
};

// Coupling k of a family.
template <class F, int k_>
struct Slot {
  static constexpr int k = k_, l1 = F::l1, l2 = F::l2(k), l3 = F::l3(k), row = F::rows_before(k);
  static constexpr bool first_of_degree = k == 0 || F::l2(k == 0 ? 0 : k - 1) != l2;
  static constexpr bool last_of_degree = k + 1 == F::size || F::l2(k + 1 == F::size ? 0 : k + 1) != l2;
};

template <class F, class Use, int... k>
__device__ inline void each_slot(const Use& use, std::integer_sequence<int, k...>) {
  (use(Slot<F, k>{}), ...);
}
template <class F, class Use>
__device__ inline void each_slot(const Use& use) {
  each_slot<F>(use, std::make_integer_sequence<int, F::size>{});
}

// What a warp does of a launch.
template <typename T, int kC>
struct Walk {
  const CudaCall<T>& call;
  const CudaUnit& unit;
  int64_t centre;
  int lane, from, to;  // places of the edges
  bool continued;      // an earlier pass had edges of this centre
  T poison;            // 0, or not a number where edge_index names a node that is none
  int channel[kC];     // a lane without channels reads another's

  __device__ Walk(const CudaCall<T>& call, const CudaUnits& units)
      : Walk(call, units.unit[blockIdx.x % units.count],
             int64_t(blockIdx.x / units.count) * kWarps + threadIdx.x / kWarp) {}
  __device__ Walk(const CudaCall<T>& call, const CudaUnit& unit, int64_t centre)
      : call(call), unit(unit), centre(centre), lane(threadIdx.x % kWarp) {
    if (centre >= call.nodes) return;
    const int begin = call.begin[centre];
    from = max(begin, call.first);
    to = min(call.begin[centre + 1], call.last);
    continued = begin < call.first;
    poison = *call.bad ? std::numeric_limits<T>::quiet_NaN() : T(0);
#pragma unroll
    for (int c = 0; c < kC; ++c) channel[c] = min(lane + kWarp * c, unit.channels - 1);
  }

  // Whether there is something to do: the rows of a centre without edges are written in the first pass.
  __device__ bool idle() const {
    return centre >= call.nodes || (from >= to && (continued || call.first > 0));
  }
  __device__ bool own(int c) const { return lane + kWarp * c < unit.channels; }
  __device__ bool has(int k) const { return unit.path[k].weight_offset >= 0; }

  // use(place, edge, neighbour) for every edge. Fetches the rows of `weight` and, if any, `more` ahead.
  template <class Use>
  __device__ void edges(const T* weight, const T* more, const Use& use) const {
    constexpr int kLines = kWarp * kC * sizeof(T) / 128;  // of a path's weights; one lane for each
    const int path = lane / kLines < kMostCouplings ? lane / kLines : 0;
    const int within = lane % kLines * int(128 / sizeof(T));
    const bool fetches = lane < kLines * kMostCouplings && has(path) && within < unit.channels;
    const auto fetch = [&](int edge) {
      if (!fetches) return;
      const int64_t offset = edge * call.weight_numel + unit.path[path].weight_offset + within;
      prefetch(weight + offset);
      if (more) prefetch(more + offset);
    };
    for (int start = from; start < to; start += kWarp) {
      const int count = min(kWarp, to - start), mine = start + min(lane, count - 1);
      const int my_edge = call.edge[mine], my_neighbour = call.neighbour[mine];
      for (int k = 0; k < min(kAhead, count); ++k) fetch(__shfl_sync(kAll, my_edge, k));
      for (int k = 0; k < count; ++k) {
        if (k + kAhead < count) fetch(__shfl_sync(kAll, my_edge, k + kAhead));
        use(start + k, __shfl_sync(kAll, my_edge, k), __shfl_sync(kAll, my_neighbour, k));
      }
    }
  }

  // Rows of the unit's input, zero where the array is absent.
  template <int n>
  __device__ void load_input(const T* array, int64_t node, T (&rows)[n][kC]) const {
    const T* const p = array + node * call.dim_in + unit.in_offset;
#pragma unroll
    for (int m = 0; m < n; ++m) {
#pragma unroll
      for (int c = 0; c < kC; ++c) rows[m][c] = array ? __ldg(p + m * unit.in_stride + channel[c]) : T(0);
    }
  }
  // Weights of an edge, read once.
  __device__ void load_weight(const T* array, int edge, int k, T (&w)[kC]) const {
    const T* const p = array + edge * call.weight_numel + unit.path[k].weight_offset;
#pragma unroll
    for (int c = 0; c < kC; ++c) w[c] = array ? __ldcs(p + channel[c]) : T(0);
  }
  __device__ void store_weight(T* array, int edge, int k, const T (&w)[kC]) const {
    T* const p = array + edge * call.weight_numel + unit.path[k].weight_offset;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (own(c)) __stcs(p + channel[c], w[c]);
    }
  }
  // What this edge adds to dx.
  template <int n>
  __device__ void store_rows(int place, const T (&dx)[n][kC]) const {
    T* const p = call.rows + (place - call.first) * call.dim_in + unit.in_offset;
#pragma unroll
    for (int m = 0; m < n; ++m) {
#pragma unroll
      for (int c = 0; c < kC; ++c) {
        T* const at = p + m * unit.in_stride + channel[c];
        if (own(c)) *at = unit.first ? dx[m][c] : *at + dx[m][c];
      }
    }
  }

  // Rows of the centre's gradient, zero in lanes without channels: what they compute counts for nothing.
  template <class F>
  __device__ void load_grad(T (&g)[F::rows_before(F::size)][kC]) const {
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      if (!has(S::k)) return;
      const T* const p = call.grad + centre * call.dim_out + unit.path[S::k].out_offset;
#pragma unroll
      for (int m = 0; m <= 2 * S::l3; ++m) {
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          g[S::row + m][c] = own(c) ? p[m * unit.path[S::k].out_stride + channel[c]] + poison : T(0);
        }
      }
    });
  }
  // Sums over the centre's edges: begun, or those of the passes before.
  template <class F>
  __device__ void begin_out(T (&sum)[F::rows_before(F::size)][kC]) const {
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      if (!has(S::k)) return;
      const T* const p = call.out + centre * call.dim_out + unit.path[S::k].out_offset;
#pragma unroll
      for (int m = 0; m <= 2 * S::l3; ++m) {
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          sum[S::row + m][c] = continued ? p[m * unit.path[S::k].out_stride + channel[c]] : poison;
        }
      }
    });
  }
  template <class F>
  __device__ void store_out(const T (&sum)[F::rows_before(F::size)][kC]) const {
    each_slot<F>([&](auto slot) {
      using S = decltype(slot);
      if (!has(S::k)) return;
      T* const p = call.out + centre * call.dim_out + unit.path[S::k].out_offset;
#pragma unroll
      for (int m = 0; m <= 2 * S::l3; ++m) {
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          if (own(c)) p[m * unit.path[S::k].out_stride + channel[c]] = sum[S::row + m][c];
        }
      }
    });
  }
};

// Sums of n values each over the lanes: halved from step to step, so that a lane ends with one of them.
// Returns it, and which one; n where it is none.
template <int n, int step = kWarp / 2, typename T>
__device__ T lane_sums(const T (&v)[n], int lane, int& which) {
  constexpr int half = (n + 1) / 2;
  const bool upper = lane & step;
  T kept[half];
#pragma unroll
  for (int k = 0; k < half; ++k) {
    const T low = v[k], high = k + half < n ? v[k + half < n ? k + half : 0] : T(0);
    kept[k] = (upper ? high : low) + __shfl_xor_sync(kAll, upper ? low : high, step);
  }
  T sum;
  int inner = 0;
  if constexpr (step > 1) {
    sum = lane_sums<half, step / 2>(kept, lane, inner);
  } else {
    sum = kept[0];
  }
  which = upper ? (inner < half ? inner + half : n) : (inner < half ? inner : n);
  if (which > n) which = n;
  return sum;
}

// An edge's gradient of its spherical harmonics of degree l2, added up over the lanes.
template <int l2, typename T, int kC>
__device__ void store_partial(const Walk<T, kC>& walk, int place, const T (&dsh)[2 * l2 + 1]) {
  const CudaCall<T>& call = walk.call;
  int which = 0;
  const T sum = lane_sums(dsh, walk.lane, which);
  const int64_t row = int64_t(walk.unit.index) * (call.last - call.first) + (place - call.first);
  if (which <= 2 * l2) call.partial[row * call.sh_dim + l2 * l2 + which] = sum;
}

template <typename T, class Kernel>
void launch_units(const char* name, Kernel kernel, const CudaCall<T>& call, const CudaUnits& units,
                  void* stream) {
  launch(name, kernel, (call.nodes + kWarps - 1) / kWarps * units.count, kWarps * kWarp, 0, stream, call,
         units);
}

}  // namespace
}  // namespace uqforce::conv
