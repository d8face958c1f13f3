// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include <cstdint>

namespace uqforce::radial {

// Nodes between which a value is interpolated.
inline constexpr int kWidth = 8;

// Edges whose values lie between the same nodes.
template <typename T>
struct Group {
  int64_t edges;
  const int64_t* edge;    // [edges]
  const T* coefficients;  // [edges, kWidth]
};

// Kernels on columns 0 .. columns-1 of arrays whose rows are `stride` apart; `table` begins at the first
// node.
template <typename T>
struct Kernels {
  int64_t lanes;
  // The Lagrange polynomials of the nodes 0 .. kWidth-1 at tau [edges], or their derivatives, times scale
  // [edges] -> [edges, kWidth]. `edges` is a multiple of `lanes`.
  void (*coefficients)(const T* tau, const T* scale, int64_t edges, bool derivative, T* coefficients);
  // rows[edge] = (or += if `add`) sum_k coefficient_k table[k]
  void (*expand)(const Group<T>&, const T* table, int64_t stride, int64_t columns, bool add, T* rows);
  // dot[edge] += rows[edge] . sum_k coefficient_k table[k]
  void (*dot)(const Group<T>&, const T* table, int64_t stride, int64_t columns, const T* rows, T* dot);
  // table[k] += sum_edges coefficient_k rows[edge]
  void (*reduce)(const Group<T>&, const T* rows, int64_t stride, int64_t columns, T* table);
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::radial
