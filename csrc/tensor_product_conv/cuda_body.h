// What the CUDA kernels of the three ops share. A warp walks the edges of one centre for one unit, its lanes
// are channels; the centre's rows stay in registers. As on the CPU an edge's spherical harmonics and a
// coupling's constants become M[m1, m3] first, here pair by pair in registers (see cpu_body.h).
#pragma once

#include <cuda_pipeline.h>

#include <limits>
#include <type_traits>
#include <utility>

#include "common/cuda.h"
#include "tensor_product_conv/coupling.h"
#include "tensor_product_conv/cuda.h"

namespace uqforce::conv {
namespace {

constexpr int kWarps = 4;   // of a block
constexpr int kStages = 4;  // edges whose weights are in shared memory or on their way there

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
  static constexpr int column = F::columns_before(k);
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

// what(F{}) of one family.
template <class What, class... F>
auto of_family(int family, const What& what, FamilyList<F...>) {
  const std::common_type_t<decltype(what(F{}))...> all[] = {what(F{})...};
  return all[family];
}

// Copies the weights of edges to shared memory ahead of their use: 16 bytes at a time where every row begins
// at a multiple of them, else number by number.
template <typename T, int kC, class F>
class Stages {
  static constexpr int kWidth = kWarp * kC, kSize = F::size * kWidth;  // of one path, of one array
  static constexpr int kPiece = 16 / sizeof(T), kRounds = (kSize / kPiece + kWarp - 1) / kWarp;

 public:
  // Numbers of shared memory that a warp needs for `arrays` of weights.
  static constexpr int size(int arrays) { return kStages * arrays * kSize; }

  // The second array may be absent.
  __device__ Stages(T* memory, const CudaUnit& unit, int64_t weight_numel, const T* first, const T* second)
      : memory_(memory), unit_(unit), weight_numel_(weight_numel), arrays_{first, second} {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second);
    wide_ = unit.alignment % kPiece == 0 && addresses % 16 == 0;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int at = (round * kWarp + lane) * kPiece, k = at / kWidth, within = at % kWidth;
      const bool mine = k < F::size && within < unit.channels && unit.path[k].weight_offset >= 0;
      offset_[round] = mine ? unit.path[k].weight_offset + within : -1;
    }
  }

  // Row `edge` of both arrays to stage `place % kStages`; commits in any case.
  __device__ void copy(int place, bool there, int edge) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      if (!there || !arrays_[a]) continue;
      const T* const from = arrays_[a] + edge * weight_numel_;
      T* const to = memory_ + (place % kStages * (arrays_[1] ? 2 : 1) + a) * kSize;
      if (wide_) {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          if (offset_[round] < 0) continue;
          __pipeline_memcpy_async(to + lane * kPiece + round * kWarp * kPiece, from + offset_[round], 16);
        }
      } else {
        for (int k = 0; k < F::size; ++k) {
          if (unit_.path[k].weight_offset < 0) continue;
          for (int u = lane; u < unit_.channels; u += kWarp) {
            __pipeline_memcpy_async(to + k * kWidth + u, from + unit_.path[k].weight_offset + u, sizeof(T));
          }
        }
      }
    }
    __pipeline_commit();
  }

  // Where a row was copied to, [coupling, channel].
  __device__ const T* row(int place, int a) const {
    return memory_ + (place % kStages * (arrays_[1] ? 2 : 1) + a) * kSize;
  }

 private:
  T* memory_;
  const CudaUnit& unit_;
  int64_t weight_numel_;
  const T* arrays_[2];
  int offset_[kRounds];  // of the pieces that are this lane's, in a row of weights; -1: none
  bool wide_;
};

// The centres that a pass has edges of, and what stands between them: from `begin` to before `end`.
struct Centres {
  int begin, end;

  template <typename T>
  __device__ explicit Centres(const CudaCall<T>& call)
      : begin(call.first == 0 ? 0 : of(call, call.first)),
        end(call.last == call.edges ? int(call.nodes) : of(call, call.last) + 1) {}

  // The centre of the edge at a place; where none is named, as in the lists.
  template <typename T>
  __device__ static int of(const CudaCall<T>& call, int place) {
    const int64_t centre = call.centre[call.edge[place]];
    return centre >= 0 && centre < call.nodes ? int(centre) : 0;
  }
};

