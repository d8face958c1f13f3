// Launchers of cuda.cu, called by cuda_op.cpp; pointers to device memory, rows contiguous.
#pragma once

#include <cstddef>
#include <cstdint>

namespace uqforce::linear_map {

// Where the rows of one type stand: those of type t are atoms order[begin[t]], ..., order[begin[t + 1] - 1].
struct CudaTypes {
  int count;
  const int64_t* sorted;  // [atoms] types in ascending order, null for one type
  const int64_t* order;   // [atoms], null for one type
  int64_t* begin;         // [count + 1], filled by find_types
};

// A block of columns, see op.h: a map from `from` columns with offset `from_offset` to `to` columns.
struct CudaBlock {
  int components, from, to, from_offset, to_offset, weight_offset;
  double scale;
  int64_t first_tile;  // of this block, in the launch
};

struct CudaBlocks {
  static constexpr int kMost = 64;
  int count;
  CudaBlock block[kMost];
};

template <typename T>
struct CudaMap {
  int64_t atoms, dim_from, dim_to, weight_numel;
  CudaTypes types;
  const T* x;  // [atoms, dim_from]
  T* out;      // [atoms, dim_to]
};

// Fills begin. A type that is none makes every result not a number.
void find_types(int64_t atoms, const CudaTypes& types, void* stream);

// out = x W; `transposed`: the matrices of `weight` [types, weight_numel] stand there as [to, from].
template <typename T>
void map_rows(const CudaMap<T>& map, CudaBlocks blocks, const T* weight, bool transposed, void* stream);

// Numbers of the workspace of weight_gradient.
int64_t partial_size(int64_t atoms, int types, const CudaBlocks& blocks);

// dweight [types, weight_numel] = sum over the atoms of x (out), where map.out holds the gradient.
template <typename T>
void weight_gradient(const CudaMap<T>& map, CudaBlocks blocks, T* partial, T* dweight, void* stream);

}  // namespace uqforce::linear_map
