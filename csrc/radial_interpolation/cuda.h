// Launchers of cuda.cu, called by cuda_op.cpp; pointers to device memory, row-major and contiguous.
#pragma once

#include <cstdint>

#include "radial_interpolation/cpu_kernels.h"

namespace uqforce::radial {

// Edges in the order of the first of the nodes between which they lie.
template <typename T>
struct Places {
  int64_t edges, rows, columns;  // rows of the table
  uint32_t* edge;                // [edges]
  uint32_t* node;                // [edges], of each its first node
  int64_t* start;                // [rows - kWidth + 2], the first place of each node
  T *value, *slope;              // [edges, kWidth]: the polynomials, and their derivatives by x
  T* parts;                      // workspace of reduce(), if it is wanted
};

template <typename T>
int64_t places_bytes(int64_t edges, int64_t rows, int64_t columns, bool reduces);

// With room for reduce() if it `reduces`. An x below 0, an error on the CPU, gives NaN.
template <typename T>
Places<T> find_places(void* memory, const T* x, int64_t edges, int64_t rows, int64_t columns, bool reduces,
                      void* stream);

// A table [rows, columns], and what multiplies it for each edge: null is 1. No table is absent.
template <typename T>
struct Term {
  const T *table, *factor;
};

// out[e] = sum over the terms of factor_e sum_k value_k table[k]
template <typename T>
void expand(const Places<T>& places, Term<T> first, Term<T> second, T* out, void* stream);
// out[e] = sum over the terms of factor_e rows[e] . sum_k coefficient_k table[k], values or slopes
template <typename T>
void dot(const Places<T>& places, Term<T> first, Term<T> second, bool slopes, const T* rows, T* out,
         void* stream);
// out[k] = sum_e factor_e value_k rows[e]
template <typename T>
void reduce(const Places<T>& places, const T* factor, const T* rows, T* out, void* stream);

}  // namespace uqforce::radial