// What a warp does of a launch.
template <typename T, int kC>
struct Walk {
  const CudaCall<T>& call;
  const CudaUnit& unit;
  int64_t centre;
  int lane, from, to;  // places of the edges
  bool continued;      // an earlier pass had edges of this centre
  bool bare;           // a centre without edges, and this pass is to write its rows
  T poison;            // 0, or not a number where edge_index names a node that is none
  int channel[kC];     // a lane without channels reads another's

  __device__ Walk(const CudaCall<T>& call, const CudaUnits& units)
      : Walk(call, units.unit[blockIdx.x % units.count],
             int64_t(blockIdx.x / units.count) * kWarps + threadIdx.x / kWarp) {}
  __device__ Walk(const CudaCall<T>& call, const CudaUnit& unit, int64_t centre)
      : call(call), unit(unit), centre(centre), lane(threadIdx.x % kWarp) {
    if (centre >= call.nodes) return;
    const int begin = call.begin[centre], end = call.begin[centre + 1];
    from = max(begin, call.first);
    to = min(end, call.last);
    continued = begin < call.first;
    bare = begin == end && begin <= call.last && (begin > call.first || call.first == 0);
    poison = *call.bad ? std::numeric_limits<T>::quiet_NaN() : T(0);
#pragma unroll
    for (int c = 0; c < kC; ++c) channel[c] = min(lane + kWarp * c, unit.channels - 1);
  }

  // Keeps one of `parts` parts of the centre's edges.
  __device__ void share(int part, int parts) {
    const int64_t count = max(to - from, 0);
    to = from + int(count * (part + 1) / parts);
    from += int(count * part / parts);
  }
  // Whether this pass has nothing of the centre.
  __device__ bool idle() const { return centre >= call.nodes || (from >= to && !bare); }
  __device__ bool own(int c) const { return lane + kWarp * c < unit.channels; }
  __device__ bool has(int k) const { return unit.path[k].weight_offset >= 0; }

  // use(place, edge, neighbour, stages) for every edge, whose rows of `weight` and, if any, `more` are
  // staged.
  template <class F, class Use>
  __device__ void edges(const T* weight, const T* more, const Use& use) const {
    using Staged = Stages<T, kC, F>;
    T* const memory = shared_memory<T>() + threadIdx.x / kWarp * Staged::size(more ? 2 : 1);
    const Staged stages(memory, unit, call.weight_numel, weight, more);
    for (int start = from; start < to; start += kWarp) {
      const int count = min(kWarp, to - start), mine = start + min(lane, count - 1);
      const int my_edge = call.edge[mine], my_neighbour = call.neighbour[mine];
      __syncwarp();  // the edges before have been read
      for (int k = 0; k < kStages - 1; ++k) stages.copy(k, k < count, __shfl_sync(kAll, my_edge, k));
      for (int k = 0; k < count; ++k) {
        __syncwarp();  // nobody reads the stage that is filled next
        const int next = k + kStages - 1;
        stages.copy(next, next < count, __shfl_sync(kAll, my_edge, min(next, kWarp - 1)));
        __pipeline_wait_prior(kStages - 1);
        __syncwarp();
        use(start + k, __shfl_sync(kAll, my_edge, k), __shfl_sync(kAll, my_neighbour, k), stages.row(k, 0),
            stages.row(k, 1));
      }
    }
  }

