// What the instruction-set specific files offer beside the kernels of the convolution itself: see
// tensor_product_conv/cpu_kernels.h, whose rules and chunks of kChunk edges hold here too.
#pragma once

#include <cstdint>

#include "tensor_product_conv/cpu_kernels.h"

namespace uqforce::tabulated {

using conv::kChunk;

inline constexpr int kSplineTerms = 6;  // of a quintic B-spline

// Edges of a chunk, one column each. Columns without an edge hold any direction and no weights.
template <typename T>
struct Edges {
  // Given.
  T vec[3][kChunk];
  T inverse_cutoff[kChunk];
  // From `embed`.
  T direction[3][kChunk], inverse_length[kChunk];
  T sh[(kMaxDegree + 1) * (kMaxDegree + 1)][kChunk];
  // A weight is sum_k value[k] row[interval + k] of the table, its derivative by the length the same with
  // slope.
  int32_t interval[kChunk];
  T value[kSplineTerms][kChunk], slope[kSplineTerms][kChunk];
};

// Some columns of a table [.., stride] of spline coefficients, or of the weights made of them.
template <typename T>
struct Columns {
  const T* table;
  int64_t stride, channels;
};

template <typename T>
struct Kernels {
  int64_t lanes;
  // By the highest degree of the spherical harmonics. Spline with `intervals` intervals.
  void (*embed[kMaxDegree + 1])(Edges<T>&, int64_t intervals);
  // Gradients [sh_dim + 1, kChunk] of the spherical harmonics and of the length -> of vec, [3, kChunk].
  void (*embed_vjp[kMaxDegree + 1])(const Edges<T>&, const T* gradient, T* dvec);
  // Weights, and with the second also their slopes, [edges, 2 lanes]; channels <= 2 lanes.
  void (*weights)(const Edges<T>&, int64_t edges, const Columns<T>&, T* weight);
  void (*weights_and_slopes)(const Edges<T>&, int64_t edges, const Columns<T>&, T* weight, T* slope);
  // sum [edges, lanes] with rows `sum_stride` apart += dw * slope, each [edges, 2 lanes].
  void (*add_slope)(const T* dw, const T* slope, int64_t edges, int64_t channels, T* sum, int64_t sum_stride);
  // partial [kChunk, columns, lanes] -> sums over the lanes [columns, kChunk]
  void (*sum_lanes)(const T* partial, int64_t columns, T* sum);
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::tabulated
