// What the CUDA kernels of the neighbour list share: the atoms in the bins of their structure's grid.
//
// Sizes are known beforehand: bins are at most kBinsPerAtom times the atoms. A structure with more, because
// it is mostly empty, has them hashed. What has a fault is skipped by all kernels that follow.
#pragma once

#include "common/cuda_layout.h"
#include "common/cuda_sort.h"
#include "neighbor_list/cuda.h"
#include "neighbor_list/frame.h"

namespace uqforce::neighbor_list {

constexpr int64_t kBinsPerAtom = 4;
constexpr int kBounds = 10;  // of a structure's atoms

struct Grid {
  Frame frame;
  double origin[3], per_unit[3];  // bin k of fractional coordinate f is (f - origin) * per_unit
  double middle[3];               // of the region, A
  float inside, outside;          // squared distances that float32 is sure about
  int bins[3], reach[3];          // number of bins, and how many to look at on either side
  int image[3], images[3];        // the lowest image looked at, and how many
  int runs[3];                    // of bins: their number along each axis
  bool pbc[3], hashed;
  int64_t table, table_size;  // the structure's part of `start`
};

template <typename T>
struct Arrays {
  Problem<T> given;
  int64_t* first_atom;           // [structures + 1]
  unsigned long long* bounds;    // [structures, kBounds], ordered as numbers are
  Grid* grids;                   // [structures]
  uint32_t *keys, *sorted_keys;  // [atoms]: places in `start`
  uint32_t *atoms, *order;       // [atoms]: the atom in each slot, before and after the sort
  uint32_t* start;               // first slot of each bin, one more at the end
  float4* points;                // [slots], relative to the middle
  int* bin;                      // [slots, 3]
  int* wrap;                     // [atoms, 3]: whole cells by which they were moved
  void* workspace;               // of sums and sorts
  int64_t bytes;

  explicit Arrays(const Problem<T>& problem) : given(problem) {
    Layout layout(problem.workspace);
    const int64_t n = problem.atoms, b = problem.structures;
    first_atom = layout.take<int64_t>(b + 1);
    bounds = layout.take<unsigned long long>(b * kBounds);
    grids = layout.take<Grid>(b);
    for (uint32_t** array : {&keys, &sorted_keys, &atoms, &order}) *array = layout.take<uint32_t>(n);
    start = layout.take<uint32_t>(table_size() + 1);
    points = layout.take<float4>(n);
    bin = layout.take<int>(3 * n);
    wrap = layout.take<int>(3 * n);
    workspace = layout.take<char>(sum_bytes(n + 1) + sort_bytes(n));
    bytes = layout.bytes();
  }
  __host__ __device__ int64_t table_size() const { return kBinsPerAtom * given.atoms + given.structures; }
  __device__ int64_t structure(int64_t atom) const { return given.batch ? given.batch[atom] : 0; }
  __device__ unsigned long long* fault() const {
    return reinterpret_cast<unsigned long long*>(given.first_edge + given.atoms + 1);
  }
  __device__ bool failed() const { return *fault() != kNoFault; }
  __device__ void fail(Fault what, int64_t where) const {
    atomicMin(fault(),
              static_cast<unsigned long long>(what) << kFaultBits | static_cast<unsigned long long>(where));
  }
};

__device__ inline int floor_divide(int value, int by) { return value / by - (value % by < 0 ? 1 : 0); }

// Place of a bin in the structure's part of the table.
__device__ inline int place_of(const Grid& grid, const int (&bin)[3]) {
  if (!grid.hashed) return (bin[0] * grid.bins[1] + bin[1]) * grid.bins[2] + bin[2];
  unsigned hash = 0;
  for (const int b : bin) {
    hash = (hash ^ unsigned(b)) * 0x9e3779b1u;
    hash ^= hash >> 15;
  }
  return int(hash % unsigned(grid.table_size));
}

// Fills the arrays.
template <typename T>
void make_bins(const Arrays<T>& arrays, void* stream);

}  // namespace uqforce::neighbor_list
