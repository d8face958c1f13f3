// The atoms of all structures, sorted by the bins of their structures' grids.
#include <cmath>

#include "common/cuda.h"
#include "neighbor_list/cuda_grid.h"

namespace uqforce::neighbor_list {
namespace {

constexpr int kAtomsPerLane = 8;     // whose bounds a lane joins before the warp does
constexpr int64_t kBruteForce = 64;  // so many atoms stand in one bin
constexpr int kSubdivision = 4;  // of bins along the last axis: they stand side by side, so less is searched
constexpr double kMaxBinsPerAxis = 1 << 20;
constexpr double kFarthestBin = 1 << 30;         // of hashed ones
constexpr double kMaxRuns = 2e9;                 // around a centre
constexpr int64_t kMaxAtoms = int64_t(1) << 29;  // places in the table are int32

// Bounds of a structure's atoms; all are maxima.
enum Bound { kLow = 0, kHigh = 3, kSize = 6, kWraps = 7 };

// Whole numbers in the order of the doubles.
__device__ unsigned long long ordered(double x) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(x));
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}
__device__ double from_ordered(unsigned long long bits) {
  return __longlong_as_double(static_cast<long long>(bits >> 63 ? bits & ~(1ull << 63) : ~bits));
}

// Thread i in [0, atoms]: the structures that begin with atom i. Also the fault's first value.
template <typename T>
__global__ void find_structures(Arrays<T> a) {
  const int64_t i = global_thread(), n = a.given.atoms, structures = a.given.structures;
  if (i > n) return;
  const auto valid = [=](int64_t b) { return 0 <= b && b < structures; };
  const int64_t before = i == 0 ? -1 : a.structure(i - 1), now = i == n ? structures : a.structure(i);
  if (i < n && !valid(now)) return a.fail(Fault::structure, i);
  if (i > 0 && !valid(before)) return;
  if (now < before) return a.fail(Fault::order, i);
  for (int64_t b = before + 1; b <= now; ++b) a.first_atom[b] = i;
}

template <typename T>
__global__ void make_frames(Arrays<T> a) {
  const int64_t b = global_thread();
  if (b >= a.given.structures) return;
  const T* cell = a.given.cell + 9 * b;
  const bool* pbc = a.given.pbc + 3 * b;
  for (int k = 0; k < 9; ++k) {
    if (!isfinite(cell[k])) return a.fail(Fault::cell, b);
  }
  a.grids[b].frame = make_frame(cell, pbc);
  for (int k = 0; k < 3; ++k) a.grids[b].pbc[k] = pbc[k];
  if (!(a.grids[b].frame.volume > kMinVolume)) a.fail(Fault::volume, b);
}

// An atom moved into the cell.
struct Wrapped {
  double at[3];  // fractional
  int cells[3];
};

template <typename T>
__device__ Wrapped wrapped(const Arrays<T>& a, int64_t atom, const Grid& grid) {
  const T* given = a.given.positions + 3 * atom;
  const Vec r = {double(given[0]), double(given[1]), double(given[2])};
  Wrapped result;
  for (int k = 0; k < 3; ++k) {
    const double f = dot(grid.frame.inverse[k], r);
    result.cells[k] = grid.pbc[k] ? int(floor(f)) : 0;
    result.at[k] = f - result.cells[k];
  }
  return result;
}

template <typename T>
__device__ void join_bounds(const Arrays<T>& a, int64_t structure, const double (&bounds)[kBounds]) {
  for (int k = 0; k < kBounds; ++k) atomicMax(a.bounds + structure * kBounds + k, ordered(bounds[k]));
}

template <typename T>
__global__ void find_bounds(Arrays<T> a) {
  if (__any_sync(kAll, a.failed())) return;  // of the warp together: other warps may find faults meanwhile
  const int lane = threadIdx.x % kWarp;
  const int64_t first = global_thread() / kWarp * kWarp * kAtomsPerLane;
  double most[kBounds];
  int64_t current = -1;
  for (int64_t i = first + lane; i < first + kWarp * kAtomsPerLane && i < a.given.atoms; i += kWarp) {
    const T* r = a.given.positions + 3 * i;
    const int64_t b = a.structure(i);
    const Grid& grid = a.grids[b];
    if (!isfinite(r[0]) || !isfinite(r[1]) || !isfinite(r[2])) {
      a.fail(Fault::position, i);
      continue;
    }
    const Vec at = {double(r[0]), double(r[1]), double(r[2])};
    bool far = false;
    for (int k = 0; k < 3; ++k) far |= grid.pbc[k] && !(fabs(dot(grid.frame.inverse[k], at)) < kMaxWrap);
    if (far) {
      a.fail(Fault::distance, i);
      continue;
    }
    const Wrapped atom = wrapped(a, i, grid);
    if (b != current) {
      if (current >= 0) join_bounds(a, current, most);
      for (double& bound : most) bound = -INFINITY;
      current = b;
    }
    for (int k = 0; k < 3; ++k) {
      most[kLow + k] = max(most[kLow + k], -atom.at[k]);
      most[kHigh + k] = max(most[kHigh + k], atom.at[k]);
      most[kSize] = max(most[kSize], fabs(at[k]));
      most[kWraps + k] = max(most[kWraps + k], fabs(double(atom.cells[k])));
    }
  }
  const int64_t of_first = __shfl_sync(kAll, current, 0);
  if (!__all_sync(kAll, current == of_first)) {
    if (current >= 0) join_bounds(a, current, most);
    return;
  }
  if (current < 0) return;
  for (double& bound : most) {
    for (int other = kWarp / 2; other > 0; other /= 2) {
      bound = max(bound, __shfl_xor_sync(kAll, bound, other));
    }
  }
  if (lane == 0) join_bounds(a, current, most);
}

