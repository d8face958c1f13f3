// Sums of what edges and units leave behind: one thread for each number, in a fixed order.
#include "common/cuda.h"
#include "tensor_product_conv/cuda.h"

namespace uqforce::conv {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads) rows_kernel(CudaCall<T> call, Groups by_neighbour, T* dx) {
  const int64_t k = global_thread();
  if (k >= call.nodes * call.dim_in) return;
  const int64_t node = k / call.dim_in;
  const T* const column = call.rows + k % call.dim_in;
  const int end = by_neighbour.begin[node + 1];
  int at = by_neighbour.begin[node], high = end;
  while (at < high) {  // the first place of this pass
    const int middle = at + (high - at) / 2;
    by_neighbour.order[middle] < call.first ? at = middle + 1 : high = middle;
  }
  T sum = call.first > 0 ? dx[k] : T(0);
  for (; at < end; ++at) {
    const int place = by_neighbour.order[at];
    if (place >= call.last) break;
    sum += column[(place - call.first) * call.dim_in];
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
