// CUDA kernels of the mixture's negative log-likelihood, its gradient and Hessian-vector product.
//
// `tiled`: a warp computes y = (x - mu) P for 8 columns of P and 32 * kVectors * kLanes atoms; the warps that
// share a tile of atoms have a group of 8 columns each. Features and the component's parameters stand in
// shared memory, the latter copied ahead while the one before is computed. The gradient's sum over components
// goes along with the running maximum of the likelihoods, so that y is computed once. Group g takes 8 (g + 1)
// steps for y and dim - 8 g for P y: warps end together. `by_warp`: one warp for each atom, any size, the
// Hessian product too; parameters come from the L2 cache. float32 with 25 to 64 features: cuda_tensor.cu.
#include <cuda_pipeline.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/cuda.h"
#include "gmm_nll/cuda.h"
#include "gmm_nll/cuda_likelihood.h"

namespace uqforce::gmm_nll {
namespace {

constexpr int kGroup = 8;  // columns of a warp

int groups_of(int dim) { return (dim + kGroup - 1) / kGroup; }

// Of one component: constant (16 bytes), padded mean, the triangle by groups of columns ([k][8 columns]), and
// by groups of rows ([j][8 rows]). All parts begin at multiples of 16 bytes.
struct Layout {
  int groups;
  __host__ __device__ explicit Layout(int groups) : groups(groups) {}
  __host__ __device__ int dim() const { return kGroup * groups; }
  __host__ __device__ int mean() const { return 4; }
  __host__ __device__ int columns(int g) const { return mean() + dim() + kGroup * kGroup / 2 * g * (g + 1); }
  __host__ __device__ int rows(int g) const {
    return columns(groups) + kGroup * kGroup / 2 * g * (2 * groups - g + 1);
  }
  __host__ __device__ int value_size() const { return columns(groups); }
  __host__ __device__ int size() const { return rows(groups); }
};

// Fills `prepared`: [components, size] of Layout, and behind it the transposed triangles for `by_warp`.
template <typename T>
__global__ void prepare(Problem<T> p, int groups) {
  const Layout layout(groups);
  const int m = blockIdx.x, D = p.dim;
  const T *mean = p.means + int64_t(m) * D, *P = p.cholesky + int64_t(m) * D * D;
  T* out = p.prepared + int64_t(m) * layout.size();
  T* transposed = p.prepared + int64_t(p.components) * layout.size() + int64_t(m) * D * D;
  bool good = true;
  for (int i = threadIdx.x; i < D * D; i += blockDim.x) {
    good &= bool(isfinite(P[i]));
    transposed[i % D * D + i / D] = P[i];
  }
  for (int i = threadIdx.x; i < layout.dim(); i += blockDim.x) {
    out[layout.mean() + i] = i < D ? mean[i] : T(0);
    good &= i >= D || (bool(isfinite(mean[i])) && P[i * (D + 1)] > T(0));
  }
  for (int g = 0; g < groups; ++g) {
    T* columns = out + layout.columns(g);
    for (int i = threadIdx.x; i < kGroup * kGroup * (g + 1); i += blockDim.x) {
      const int k = i / kGroup, j = kGroup * g + i % kGroup;
      columns[i] = k <= j && j < D ? P[k * D + j] : T(0);
    }
    T* rows = out + layout.rows(g);
    for (int i = threadIdx.x; i < kGroup * (layout.dim() - kGroup * g); i += blockDim.x) {
      const int j = kGroup * g + i / kGroup, k = kGroup * g + i % kGroup;
      rows[i] = k <= j && j < D ? P[k * D + j] : T(0);
    }
  }
  good = __all_sync(kAll, good);
  __shared__ bool all_good;
  if (threadIdx.x == 0) all_good = true;
  __syncthreads();
  if (!good) all_good = false;  // whoever writes, writes the same
  __syncthreads();
  if (threadIdx.x != 0) return;
  const T log_weight = p.log_weights[m];
  double constant = double(log_weight) - 0.5 * 1.8378770664093454836 * D;
  for (int i = 0; i < D; ++i) constant += log(double(P[i * (D + 1)]));
  if (!all_good || !(log_weight < std::numeric_limits<T>::infinity())) constant = NAN;
  for (int i = 0; i < layout.mean(); ++i) out[i] = T(constant);
}

template <typename T>
struct alignas(16) Vector {
  static constexpr int lanes = 16 / sizeof(T);
  T v[lanes];
};

template <typename T>
__device__ const Vector<T>& vector_at(const T* address) {
  return *reinterpret_cast<const Vector<T>*>(address);
}

// acc[c][a] += weights[c] * x[a]
template <typename T, int kAtoms>
__device__ void multiply_add(const T* weights, const T (&x)[kAtoms], T (&acc)[kGroup][kAtoms]) {
  constexpr int n = Vector<T>::lanes;
#pragma unroll
  for (int i = 0; i < kGroup / n; ++i) {
    const Vector<T> w = vector_at(weights + i * n);
#pragma unroll
    for (int c = 0; c < n; ++c) {
#pragma unroll
      for (int a = 0; a < kAtoms; ++a) acc[i * n + c][a] += w.v[c] * x[a];
    }
  }
}

// The block's threads copy `size` values, a multiple of 16 bytes, behind what they compute.
template <typename T>
__device__ void copy_ahead(T* to, const T* from, int size) {
  constexpr int n = Vector<T>::lanes;
  for (int i = threadIdx.x; i < size / n; i += blockDim.x) {
    __pipeline_memcpy_async(to + i * n, from + i * n, 16);
  }
  __pipeline_commit();
}

// Shared memory of one tile of `tile` atoms.
template <bool kGradient>
__host__ __device__ int tile_values(int groups, int tile) {
  return tile * groups * (1 + kGroup * (kGradient ? 2 : 1));
}

// More would not leave registers enough.
template <typename T, int kVectors>
constexpr int most_threads = kVectors == 1 && sizeof(T) == 4 ? 512 : 256;

// kVectors vectors of atoms per lane; a block has `tiles` tiles of atoms with `groups` warps each.
template <typename T, int kVectors, bool kGradient>
__global__ void __launch_bounds__(most_threads<T, kVectors>)
    tiled(Problem<T> p, int groups, int tiles, int stages) {
  constexpr int n = Vector<T>::lanes, kAtoms = kVectors * n, kTile = kWarp * kAtoms;
  const Layout layout(groups);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, tile = warp / groups;
  const int g = warp % groups, dim = layout.dim(),
            stage_size = kGradient ? layout.size() : layout.value_size();
  // Shared: one or two stages of parameters; of each tile the groups' parts of y's square, features, and y.
  T* const staged = shared_memory<T>();
  T* const squares = staged + stages * stage_size + tile * tile_values<kGradient>(groups, kTile);
  T* const x = squares + groups * kTile;
  T* const y_shared = x + dim * kTile;
  const int64_t first = (int64_t(blockIdx.x) * tiles + tile) * kTile;

  copy_ahead(staged, p.prepared, stage_size);
  for (int i = g * kWarp + lane; i < dim * kTile; i += groups * kWarp) {
    const int k = i / kTile, a = i % kTile;
    x[i] = k < p.dim && first + a < p.atoms ? p.features[(first + a) * p.dim + k] : T(0);
  }
  const auto atom = [&](int a) { return a / n * kWarp * n + lane * n + a % n; };  // of the tile
  T top[kAtoms], sum[kAtoms], grad[kGroup][kAtoms];
#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
    top[a] = -std::numeric_limits<T>::infinity();
    sum[a] = 0;
#pragma unroll
    for (int c = 0; c < kGroup; ++c) grad[c][a] = 0;
  }