// Bins along each axis, at least `reach` wide over `subdivision`; whether there is room for them.
__device__ bool choose_bins(Grid& grid, double reach, const double (&length)[3], bool subdivide, bool one) {
  int64_t all = 1;
  for (int k = 0; k < 3; ++k) {
    const double bins = length[k] * grid.frame.height[k] / reach * (subdivide && k == 2 ? kSubdivision : 1);
    grid.bins[k] = one ? 1 : int(fmin(fmax(bins, 1.0), kMaxBinsPerAxis));
    grid.per_unit[k] = grid.bins[k] == 1 && !grid.pbc[k] ? 0 : grid.bins[k] / length[k];
    all *= grid.bins[k];
  }
  return all <= grid.table_size;
}

template <typename T>
__global__ void make_grids(Arrays<T> a) {
  const int64_t b = global_thread();
  if (b >= a.given.structures || a.failed()) return;
  Grid& grid = a.grids[b];
  const int64_t atoms = a.first_atom[b + 1] - a.first_atom[b];
  grid.table = kBinsPerAtom * a.first_atom[b] + b;
  grid.table_size = kBinsPerAtom * atoms + 1;
  a.given.images[b] = 0;
  if (atoms == 0) return;
  double bounds[kBounds];
  for (int k = 0; k < kBounds; ++k) bounds[k] = from_ordered(a.bounds[b * kBounds + k]);
  const Frame& frame = grid.frame;
  double size = bounds[kSize], images = double(atoms), half_size = 0, length[3];
  for (const Vec& row : frame.rows) size += norm(row);
  const double cutoff = a.given.cutoff, reach = with_rounding(cutoff, size, frame.volume);
  double moved = cutoff;
  for (double& middle : grid.middle) middle = 0;
  for (int k = 0; k < 3; ++k) {
    const double beyond = reach / frame.height[k];
    const double low = grid.pbc[k] ? -beyond : -bounds[kLow + k],
                 high = grid.pbc[k] ? 1 + beyond : bounds[kHigh + k];
    if (grid.pbc[k]) {
      images *= high - low;
      moved += 2 * (bounds[kWraps + k] + 1 + beyond) * norm(frame.rows[k]);
    }
    length[k] = grid.pbc[k] ? 1 : fmax(high - low, 1e-300);
    grid.origin[k] = grid.pbc[k] ? 0 : low;
    for (int c = 0; c < 3; ++c) grid.middle[c] += (low + high) / 2 * frame.rows[k][c];
    half_size += (high - low) / 2 * norm(frame.rows[k]);
  }
  a.given.images[b] = images;
  if (!(images < kMaxImages)) return a.fail(Fault::images, b);

  const bool one = atoms <= kBruteForce;
  grid.hashed = !choose_bins(grid, reach, length, true, one) && !choose_bins(grid, reach, length, false, one);
  for (int k = 0; k < 3; ++k) {
    if (grid.hashed && !grid.pbc[k]) {  // as many as there may be, from 0 on
      grid.origin[k] = 0;
      grid.per_unit[k] = frame.height[k] / reach;
    }
    grid.reach[k] = int(ceil(reach / frame.height[k] * grid.per_unit[k]));
    grid.runs[k] = 2 * grid.reach[k] + 1;
    grid.image[k] = grid.pbc[k] ? floor_divide(-grid.reach[k], grid.bins[k]) : 0;
    grid.images[k] =
        grid.pbc[k] ? floor_divide(grid.bins[k] - 1 + grid.reach[k], grid.bins[k]) - grid.image[k] + 1 : 1;
  }
  if (!grid.hashed) grid.runs[2] = grid.images[2];
  double runs = 1, numbers = 1;
  for (int k = 0; k < 3; ++k) {
    runs *= grid.runs[k];
    numbers *= grid.images[k];
  }
  if (!(max(runs, numbers) < kMaxRuns)) return a.fail(Fault::images, b);
  const double squared = doubt<T>(cutoff, half_size, size, frame.volume, moved);
  grid.inside = float(cutoff * cutoff - squared);
  grid.outside = float(cutoff * cutoff + squared);
}

