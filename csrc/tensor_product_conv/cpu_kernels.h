// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include <cstdint>

#include "tensor_product_conv/coupling.h"

namespace uqforce::conv {

// Edges that are prepared and walked together; all of one centre.
inline constexpr int kChunk = 16;

// The part of a path that is walked in one go: a block of its channels. Paths of one input that are walked
// together are linked; what only the first of them tells is marked *.
struct Unit {
  int64_t in_offset, in_stride, out_offset, out_stride, weight_offset;  // of the block's first channel
  int64_t channels;
  int64_t matrix;       // where the path's coupling matrices start in Chunk::matrix
  int64_t sh_offset;    // l2 * l2
  int64_t ahead_lines;  // * cache lines to fetch ahead with every edge
  bool whole_lines;     // the block's weights are whole cache lines, given that rows of weights are
  bool first;           // * of its input: dx is written, else added to
  const Unit* next;     // the same channels of the next path, null after the last one
};

// Pointers [kChunk] are to the rows of each edge: of its neighbour in x, ddx; its own elsewhere. A result
// that is not wanted is null: all rows of dx, all rows of dw, dsh.
template <typename T>
struct Chunk {
  int64_t edges;
  bool first;   // of its centre: `out` is written, else added to
  bool stream;  // dw is written past the caches, where a unit has whole lines
  const T* x[kChunk];
  const T* weight[kChunk];
  const T* ddx[kChunk];
  const T* ddw[kChunk];
  T* dx[kChunk];  // columns that no path reads are left alone
  T* dw[kChunk];
  const T* grad;      // row of the centre
  T* out;             // row of the centre
  const T* matrix;    // of edge_sh; for each coupling [pairs, kChunk]
  const T* ddmatrix;  // the same of ddsh
  T* dsh;             // [kChunk, sh_dim, lanes], added to: the sum over lanes is left to the end
  int64_t sh_dim;
  // Rows of weight and ddw that come next. Their lines are fetched evenly while this chunk is computed, as
  // the processor's own guesses come too late for short runs in many rows.
  mutable const char *ahead, *ddahead;
  int64_t ahead_step, ddahead_step;  // 64, or 0 where the rows that come next are elsewhere
};

// Kernels of one coupling (l1, l2, l3), or of several, for as many linked units. Units have `block` channels,
// or at most `lanes`.
template <typename T>
struct CouplingKernels {
  using UnitKernel = void (*)(const Unit&, const Chunk<T>&);
  struct Op {
    int64_t block;
    UnitKernel whole, part;
  };
  int64_t pairs;  // structural non-zeros (m1, m3)
  // matrix[m1, m3] = sum_m2 C[m1, m2, m3] sh[m2] for kChunk edges: sh [2 l2 + 1, kChunk] -> [pairs, kChunk];
  // null for several couplings
  void (*matrix)(const T* sh, T* matrix);
  Op forward, backward, double_backward;
};

// Several couplings (l1, l2[k], l3[k]) of little arithmetic, together: they share the rows of x and dx.
template <typename T>
struct GroupKernels {
  static constexpr int kMost = 3;
  int64_t l1, size, l2[kMost], l3[kMost];
  CouplingKernels<T> kernels;
};

template <typename T>
struct Kernels {
  int64_t lanes;
  CouplingKernels<T> coupling[kMaxDegree + 1][kMaxDegree + 1][kMaxDegree + 1];
  GroupKernels<T> group[4];  // a group stands before its parts
  // dsh [columns] = sum over lanes of partial [columns, lanes]
  void (*sum_lanes)(const T* partial, int64_t columns, T* dsh);
  // total [columns] += row [columns]
  void (*add_row)(const T* row, int64_t columns, T* total);
  // After writing past the caches, before another thread reads.
  void (*fence)();
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::conv