  for (int m = 0; m < p.components; ++m) {
    const T* const stage = staged + m % stages * stage_size;
    if (stages == 1 && m > 0) {
      __syncthreads();
      copy_ahead(staged, p.prepared + int64_t(m) * layout.size(), stage_size);
    }
    __pipeline_wait_prior(0);
    __syncthreads();  // the stage is there, and nobody reads the other one any more
    if (stages == 2 && m + 1 < p.components) {
      copy_ahead(staged + (m + 1) % 2 * stage_size, p.prepared + int64_t(m + 1) * layout.size(), stage_size);
    }

    T y[kGroup][kAtoms] = {};
    // Without a second phase the groups take turns, so that every warp has short and long ones.
    const int mine = kGradient ? g : (g + m) % groups;
    const T* const columns = stage + layout.columns(mine);
#pragma unroll 4
    for (int k = 0; k < kGroup * (mine + 1); ++k) {
      T centred[kAtoms];
      const T mean = stage[layout.mean() + k];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const Vector<T> values = vector_at(x + k * kTile + atom(v * n));
#pragma unroll
        for (int i = 0; i < n; ++i) centred[v * n + i] = values.v[i] - mean;
      }
      multiply_add(columns + k * kGroup, centred, y);
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      Vector<T> square{};
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        Vector<T> row;
#pragma unroll
        for (int i = 0; i < n; ++i) {
          row.v[i] = y[c][v * n + i];
          square.v[i] += row.v[i] * row.v[i];
        }
        if (kGradient) *reinterpret_cast<Vector<T>*>(y_shared + (g * kGroup + c) * kTile + atom(v * n)) = row;
      }
      *reinterpret_cast<Vector<T>*>(squares + mine * kTile + atom(v * n)) = square;
    }
    __syncthreads();