__device__ void bin_of(const Grid& grid, const Wrapped& atom, int (&bin)[3]) {
  for (int k = 0; k < 3; ++k) {
    const double at = (atom.at[k] - grid.origin[k]) * grid.per_unit[k];
    bin[k] = grid.hashed && !grid.pbc[k] ? int(floor(fmin(fmax(at, -kFarthestBin), kFarthestBin)))
                                         : int(fmin(fmax(at, 0.0), grid.bins[k] - 1.0));
  }
}

template <typename T>
__global__ void find_places(Arrays<T> a) {
  const int64_t i = global_thread();
  if (i >= a.given.atoms) return;
  a.atoms[i] = uint32_t(i);
  a.keys[i] = 0;
  if (a.failed()) return;
  const Grid& grid = a.grids[a.structure(i)];
  int bin[3];
  bin_of(grid, wrapped(a, i, grid), bin);
  a.keys[i] = uint32_t(grid.table + place_of(grid, bin));
}

// Fills what is kept by slots.
template <typename T>
__global__ void fill_slots(Arrays<T> a) {
  const int64_t slot = global_thread();
  if (slot >= a.given.atoms || a.failed()) return;
  const int64_t i = a.order[slot];
  const Grid& grid = a.grids[a.structure(i)];
  const Wrapped atom = wrapped(a, i, grid);
  int bin[3];
  bin_of(grid, atom, bin);
  double at[3];
  for (int c = 0; c < 3; ++c) {
    at[c] = double(a.given.positions[3 * i + c]) - grid.middle[c];
    for (int k = 0; k < 3; ++k) at[c] -= atom.cells[k] * grid.frame.rows[k][c];
  }
  a.points[slot] = {float(at[0]), float(at[1]), float(at[2]), __int_as_float(int(i))};
  for (int k = 0; k < 3; ++k) {
    a.bin[3 * slot + k] = bin[k];
    a.wrap[3 * i + k] = atom.cells[k];
  }
}

// start[place] = the number of slots whose place is lower.
template <typename T>
__global__ void fill_table(Arrays<T> a) {
  const int64_t place = global_thread();
  if (place > a.table_size() || a.failed()) return;
  int64_t low = 0, high = a.given.atoms;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    a.sorted_keys[middle] < place ? low = middle + 1 : high = middle;
  }
  a.start[place] = uint32_t(low);
}

// first_edge [atoms] = 0 is the number of edges where there are no atoms; the fault.
template <typename T>
__global__ void begin(Arrays<T> a) {
  a.given.first_edge[a.given.atoms] = 0;
  *a.fault() = kNoFault;
}

}  // namespace

int64_t workspace_bytes(int64_t atoms, int64_t structures) {
  if (atoms >= kMaxAtoms) {
    throw std::runtime_error("neighbor_list: " + std::to_string(atoms) +
                             " atoms are more than CUDA's list holds");
  }
  return Arrays<float>({.atoms = atoms, .structures = structures}).bytes;
}

template <typename T>
void make_bins(const Arrays<T>& a, void* stream) {
  const int64_t n = a.given.atoms, b = a.given.structures;
  const char* name = "neighbor_list";
  check_cuda(cudaMemsetAsync(a.bounds, 0, size_t(b) * kBounds * sizeof(*a.bounds),
                             static_cast<cudaStream_t>(stream)),
             name);
  launch(name, begin<T>, 1, 1, 0, stream, a);
  launch(name, find_structures<T>, blocks_of(n + 1), kThreads, 0, stream, a);
  launch(name, make_frames<T>, blocks_of(b, 64), 64, 0, stream, a);
  launch(name, find_bounds<T>, blocks_of(n, kThreads * kAtomsPerLane), kThreads, 0, stream, a);
  launch(name, make_grids<T>, blocks_of(b, 64), 64, 0, stream, a);
  launch(name, find_places<T>, blocks_of(n), kThreads, 0, stream, a);
  sort_by_key(a.keys, a.sorted_keys, a.atoms, a.order, n, bits_of(uint64_t(a.table_size())), a.workspace,
              stream);
  launch(name, fill_slots<T>, blocks_of(n), kThreads, 0, stream, a);
  launch(name, fill_table<T>, blocks_of(a.table_size() + 1), kThreads, 0, stream, a);
}

template void make_bins(const Arrays<float>&, void*);
template void make_bins(const Arrays<double>&, void*);

}  // namespace uqforce::neighbor_list
