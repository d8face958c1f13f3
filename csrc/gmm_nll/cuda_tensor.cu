// The mixture on the tensor cores, float32: a warp computes y = (x - mu) P for some tiles of 16 atoms, tile
// of 8 x 8 of P by tile, and its gradient's share r P y from y as it stands in registers. Features, y and the
// gradient never leave the registers; the components' tiles stand in shared memory, split already, the next
// component's copied ahead. Tiles below the diagonal are left out.
#include <cuda_pipeline.h>

#include <type_traits>

#include "common/cuda_tensor.h"
#include "gmm_nll/cuda.h"
#include "gmm_nll/cuda_likelihood.h"

namespace uqforce::gmm_nll {
namespace {

constexpr int kTile = 8;
constexpr int kWarps = 4;
// Groups of 8 features: with fewer the tensor cores' sums, cut off where float32 rounds, lose more than half
// again of what float32 does; more would not leave registers enough.
constexpr int kLeastGroups = 4, kMostGroups = 8;

// Tiles of 16 atoms of a warp: their products share what is read of P.
constexpr int tiles_of(int groups) { return groups == 4 ? 2 : 1; }

// Of one component: constant (16 bytes), padded mean, tiles of P as right factors of x - mu, [k][j >= k], and
// those of its transpose as right factors of y, [j][k <= j].
struct TensorLayout {
  int groups;
  __host__ __device__ explicit constexpr TensorLayout(int groups) : groups(groups) {}
  __host__ __device__ constexpr int mean() const { return 4; }
  __host__ __device__ constexpr int tiles() const { return groups * (groups + 1) / 2; }
  __host__ __device__ constexpr int columns() const { return mean() + kTile * groups; }
  __host__ __device__ constexpr int rows() const { return columns() + tiles() * kWarp * 4; }
  __host__ __device__ constexpr int size() const { return rows() + tiles() * kWarp * 4; }
};

// Fills `prepared`, [components, size]; `constants` [components, stride] are those of prepare() in cuda.cu.
__global__ void prepare_tiles(Problem<float> p, const float* constants, int stride, TensorLayout layout,
                              float* prepared) {
  const int m = blockIdx.x, D = p.dim, dim = kTile * layout.groups;
  const float *const mean = p.means + int64_t(m) * D, *const P = p.cholesky + int64_t(m) * D * D;
  float* const out = prepared + int64_t(m) * layout.size();
  for (int i = threadIdx.x; i < layout.mean(); i += blockDim.x) out[i] = constants[int64_t(m) * stride];
  for (int i = threadIdx.x; i < dim; i += blockDim.x) out[layout.mean() + i] = i < D ? mean[i] : 0.0f;
  const auto at = [=](int k, int j) { return k <= j && j < D ? P[k * D + j] : 0.0f; };
  for (int i = threadIdx.x; i < layout.tiles() * kWarp; i += blockDim.x) {
    int first = i / kWarp, outer = 0;  // the tile is the first-th of those with this outer number
    const int row = i % kWarp / 4, pair = i % 4;
    for (; first >= layout.groups - outer; ++outer) first -= layout.groups - outer;
    const int k = kTile * outer + 2 * pair, j = kTile * (outer + first) + row;
    RightTile forward, backward;
    for (int c = 0; c < 2; ++c) split_tf32(at(k + c, j), forward.hi[c], forward.lo[c]);
    reinterpret_cast<RightTile*>(out + layout.columns())[i] = forward;
    first = i / kWarp;
    for (outer = 0; first > outer; ++outer) first -= outer + 1;
    const int column = kTile * outer + 2 * pair, line = kTile * first + row;
    for (int c = 0; c < 2; ++c) split_tf32(at(line, column + c), backward.hi[c], backward.lo[c]);
    reinterpret_cast<RightTile*>(out + layout.rows())[i] = backward;
  }
}

__device__ inline float over_row(float x) {  // the sum over the four lanes that share a row
  x += __shfl_xor_sync(kAll, x, 1);
  return x + __shfl_xor_sync(kAll, x, 2);
}

template <int groups, bool kGradient>
__global__ void __launch_bounds__(kWarps* kWarp, kGradient || groups == 8 ? 2 : 3)
    tensor(Problem<float> p, const float* __restrict__ prepared) {
  constexpr TensorLayout layout(groups);
  constexpr int tiles = tiles_of(groups), size = kGradient ? layout.size() : layout.rows();
  float* const staged = shared_memory<float>();  // two components
  const TilePlace place;
  const int lane = threadIdx.x % kWarp;
  const int64_t first = (int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp) * 16 * tiles;
  const auto copy_ahead = [&](int m) {
    for (int i = 4 * threadIdx.x; m < p.components && i < size; i += 4 * blockDim.x) {
      __pipeline_memcpy_async(staged + m % 2 * size + i, prepared + int64_t(m) * layout.size() + i, 16);
    }
    __pipeline_commit();
  };
  copy_ahead(0);

  float x[tiles][groups][4], grad[tiles][groups][4] = {}, top[tiles][2], sum[tiles][2];
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
    top[t][0] = top[t][1] = -std::numeric_limits<float>::infinity();
    sum[t][0] = sum[t][1] = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t row = first + 16 * t + place.row + i / 2 * 8;
        const int column = kTile * g + 2 * place.pair + i % 2;
        x[t][g][i] = row < p.atoms && column < p.dim ? __ldg(p.features + row * p.dim + column) : 0.0f;
      }
    }
  }

  for (int m = 0; m < p.components; ++m) {
    const float* const stage = staged + m % 2 * size;
    __pipeline_wait_prior(0);
    __syncthreads();  // the stage is there, and nobody reads the other one any more
    copy_ahead(m + 1);

    float y[tiles][groups][4] = {};
    const RightTile* tile = reinterpret_cast<const RightTile*>(stage + layout.columns()) + lane;
#pragma unroll
    for (int k = 0; k < groups; ++k) {
      const float* const mean = stage + layout.mean() + kTile * k + 2 * place.pair;
      LeftTile left[tiles];
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        float centred[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) centred[i] = x[t][k][i] - mean[i % 2];
        left[t] = LeftTile(centred);
      }
#pragma unroll
      for (int j = k; j < groups; ++j, tile += kWarp) {
        const RightTile right = *tile;
#pragma unroll
        for (int t = 0; t < tiles; ++t) multiply_add(y[t][j], left[t], right);
      }
    }