    T r[kAtoms], scale[kAtoms];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      Vector<T> square{};
      for (int other = 0; other < groups; ++other) {
        const Vector<T> more = vector_at(squares + other * kTile + atom(v * n));
#pragma unroll
        for (int i = 0; i < n; ++i) square.v[i] += more.v[i];
      }
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const int a = v * n + i;
        add_likelihood(stage[0] - T(0.5) * square.v[i], top[a], sum[a], r[a], scale[a]);
      }
    }
    if constexpr (kGradient) {
      T product[kGroup][kAtoms] = {};  // P y
      const T* const rows = stage + layout.rows(g);
#pragma unroll 4
      for (int j = kGroup * g; j < dim; ++j) {
        T values[kAtoms];
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const Vector<T> part = vector_at(y_shared + j * kTile + atom(v * n));
#pragma unroll
          for (int i = 0; i < n; ++i) values[v * n + i] = part.v[i];
        }
        multiply_add(rows + (j - kGroup * g) * kGroup, values, product);
      }
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
#pragma unroll
        for (int a = 0; a < kAtoms; ++a) grad[c][a] = grad[c][a] * scale[a] + r[a] * product[c][a];
      }
    }
  }

#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
    const int64_t row = first + atom(a);
    if (row >= p.atoms) continue;
    if (g == 0 && p.nll) p.nll[row] = -(top[a] + log(sum[a]));
    if constexpr (kGradient) {
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        if (kGroup * g + c < p.dim) p.grad[row * p.dim + kGroup * g + c] = grad[c][a] / sum[a];
      }
    }
  }
}

template <typename T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

// Shared memory of one warp of `by_warp`: log-likelihoods and five vectors.
__host__ __device__ int warp_values(int dim, int components) { return components + 5 * dim; }

// y = z P for the upper triangle P, by the lanes; z in shared memory.
template <typename T>
__device__ void times_triangle(const T* z, const T* P, int D, int lane, T* y) {
  __syncwarp();
  for (int j = lane; j < D; j += kWarp) {
    T total = 0;
    for (int k = 0; k <= j; ++k) total += z[k] * P[int64_t(k) * D + j];
    y[j] = total;
  }
  __syncwarp();
}

// sum += r P y, with the transposed triangle.
template <typename T>
__device__ void add_triangle_times(T r, const T* transposed, const T* y, int D, int lane, T* sum) {
  __syncwarp();
  for (int k = lane; k < D; k += kWarp) {
    T total = 0;
    for (int j = k; j < D; ++j) total += transposed[int64_t(j) * D + k] * y[j];
    sum[k] += r * total;
  }
  __syncwarp();
}

template <typename T>
__device__ T dot(const T* a, const T* b, int D, int lane) {
  T total = 0;
  for (int i = lane; i < D; i += kWarp) total += a[i] * b[i];
  return warp_sum(total);
}

template <typename T>
__global__ void by_warp(Problem<T> p, int groups) {
  const Layout layout(groups);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, D = p.dim;
  const int64_t n = int64_t(blockIdx.x) * (blockDim.x / kWarp) + warp;
  if (n >= p.atoms) return;
  T* const log_p = shared_memory<T>() + warp * warp_values(D, p.components);
  T *const z = log_p + p.components, *const y = z + D, *const tangent = y + D, *const grad = tangent + D,
           *const product = grad + D;
  const T* const transposed = p.prepared + int64_t(p.components) * layout.size();
  const auto whitened = [&](int m) {
    __syncwarp();
    for (int k = lane; k < D; k += kWarp) z[k] = p.features[n * D + k] - p.means[int64_t(m) * D + k];
    times_triangle(z, p.cholesky + int64_t(m) * D * D, D, lane, y);
  };
  T top = -std::numeric_limits<T>::infinity(), sum = 0, r, scale;
  for (int m = 0; m < p.components; ++m) {
    whitened(m);
    const T value = p.prepared[int64_t(m) * layout.size()] - T(0.5) * dot(y, y, D, lane);
    if (lane == 0) log_p[m] = value;
    add_likelihood(value, top, sum, r, scale);
  }
  if (lane == 0 && p.nll) p.nll[n] = -(top + log(sum));
  if (!p.grad && !p.product) return;
  for (int k = lane; k < D; k += kWarp) grad[k] = product[k] = 0;
  __syncwarp();
  for (int m = 0; m < p.components; ++m) {
    const T share = exp(log_p[m] - top) / sum;
    if (share < std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon()) continue;  // also of 0
    whitened(m);
    const T* const PT = transposed + int64_t(m) * D * D;
    add_triangle_times(share, PT, y, D, lane, grad);
    if (!p.product) continue;
    for (int k = lane; k < D; k += kWarp) z[k] = p.vector[n * D + k];
    times_triangle(z, p.cholesky + int64_t(m) * D * D, D, lane, tangent);
    const T along = dot(y, tangent, D, lane);
    for (int k = lane; k < D; k += kWarp) tangent[k] -= along * y[k];
    add_triangle_times(share, PT, tangent, D, lane, product);
  }
  if (p.grad) {
    for (int k = lane; k < D; k += kWarp) p.grad[n * D + k] = grad[k];
  }
  if (p.product) {
    const T along = dot(grad, p.vector + n * D, D, lane);
    for (int k = lane; k < D; k += kWarp) p.product[n * D + k] = product[k] + along * grad[k];
  }
}

