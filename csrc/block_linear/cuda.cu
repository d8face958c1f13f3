// Tiles of 64 x 64 of the matrix products, one block of 128 threads each with 8 x 4 numbers a thread; what
// the next step multiplies is read while this one is computed. A row is one component of one atom, and the
// rows of one type are multiplied together. The weights' gradient is summed over slices of the rows first.
#include <limits>

#include "block_linear/cuda.h"
#include "common/cuda.h"

namespace uqforce::linear_map {
namespace {

constexpr int kTile = 64, kStep = 16, kThreads = 128, kHigh = 8, kWide = 4;
constexpr int kPadded = kTile + 4;  // rows that begin at 16 bytes, columns in different banks
constexpr int kLoads = kTile * kStep / kThreads;

int64_t tiles_of(int64_t size) { return (size + kTile - 1) / kTile; }

// Where thread and j stand in a tile that is read along its depth k, or across.
struct Place {
  int k, i;
  __device__ Place(bool along, int j) {
    const int n = threadIdx.x + j * kThreads;
    k = along ? n % kStep : n / kTile;
    i = along ? n / kStep : n % kTile;
  }
};

// acc += sum over k < depth of a(k, row) b(k, column); each is read along k or across.
template <typename T, class A, class B>
__device__ void multiply(int64_t depth, bool a_along, const A& a, bool b_along, const B& b,
                         T (&acc)[kHigh][kWide]) {
  __align__(16) __shared__ T as[2][kStep][kPadded];
  __align__(16) __shared__ T bs[2][kStep][kPadded];
  T next_a[kLoads], next_b[kLoads];
  const auto read = [&](int64_t start) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const Place at(a_along, j), bt(b_along, j);
      next_a[j] = start + at.k < depth ? a(start + at.k, at.i) : T(0);
      next_b[j] = start + bt.k < depth ? b(start + bt.k, bt.i) : T(0);
    }
  };
  const auto write = [&](int buffer) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const Place at(a_along, j), bt(b_along, j);
      as[buffer][at.k][at.i] = next_a[j];
      bs[buffer][bt.k][bt.i] = next_b[j];
    }
  };
  const int row = threadIdx.x / (kTile / kWide) * kHigh, column = threadIdx.x % (kTile / kWide) * kWide;
  read(0);
  write(0);
  __syncthreads();
  int buffer = 0;
  for (int64_t start = 0; start < depth; start += kStep, buffer ^= 1) {
    const bool more = start + kStep < depth;
    if (more) read(start + kStep);
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
#pragma unroll
      for (int i = 0; i < kHigh; ++i) {
#pragma unroll
        for (int j = 0; j < kWide; ++j) acc[i][j] += as[buffer][k][row + i] * bs[buffer][k][column + j];
      }
    }
    if (more) write(buffer ^ 1);
    __syncthreads();
  }
}

// The rows of one type that a block has: `count` from row `first` of those of its components.
struct Rows {
  int type = 0;
  int64_t begin = 0, first = 0, count = 0;  // begin: of the type, in the order of atoms
};

// Part `part` of the rows, cut type by type into parts of `size`; without rows where there are fewer parts.
__device__ Rows find_rows(const CudaTypes& types, int components, int64_t part, int64_t size) {
  Rows rows;
  for (; rows.type < types.count; ++rows.type) {
    rows.begin = types.begin[rows.type];
    const int64_t all = (types.begin[rows.type + 1] - rows.begin) * components,
                  parts = (all + size - 1) / size;
    if (part < parts) {
      rows.first = part * size;
      rows.count = min(all - rows.first, size);
      return rows;
    }
    part -= parts;
  }
  return rows;
}

__device__ int64_t atom_of(const CudaTypes& types, const Rows& rows, int64_t row, int components) {
  const int64_t place = rows.begin + (rows.first + row) / components;
  return types.order ? types.order[place] : place;
}
__device__ int component_of(const Rows& rows, int64_t row, int components) {
  return int((rows.first + row) % components);
}

template <typename T>
__device__ T scale_of(const CudaTypes& types, int64_t atoms, double scale) {
  const bool bad = types.sorted && (types.sorted[0] < 0 || types.sorted[atoms - 1] >= types.count);
  return bad ? std::numeric_limits<T>::quiet_NaN() : T(scale);
}