  // Rows of the unit's input.
  template <int n>
  __device__ void load_input(const T* array, int64_t node, T (&rows)[n][kC]) const {
    const T* const p = array + node * call.dim_in + unit.in_offset;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      const T* const column = p + channel[c];
#pragma unroll
      for (int m = 0; m < n; ++m) rows[m][c] = __ldg(column + m * unit.in_stride);
    }
  }
  // A coupling's part of a staged row.
  __device__ void read_weight(const T* row, int k, T (&w)[kC]) const {
#pragma unroll
    for (int c = 0; c < kC; ++c) w[c] = (row + channel[c])[k * kWarp * kC];
  }
  __device__ void store_weight(T* array, int edge, int k, const T (&w)[kC]) const {
    T* const p = array + edge * call.weight_numel + unit.path[k].weight_offset;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (own(c)) __stcs(p + channel[c], w[c]);
    }
  }
  // What this edge adds to dx, in `rows` [edges of the pass, dim_in].
  template <int n>
  __device__ void store_rows(T* rows, int place, const T (&dx)[n][kC]) const {
    T* const p = rows + (place - call.first) * call.dim_in + unit.in_offset;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (!own(c)) continue;
      T* const column = p + channel[c];
#pragma unroll
      for (int m = 0; m < n; ++m) {
        T* const at = column + m * unit.in_stride;
        *at = unit.first ? dx[m][c] : *at + dx[m][c];
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

// Calls use(walk) for each centre of the pass that is the warp's. The host launches about as many warps as
// the pass has centres; where it has more, they go on.
template <typename T, int kC, class Use>
__device__ void each_walk(const CudaCall<T>& call, const CudaUnits& units, const Use& use) {
  const CudaUnit& unit = units.unit[blockIdx.x % units.count];
  const Centres centres(call);
  int centre = centres.begin + int(blockIdx.x / units.count) * kWarps + int(threadIdx.x / kWarp);
  for (; centre < centres.end; centre += int(gridDim.x / units.count) * kWarps) {
    const Walk<T, kC> walk(call, unit, centre);
    if (!walk.idle()) use(walk);
  }
}

// One edge through one coupling: sum[m3] += sum_m1 M[m1, m3] (w x[m1]).
template <class S, typename T, int kC>
__device__ void couple(const T (&Y)[2 * S::l2 + 1], const T (&w)[kC], const T (&x)[2 * S::l1 + 1][kC],
                       T (*sum)[kC]) {
  using Table = Terms<T, S::l1, S::l2, S::l3>;
  static constexpr auto t = Table::make();
  T xw[kC], m = 0;
#pragma unroll
  for (int i = 0; i < Table::size; ++i) {
    m = t.first[i] ? t.value[i] * Y[t.m2[i]] : m + t.value[i] * Y[t.m2[i]];
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (t.first_m1[i]) xw[c] = x[t.m1[i]][c] * w[c];
      if (t.last[i]) sum[t.m3[i]][c] += xw[c] * m;
    }
  }
}

// Its first derivatives: with y[m1] = sum_m3 M[m1, m3] g[m3]
//   dx[m1] += w y[m1]    dw = sum_m1 x[m1] y[m1]    dM[m1, m3] = sum_channels (w x[m1]) g[m3]
template <class S, typename T, int kC>
__device__ void adjoin(const T (&Y)[2 * S::l2 + 1], const T (&w)[kC], const T (&x)[2 * S::l1 + 1][kC],
                       const T (*g)[kC], T (&dx)[2 * S::l1 + 1][kC], T (&dw)[kC], T (&dsh)[2 * S::l2 + 1]) {
  using Table = Terms<T, S::l1, S::l2, S::l3>;
  static constexpr auto t = Table::make();
  T xw[kC], y[kC], m = 0, dm = 0;
#pragma unroll
  for (int c = 0; c < kC; ++c) dw[c] = 0;
#pragma unroll
  for (int i = 0; i < Table::size; ++i) {
    const int m1 = t.m1[i], m3 = t.m3[i];
    m = t.first[i] ? t.value[i] * Y[t.m2[i]] : m + t.value[i] * Y[t.m2[i]];
    if (t.first[i]) dm = 0;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (t.first_m1[i]) xw[c] = x[m1][c] * w[c], y[c] = 0;
      if (t.first[i]) dm += xw[c] * g[m3][c];
      if (t.last[i]) y[c] += m * g[m3][c];
      if (t.last_m1[i]) dx[m1][c] += w[c] * y[c], dw[c] += x[m1][c] * y[c];
    }
    dsh[t.m2[i]] += t.value[i] * dm;
  }
}

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

// An edge's gradient of its spherical harmonics from degree l2 on, added up over the lanes.
template <int l2, typename T, int kC, int n>
__device__ void store_partial(const Walk<T, kC>& walk, int place, const T (&dsh)[n]) {
  const CudaCall<T>& call = walk.call;
  int which = 0;
  const T sum = lane_sums(dsh, walk.lane, which);
  const int64_t row = int64_t(walk.unit.index) * (call.last - call.first) + (place - call.first);
  const int column = l2 * l2 + which;
  if (which < n && column < call.sh_dim) call.partial[row * call.sh_dim + column] = sum;
}

// Launches kernel_of(F{}) of the units' family, with room for `arrays` of weights.
template <typename T, int kC, class KernelOf>
void launch_units(const char* name, const KernelOf& kernel_of, int arrays, const CudaCall<T>& call,
                  const CudaUnits& units, void* stream) {
  const int numbers = of_family(
      units.family, [=](auto family) { return Stages<T, kC, decltype(family)>::size(arrays); }, Families{});
  launch(name, of_family(units.family, kernel_of, Families{}),
         blocks_of(call.pass_nodes, kWarps) * units.count, kWarps * kWarp, kWarps * numbers * sizeof(T),
         stream, call, units);
}

}  // namespace
}  // namespace uqforce::conv
