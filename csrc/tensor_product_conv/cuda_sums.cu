// Sums of what edges and units leave behind: one thread for each number, in a fixed order.
#include "common/cuda.h"
#include "tensor_product_conv/cuda.h"

namespace uqforce::conv {
namespace {

// The first of the ascending places order[begin], .., order[end - 1] that is not below `place`.
__device__ int first_from(const int* order, int begin, int end, int place) {
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    order[middle] < place ? begin = middle + 1 : end = middle;
  }
  return begin;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) rows_kernel(CudaCall<T> call, Groups by_neighbour, T* dx) {
  const int64_t k = global_thread();
  if (k >= call.nodes * call.dim_in) return;
  const int64_t node = k / call.dim_in;
  const T* const column = call.rows + k % call.dim_in;
  const int begin = by_neighbour.begin[node], end = by_neighbour.begin[node + 1];
  const int first = first_from(by_neighbour.order, begin, end, call.first),
            last = first_from(by_neighbour.order, first, end, call.last);
  if (call.first > 0 && first == last) return;
  T sum = call.first > 0 ? dx[k] : T(0);
#pragma unroll 4
  for (int at = first; at < last; ++at) {
    sum += __ldcs(column + (by_neighbour.order[at] - call.first) * call.dim_in);
  }
  dx[k] = sum;
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
void add_rows(const CudaCall<T>& call, const Groups& by_neighbour, T* dx, void* stream) {
  launch("add_rows", rows_kernel<T>, blocks_of(call.nodes * call.dim_in), kThreads, 0, stream, call,
         by_neighbour, dx);
}

template <typename T>
void add_partial(const CudaCall<T>& call, const CudaDegrees& degrees, T* dsh, void* stream) {
  launch("add_partial", partial_kernel<T>, blocks_of((call.last - call.first) * call.sh_dim), kThreads, 0,
         stream, call, degrees, dsh);
}

template void add_rows(const CudaCall<float>&, const Groups&, float*, void*);
template void add_rows(const CudaCall<double>&, const Groups&, double*, void*);
template void add_partial(const CudaCall<float>&, const CudaDegrees&, float*, void*);
template void add_partial(const CudaCall<double>&, const CudaDegrees&, double*, void*);

}  // namespace uqforce::conv