__device__ const CudaBlock& find_block(const CudaBlocks& blocks) {
  int k = 0;
  while (k + 1 < blocks.count && blocks.block[k + 1].first_tile <= blockIdx.x) ++k;
  return blocks.block[k];
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    map_kernel(const __grid_constant__ CudaMap<T> map, const __grid_constant__ CudaBlocks blocks,
               const T* weight, bool transposed) {
  __shared__ int64_t from[kTile], to[kTile];  // where rows begin
  const CudaBlock& b = find_block(blocks);
  const int64_t tile = blockIdx.x - b.first_tile, across = (b.to + kTile - 1) / kTile;
  const Rows rows = find_rows(map.types, b.components, tile / across, kTile);
  if (rows.count == 0) return;
  const int column = int(tile % across) * kTile;
  if (threadIdx.x < kTile) {
    const int64_t row = min(int64_t(threadIdx.x), rows.count - 1);
    const int64_t atom = atom_of(map.types, rows, row, b.components);
    const int component = component_of(rows, row, b.components);
    from[threadIdx.x] = atom * map.dim_from + b.from_offset + component * b.from;
    to[threadIdx.x] = atom * map.dim_to + b.to_offset + component * b.to;
  }
  __syncthreads();
  const T* const w = weight + rows.type * map.weight_numel + b.weight_offset;
  T acc[kHigh][kWide] = {};
  multiply<T>(
      b.from, true, [&](int64_t k, int row) { return map.x[from[row] + k]; }, transposed,
      [&](int64_t k, int i) {
        const int64_t n = column + i;
        if (n >= b.to) return T(0);
        return transposed ? w[n * b.from + k] : w[k * b.to + n];
      },
      acc);
  const T scale = scale_of<T>(map.types, map.atoms, b.scale);
  const int high = threadIdx.x / (kTile / kWide) * kHigh, wide = threadIdx.x % (kTile / kWide) * kWide;
#pragma unroll
  for (int i = 0; i < kHigh; ++i) {
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      if (high + i < rows.count && column + wide + j < b.to) {
        map.out[to[high + i] + column + wide + j] = scale * acc[i][j];
      }
    }
  }
}

constexpr int64_t kSlices = 32, kLeast = 512;  // of rows; and rows in one

__host__ __device__ inline int64_t slice_size(int64_t rows) {
  const int64_t size = (rows + kSlices - 1) / kSlices;
  return size > kLeast ? size : kLeast;
}
__host__ __device__ inline int64_t most_slices(int64_t rows, int types) {
  return (rows + slice_size(rows) - 1) / slice_size(rows) + types - 1;
}

// partial [slices, from, to] of each block, at first_tile * kTile * kTile: every tile has its place.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    slice_kernel(const __grid_constant__ CudaMap<T> map, const __grid_constant__ CudaBlocks blocks,
                 T* partial) {
  const CudaBlock& b = find_block(blocks);
  const int64_t tile = blockIdx.x - b.first_tile;
  const int64_t across = (b.to + kTile - 1) / kTile, tiles = across * ((b.from + kTile - 1) / kTile);
  const Rows rows = find_rows(map.types, b.components, tile / tiles, slice_size(map.atoms * b.components));
  if (rows.count == 0) return;
  const int u = int(tile % tiles / across) * kTile, v = int(tile % across) * kTile;
  const auto read = [&](const T* array, int64_t dim, int offset, int mul, int64_t row, int column) {
    if (column >= mul) return T(0);
    const int64_t atom = atom_of(map.types, rows, row, b.components);
    return array[atom * dim + offset + component_of(rows, row, b.components) * mul + column];
  };
  T acc[kHigh][kWide] = {};
  multiply<T>(
      rows.count, false,
      [&](int64_t row, int i) { return read(map.x, map.dim_from, b.from_offset, b.from, row, u + i); }, false,
      [&](int64_t row, int i) { return read(map.out, map.dim_to, b.to_offset, b.to, row, v + i); }, acc);
  T* const place = partial + int64_t(blockIdx.x) * kTile * kTile;
  const int high = threadIdx.x / (kTile / kWide) * kHigh, wide = threadIdx.x % (kTile / kWide) * kWide;
#pragma unroll
  for (int i = 0; i < kHigh; ++i) {
#pragma unroll
    for (int j = 0; j < kWide; ++j) place[(high + i) * kTile + wide + j] = acc[i][j];
  }
}

