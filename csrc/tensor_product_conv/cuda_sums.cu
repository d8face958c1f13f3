// Sums of what edges and units leave behind, each number by one thread, in a fixed order.
#include <limits>

#include "common/cuda.h"
#include "tensor_product_conv/cuda.h"

namespace uqforce::conv {
namespace {

constexpr int kAhead = 8;  // rows that are on their way at a time

// A warp for each node: it looks once which of the node's rows this pass has, then lanes are columns.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(CudaCall<T> call, Groups by_neighbour, int cotangents, int64_t rows_stride, T* dx) {
  const int64_t node = global_thread() / kWarp;
  const int lane = threadIdx.x % kWarp, dim_in = int(call.dim_in);
  if (node >= call.nodes) return;
  if (*call.bad) {  // the lists are in no order then
    for (int64_t row = node; row < cotangents * call.nodes; row += call.nodes) {
      for (int column = lane; column < dim_in; column += kWarp) {
        dx[row * dim_in + column] = std::numeric_limits<T>::quiet_NaN();
      }
    }
    return;
  }
  const int begin = by_neighbour.begin[node], end = by_neighbour.begin[node + 1];
  int first = begin, last = begin;  // places ascend: those of the pass stand side by side
  for (int at = begin + lane; at - lane < end; at += kWarp) {
    const int place = at < end ? by_neighbour.order[at] : call.last;
    first += __popc(__ballot_sync(kAll, place < call.first));
    last += __popc(__ballot_sync(kAll, place < call.last));
  }
  if (call.first > 0 && first == last) return;
  for (int k = 0; k < cotangents; ++k) {
    T* const sums = dx + (k * call.nodes + node) * dim_in;
    const T* const rows = call.rows + k * rows_stride;
    for (int column = lane; column < dim_in; column += kWarp) {
      T sum = call.first > 0 ? sums[column] : T(0);
      for (int start = first; start < last; start += kAhead) {
        T row[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (start + i >= last) continue;
          const int64_t place = by_neighbour.order[start + i] - call.first;
          row[i] = __ldcs(rows + place * dim_in + column);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (start + i < last) sum += row[i];
        }
      }
      sums[column] = sum;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    partial_kernel(CudaCall<T> call, const __grid_constant__ CudaDegrees degrees, T* dsh) {
  // A pass has far fewer than 2^31 numbers.
  const int sh_dim = int(call.sh_dim), size = (call.last - call.first) * sh_dim;
  const int k = blockIdx.x * kThreads + threadIdx.x, place = k / sh_dim, column = k % sh_dim;
  if (k >= size) return;
  int degree = 0;
  while ((degree + 1) * (degree + 1) <= column) ++degree;
  T sum = 0;
  for (int unit = 0; unit < degrees.count; ++unit) {
    if (degrees.of[unit] >> degree & 1) sum += call.partial[int64_t(unit) * size + k];
  }
  dsh[int64_t(call.edge[call.first + place]) * sh_dim + column] = sum;
}

}  // namespace

template <typename T>
void add_rows(const CudaCall<T>& call, const Groups& by_neighbour, int cotangents, int64_t rows_stride, T* dx,
              void* stream) {
  launch("add_rows", rows_kernel<T>, blocks_of(call.nodes, kThreads / kWarp), kThreads, 0, stream, call,
         by_neighbour, cotangents, rows_stride, dx);
}

template <typename T>
void add_partial(const CudaCall<T>& call, const CudaDegrees& degrees, T* dsh, void* stream) {
  launch("add_partial", partial_kernel<T>, blocks_of((call.last - call.first) * call.sh_dim), kThreads, 0,
         stream, call, degrees, dsh);
}

int64_t free_memory() {
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "free memory");
  return int64_t(free);
}

template void add_rows(const CudaCall<float>&, const Groups&, int, int64_t, float*, void*);
template void add_rows(const CudaCall<double>&, const Groups&, int, int64_t, double*, void*);
template void add_partial(const CudaCall<float>&, const CudaDegrees&, float*, void*);
template void add_partial(const CudaCall<double>&, const CudaDegrees&, double*, void*);

}  // namespace uqforce::conv
