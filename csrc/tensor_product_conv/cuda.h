// Launchers of cuda_*.cu, called by cuda_op.cpp; pointers to device memory, rows contiguous.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/cuda_groups.h"
#include "tensor_product_conv/cuda_families.h"

namespace uqforce::conv {

// The paths of one input that a warp walks together, for one block of their channels.
struct CudaUnit {
  struct Path {
    int out_offset, out_stride, weight_offset;  // of the block's first channel; -1: the path is absent
  };
  int in_offset, in_stride, channels;
  int index;          // among all units
  unsigned degrees;   // bit l2 where there is a path of that degree
  bool first;         // of its input: rows are written, else added to
  uint8_t alignment;  // 4, 2 or 1: a number that divides the size of a row of weights, and what a path has
                      // of it, and where
  Path path[kMostCouplings];
};

// Units of one family, of inputs that do not overlap. An argument of kernels: at most 4 KB with the call.
struct CudaUnits {
  static constexpr int kMost = 32;
  int family, count;
  CudaUnit unit[kMost];
};

// Arrays are null where absent (inputs, meaning zero) or not wanted (results). A pass does the edges at
// places `first` to `last` of the lists.
template <typename T>
struct CudaCall {
  int64_t dim_in, dim_out, sh_dim, weight_numel, nodes;
  int64_t pass_nodes;                         // about as many as a pass has: what is launched for it
  const int *begin, *edge, *neighbour, *bad;  // EdgeLists
  const int64_t* centre;                      // [edges], as given
  int first, last, edges;
  const T *x, *sh, *weight, *grad, *ddx, *ddsh, *ddw;
  T *out, *dw;
  T* rows;     // [last - first, dim_in]: what each edge adds to dx
  T* partial;  // [units, last - first, sh_dim]: what each unit adds to dsh
};

// Channels of a unit: 32 lanes with as many each as leave registers for the rest.
template <typename T>
inline constexpr int kForwardChannels = sizeof(T) == 4 ? 64 : 32;
template <typename T>
inline constexpr int kBackwardChannels = sizeof(T) == 4 ? 64 : 32;
template <typename T>
inline constexpr int kDoubleBackwardChannels = sizeof(T) == 4 ? 64 : 32;

template <typename T>
void forward(const CudaCall<T>& call, const CudaUnits& units, void* stream);
template <typename T>
void backward(const CudaCall<T>& call, const CudaUnits& units, void* stream);
template <typename T>
void double_backward(const CudaCall<T>& call, const CudaUnits& units, void* stream);

// dx [cotangents, nodes, dim_in] = (or += after the first pass) the rows that lead to each node, in their
// order. The rows of a cotangent stand `rows_stride` numbers behind those of the one before.
template <typename T>
void add_rows(const CudaCall<T>& call, const Groups& by_neighbour, int cotangents, int64_t rows_stride, T* dx,
              void* stream);

// The degrees l2 of each unit, as bits.
struct CudaDegrees {
  static constexpr int kMost = 2048;
  int count;
  uint8_t of[kMost];
};
// dsh [edges, sh_dim] = sum of the units' partial sums.
template <typename T>
void add_partial(const CudaCall<T>& call, const CudaDegrees& degrees, T* dsh, void* stream);

// Bytes that the driver has left on the current device.
int64_t free_memory();

}  // namespace uqforce::conv