#pragma unroll
    for (int t = 0; t < tiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float square = 0, r, scale;
#pragma unroll
        for (int j = 0; j < groups; ++j) {
          square += y[t][j][2 * half] * y[t][j][2 * half];
          square += y[t][j][2 * half + 1] * y[t][j][2 * half + 1];
        }
        add_likelihood(stage[0] - 0.5f * over_row(square), top[t][half], sum[t][half], r, scale);
        if constexpr (kGradient) {
#pragma unroll
          for (int j = 0; j < groups; ++j) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) y[t][j][i] *= r, grad[t][j][i] *= scale;
          }
        }
      }
    }
    if constexpr (kGradient) {
      tile = reinterpret_cast<const RightTile*>(stage + layout.rows()) + lane;
#pragma unroll
      for (int j = 0; j < groups; ++j) {
        LeftTile left[tiles];
#pragma unroll
        for (int t = 0; t < tiles; ++t) left[t] = LeftTile(y[t][j]);
#pragma unroll
        for (int k = 0; k <= j; ++k, tile += kWarp) {
          const RightTile right = *tile;
#pragma unroll
          for (int t = 0; t < tiles; ++t) multiply_add(grad[t][k], left[t], right);
        }
      }
    }
  }

#pragma unroll
  for (int t = 0; t < tiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + 16 * t + place.row + 8 * half;
      if (row >= p.atoms) continue;
      if (place.pair == 0 && p.nll) p.nll[row] = -(top[t][half] + log(sum[t][half]));
      if constexpr (kGradient) {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int column = kTile * g + 2 * place.pair + i;
            if (column < p.dim) p.grad[row * p.dim + column] = grad[t][g][2 * half + i] / sum[t][half];
          }
        }
      }
    }
  }
}

template <int groups, bool kGradient>
void launch_as(const Problem<float>& p, const float* prepared, void* stream) {
  constexpr TensorLayout layout(groups);
  constexpr int atoms = kWarps * 16 * tiles_of(groups), size = kGradient ? layout.size() : layout.rows();
  launch("gmm_nll", tensor<groups, kGradient>, blocks_of(p.atoms, atoms), kWarps * kWarp,
         2 * size * sizeof(float), stream, p, prepared);
}

void launch_groups(int groups, const Problem<float>& p, const float* prepared, void* stream) {
  const auto with = [&](auto constant) {
    constexpr int its = decltype(constant)::value;
    if (groups != its) return;
    p.grad ? launch_as<its, true>(p, prepared, stream) : launch_as<its, false>(p, prepared, stream);
  };
  with(std::integral_constant<int, 4>{});
  with(std::integral_constant<int, 5>{});
  with(std::integral_constant<int, 6>{});
  with(std::integral_constant<int, 8>{});
}

// 7 would spill registers.
int groups_of(int dim) {
  const int groups = (dim + kTile - 1) / kTile;
  return groups == 7 ? 8 : groups;
}

}  // namespace

bool fits_tensor_cores(int dim) {
  // The value comes from here only where the gradient does: the two ops give the same bits.
  const int64_t bytes = 2 * TensorLayout(groups_of(dim)).size() * int64_t(sizeof(float));
  return kLeastGroups <= groups_of(dim) && groups_of(dim) <= kMostGroups && bytes <= most_shared_memory();
}

int64_t tensor_size(int dim, int components) {
  return fits_tensor_cores(dim) ? int64_t(components) * TensorLayout(groups_of(dim)).size() : 0;
}

void evaluate_on_tensor_cores(const Problem<float>& p, const float* constants, int stride, float* prepared,
                              void* stream) {
  const TensorLayout layout(groups_of(p.dim));
  launch("gmm_nll", prepare_tiles, p.components, 128, 0, stream, p, constants, stride, layout, prepared);
  launch_groups(layout.groups, p, prepared, stream);
}

}  // namespace uqforce::gmm_nll