// One thread for each number of a block's tiles and each type.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    slice_sum_kernel(const __grid_constant__ CudaMap<T> map, const __grid_constant__ CudaBlock b,
                     const T* partial, T* dweight) {
  const int number = blockIdx.x * kThreads + threadIdx.x, type = number / (b.from * b.to);
  if (type >= map.types.count) return;
  const int u = number / b.to % b.from, v = number % b.to;
  const int across = (b.to + kTile - 1) / kTile, tiles = across * ((b.from + kTile - 1) / kTile);
  const int64_t size = slice_size(map.atoms * b.components);
  int64_t slice = 0, end = 0;
  for (int t = 0; t <= type; ++t) {
    slice = end;
    end += ((map.types.begin[t + 1] - map.types.begin[t]) * b.components + size - 1) / size;
  }
  T sum = 0;
  for (; slice < end; ++slice) {
    const int64_t tile = b.first_tile + slice * tiles + u / kTile * across + v / kTile;
    sum += partial[tile * kTile * kTile + u % kTile * kTile + v % kTile];
  }
  dweight[type * map.weight_numel + b.weight_offset + u * b.to + v] =
      sum * scale_of<T>(map.types, map.atoms, b.scale);
}

__global__ void find_types_kernel(int64_t atoms, CudaTypes types) {
  const int type = blockIdx.x * kThreads + threadIdx.x;
  if (type > types.count) return;
  int64_t low = 0, high = types.sorted ? atoms : 0;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    types.sorted[middle] < type ? low = middle + 1 : high = middle;
  }
  types.begin[type] = type == 0 ? 0 : type == types.count ? atoms : low;  // also of types that are none
}

// Gives every block its first tile; returns how many there are. parts(rows): those of all types together.
template <class Parts>
int64_t lay_out(CudaBlocks& blocks, int64_t atoms, bool both, const Parts& parts) {
  int64_t tiles = 0;
  for (int k = 0; k < blocks.count; ++k) {
    CudaBlock& b = blocks.block[k];
    b.first_tile = tiles;
    tiles += parts(atoms * b.components) * tiles_of(b.to) * (both ? tiles_of(b.from) : 1);
  }
  return tiles;
}

}  // namespace

void find_types(int64_t atoms, const CudaTypes& types, void* stream) {
  launch("block_linear", find_types_kernel, types.count / kThreads + 1, kThreads, 0, stream, atoms, types);
}

template <typename T>
void map_rows(const CudaMap<T>& map, CudaBlocks blocks, const T* weight, bool transposed, void* stream) {
  const int64_t tiles =
      lay_out(blocks, map.atoms, false, [&](int64_t rows) { return tiles_of(rows) + map.types.count - 1; });
  launch("block_linear", map_kernel<T>, tiles, kThreads, 0, stream, map, blocks, weight, transposed);
}

int64_t partial_size(int64_t atoms, int types, const CudaBlocks& blocks) {
  CudaBlocks laid = blocks;
  return lay_out(laid, atoms, true, [&](int64_t rows) { return most_slices(rows, types); }) * kTile * kTile;
}

template <typename T>
void weight_gradient(const CudaMap<T>& map, CudaBlocks blocks, T* partial, T* dweight, void* stream) {
  const int types = map.types.count;
  const int64_t tiles =
      lay_out(blocks, map.atoms, true, [&](int64_t rows) { return most_slices(rows, types); });
  launch("block_linear_weight", slice_kernel<T>, tiles, kThreads, 0, stream, map, blocks, partial);
  for (int k = 0; k < blocks.count; ++k) {
    const CudaBlock& b = blocks.block[k];
    const int64_t numbers = int64_t(types) * b.from * b.to;
    launch("block_linear_weight", slice_sum_kernel<T>, (numbers + kThreads - 1) / kThreads, kThreads, 0,
           stream, map, b, partial, dweight);
  }
}

template void map_rows(const CudaMap<float>&, CudaBlocks, const float*, bool, void*);
template void map_rows(const CudaMap<double>&, CudaBlocks, const double*, bool, void*);
template void weight_gradient(const CudaMap<float>&, CudaBlocks, float*, float*, void*);
template void weight_gradient(const CudaMap<double>&, CudaBlocks, double*, double*, void*);

}  // namespace uqforce::linear_map
