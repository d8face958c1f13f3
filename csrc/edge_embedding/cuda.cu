// CUDA kernels of the embedding of edges: a thread for each edge. Rows of more than one number pass through
// shared memory, so that neighbouring threads read and write neighbouring numbers.
#include <cmath>

#include "common/cuda.h"
#include "edge_embedding/body.h"
#include "edge_embedding/cuda.h"

namespace uqforce::embedding {
namespace {

constexpr int kEdges = 128;  // of a block

// Rows of `columns` numbers of a block's edges; the odd distance between them spares bank conflicts.
template <typename T, int columns>
struct Tile {
  static constexpr int stride = columns | 1, size = kEdges * stride;
  T* const values;
  const int64_t first;
  const int count;

  // Zeros where there are no rows.
  __device__ void load(const T* rows) const {
    for (int k = threadIdx.x; k < columns * count; k += kEdges) {
      values[k / columns * stride + k % columns] = rows == nullptr ? T(0) : rows[first * columns + k];
    }
  }
  __device__ void store(T* rows) const {
    for (int k = threadIdx.x; k < columns * count; k += kEdges) {
      rows[first * columns + k] = values[k / columns * stride + k % columns];
    }
  }
  __device__ T* row() const { return values + threadIdx.x * stride; }
};

template <typename T>
__device__ T square_root(T x) {
  return sqrt(x);
}

template <typename T, int L, Order kOrder>
__global__ void __launch_bounds__(kEdges) embed(Edges<T> a) {
  constexpr int columns = (L + 1) * (L + 1);
  const int64_t first = int64_t(blockIdx.x) * kEdges, e = first + threadIdx.x;
  const int count = int(min(a.edges - first, int64_t(kEdges)));
  const bool mine = e < a.edges;
  const Tile<T, columns> harmonic{shared_memory<T>(), first, count};
  const Tile<T, 3> vector{shared_memory<T>() + Tile<T, columns>::size, first, count};
  const auto three = [&]() -> Three<T> { return {vector.row()[0], vector.row()[1], vector.row()[2]}; };

  vector.load(a.vec);
  if (kOrder == Order::backward) harmonic.load(a.grad_sh);
  __syncthreads();
  Three<T> v = {};
  T cutoff = 0, gx = 0;
  Harmonics<T, T, L> g;
  if (mine) {
    v = three();
    cutoff = a.inverse_cutoff[a.one_cutoff ? 0 : e];
    if (kOrder != Order::forward && a.grad_length != nullptr) gx = a.grad_length[e];
    if (kOrder == Order::backward) {
#pragma unroll
      for (int m = 0; m < columns; ++m) g.value[m] = harmonic.row()[m];
    }
  }
  const Frame<T> f = frame_of(v, square_root(dot(v, v)), cutoff);
  __syncthreads();

  Three<T> result = {};
  if constexpr (kOrder == Order::backward) {
    result = gradient(f, g, gx);
  } else {
    Three<T> h = {};
    if constexpr (kOrder == Order::double_backward) {
      vector.load(a.ddvec);
      __syncthreads();
      if (mine) h = three();
      __syncthreads();
    }
    const auto write = [&](const Harmonics<T, T, L>& y, T length) {
      if (mine) {
#pragma unroll
        for (int m = 0; m < columns; ++m) harmonic.row()[m] = y.value[m];
        if (a.length != nullptr) a.length[e] = length;
      }
      __syncthreads();
      if (a.sh != nullptr) harmonic.store(a.sh);
    };
    if constexpr (kOrder == Order::forward) {
      write(harmonics<T, L>(f.n), f.length * f.cutoff);
      return;
    } else {
      const SecondOrder<T, T, L> second(f, h);
      write(second.dgy, second.dgx);
      if (a.dvec == nullptr) return;
      __syncthreads();
      harmonic.load(a.grad_sh);
      __syncthreads();
      if (mine) {
#pragma unroll
        for (int m = 0; m < columns; ++m) g.value[m] = harmonic.row()[m];
        result = second.dv(f, g, gx);
      }
    }
  }
  if (mine) {
    vector.row()[0] = result.x;
    vector.row()[1] = result.y;
    vector.row()[2] = result.z;
  }
  __syncthreads();
  vector.store(a.dvec);
}

template <typename T, int L, Order kOrder>
void launch_embed(const Edges<T>& edges, void* stream) {
  constexpr size_t shared = (Tile<T, (L + 1) * (L + 1)>::size + Tile<T, 3>::size) * sizeof(T);
  launch("edge_embedding", embed<T, L, kOrder>, blocks_of(edges.edges, kEdges), kEdges, shared, stream,
         edges);
}

template <typename T, int L>
void launch_order(const Edges<T>& edges, Order order, void* stream) {
  if (order == Order::forward) return launch_embed<T, L, Order::forward>(edges, stream);
  if (order == Order::backward) return launch_embed<T, L, Order::backward>(edges, stream);
  launch_embed<T, L, Order::double_backward>(edges, stream);
}

}  // namespace

template <typename T>
void evaluate(const Edges<T>& edges, int l_max, Order order, void* stream) {
  static_assert(kMaxDegree == 4);
  switch (l_max) {
    case 0:
      return launch_order<T, 0>(edges, order, stream);
    case 1:
      return launch_order<T, 1>(edges, order, stream);
    case 2:
      return launch_order<T, 2>(edges, order, stream);
    case 3:
      return launch_order<T, 3>(edges, order, stream);
    default:
      return launch_order<T, 4>(edges, order, stream);
  }
}

template void evaluate(const Edges<float>&, int, Order, void*);
template void evaluate(const Edges<double>&, int, Order, void*);

}  // namespace uqforce::embedding