struct Shape {
  int tiles, stages, threads;
  size_t shared;
};

// How a block of `tiled` looks; no threads where it would be too large.
template <typename T, int kVectors, bool kGradient>
Shape shape_of(int groups) {
  const Layout layout(groups);
  const int tiles = groups < 4 ? 4 / groups : 1, threads = tiles * groups * kWarp;
  const int stage = kGradient ? layout.size() : layout.value_size();
  const int tile = tile_values<kGradient>(groups, kWarp * kVectors * Vector<T>::lanes);
  for (const int stages : {2, 1}) {
    const int64_t shared = int64_t(sizeof(T)) * (stages * stage + tiles * tile);
    if (threads <= most_threads<T, kVectors> && shared <= most_shared_memory()) {
      return {tiles, stages, threads, size_t(shared)};
    }
  }
  return {};
}

template <typename T, int kVectors, bool kGradient>
void launch_tiled(const Problem<T>& p, int groups, const Shape& shape, void* stream) {
  const int atoms = shape.tiles * kWarp * kVectors * Vector<T>::lanes;
  launch("gmm_nll", tiled<T, kVectors, kGradient>, (p.atoms + atoms - 1) / atoms, shape.threads, shape.shared,
         stream, p, groups, shape.tiles, shape.stages);
}

// Numbers of `prepared` before those for the tensor cores: a multiple of 16 bytes.
int64_t common_size(int dim, int components) {
  const int64_t size = int64_t(components) * (Layout(groups_of(dim)).size() + int64_t(dim) * dim);
  return (size + 3) / 4 * 4;
}

}  // namespace

int64_t prepared_size(int dim, int components) {
  return common_size(dim, components) + tensor_size(dim, components);
}

template <typename T>
void evaluate(const Problem<T>& p, void* stream) {
  if (p.atoms == 0) return;
  const int groups = groups_of(p.dim);
  launch("gmm_nll", prepare<T>, p.components, 128, 0, stream, p, groups);
  if constexpr (sizeof(T) == 4) {
    if (!p.product && fits_tensor_cores(p.dim)) {
      return evaluate_on_tensor_cores(p, p.prepared, Layout(groups).size(),
                                      p.prepared + common_size(p.dim, p.components), stream);
    }
  }
  // The value comes from `tiled` only where the gradient does: the two ops give the same bits.
  const Shape shape = p.product || p.dim == 0 ? Shape{} : shape_of<T, 1, true>(groups);
  if (shape.threads > 0) {
    const Shape wide = shape_of<T, 2, false>(groups);
    if (p.grad) return launch_tiled<T, 1, true>(p, groups, shape, stream);
    if (wide.threads > 0) return launch_tiled<T, 2, false>(p, groups, wide, stream);
    return launch_tiled<T, 1, false>(p, groups, shape_of<T, 1, false>(groups), stream);
  }
  const size_t warp_bytes = warp_values(p.dim, p.components) * sizeof(T);
  const int warps = int(std::max<size_t>(1, std::min<size_t>(8, most_shared_memory() / 4 / warp_bytes)));
  launch("gmm_nll", by_warp<T>, (p.atoms + warps - 1) / warps, warps * kWarp, warps * warp_bytes, stream, p,
         groups);
}

template void evaluate(const Problem<float>&, void*);
template void evaluate(const Problem<double>&, void*);

}  // namespace uqforce::gmm_nll
