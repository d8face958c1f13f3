// Launchers of cuda_*.cu, called by cuda_op.cpp; pointers to device memory, rows contiguous.
#pragma once

#include "tensor_product_conv/cuda.h"

namespace uqforce::tabulated {

// A unit of the convolution, and where its paths find their columns of the table and of the linear map.
struct CudaUnit {
  struct Path {
    int64_t table;        // of the block's first channel, in row 0 of the path's coefficients
    int weight, out;      // of the linear map: of the block's first channel; of the columns it leads to
    int mul_in, mul_out;  // of the linear map; 0: the path leads nowhere
  };
  int family, mul;  // of the paths
  conv::CudaUnit conv;
  Path path[conv::kMostCouplings];
};

template <typename T>
struct CudaCall {
  conv::CudaCall<T> conv;  // x, the edges, dimensions, rows of dx; partial [units, last - first, 3] of dvec
  const T *edge_vec, *cutoffs, *table;
  const int64_t* types;
  int num_types, l_max, intervals;
  const T* linear;  // for the derivative transposed
  int64_t dim_out;
  T* out;  // [nodes, dim_out], added to
  // Of the derivative: cotangents [cotangents, nodes, dim_out]; conv.rows and conv.partial are those of the
  // first, and so many numbers further on those of the next.
  int cotangents, block_nodes;  // of a block of threads
  const T* cotangent;
  int64_t rows_stride, partial_stride;
};

// Cotangents that one launch of vjp() takes at most: their gradients stand in shared memory.
template <typename T>
int most_cotangents(int64_t sh_dim);

template <typename T>
void value(CudaCall<T> call, const CudaUnit& unit, void* stream);
template <typename T>
void vjp(CudaCall<T> call, const CudaUnit& unit, void* stream);

}  // namespace uqforce::tabulated
