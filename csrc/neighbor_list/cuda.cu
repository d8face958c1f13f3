// CUDA kernels of the neighbour list.
//
// Atoms are sorted by the bins of their structure's grid. A warp takes a centre and walks over the bins
// around it, bins along the last axis as one run; periodic images are bins beyond the grid's ends. Float32
// decides about most pairs, the exact rule (op.h) about those near the cutoff. The first walk counts, the
// second writes: keys (neighbour, image) are sorted within the warp, and become edges.
#include "common/cuda.h"
#include "neighbor_list/cuda.h"
#include "neighbor_list/cuda_edge.h"
#include "neighbor_list/cuda_grid.h"

namespace uqforce::neighbor_list {
namespace {

constexpr int kWarps = 4;        // centres of a block
constexpr int kShortList = 128;  // neighbours that are sorted in shared memory
constexpr int kImageBits = 32;   // of a key; the other half is the atom

// Bins that stand side by side, of one image of the cell.
struct Run {
  uint32_t begin = 0, end = 0;  // slots
  float centre[3];              // the centre relative to the middle of that image
  int image;                    // its number
  int bin[3];                   // the first bin
};

// A centre's run `number`.
__device__ Run run_of(const Grid& grid, const uint32_t* start, const int* bin, const double (&centre)[3],
                      int number) {
  const int third = number % grid.runs[2], rest = number / grid.runs[2];
  const int offset[3] = {rest / grid.runs[1] - grid.reach[0], rest % grid.runs[1] - grid.reach[1],
                         third - grid.reach[2]};
  int image[3] = {}, length = 1;
  Run run;
  for (int k = 0; k < 3; ++k) {
    if (k == 2 && !grid.hashed) continue;
    const int at = bin[k] + offset[k];
    if (unsigned(at) >= unsigned(grid.bins[k])) {  // few need the division
      if (grid.pbc[k]) {
        image[k] = floor_divide(at, grid.bins[k]);
      } else if (!grid.hashed) {
        return {};
      }
    }
    run.bin[k] = at - image[k] * grid.bins[k];
  }
  if (!grid.hashed) {
    image[2] = grid.image[2] + third;
    const int first = image[2] * grid.bins[2], low = max(bin[2] - grid.reach[2], first),
              high = min(bin[2] + grid.reach[2], first + grid.bins[2] - 1);
    if (low > high) return {};
    run.bin[2] = low - first;
    length = high - low + 1;
  }
  const uint32_t* slots = start + grid.table + place_of(grid, run.bin);
  run.begin = slots[0];
  run.end = slots[length];
  for (int c = 0; c < 3; ++c) {
    double at = centre[c];
    for (int k = 0; k < 3; ++k) at -= image[k] * grid.frame.rows[k][c];
    run.centre[c] = float(at);
  }
  run.image = 0;
  for (int k = 0; k < 3; ++k) run.image = run.image * grid.images[k] + image[k] - grid.image[k];
  return run;
}

constexpr size_t kRunBytes = kWarps * kWarp * sizeof(Run);  // of a block, in shared memory

// What a warp knows of its centre.
template <typename T>
struct Centre {
  const Arrays<T>& a;
  const Grid& grid;
  int64_t atom, structure;

  // From the centre to an image of an atom.
  __device__ void edge(int64_t other, int image, int64_t (&shift)[3], T (&vec)[3]) const {
    const int c = image % grid.images[2], rest = image / grid.images[2];
    const int number[3] = {rest / grid.images[1], rest % grid.images[1], c};
    for (int k = 0; k < 3; ++k) {
      shift[k] = int64_t(number[k]) + grid.image[k] - a.wrap[3 * other + k] + a.wrap[3 * atom + k];
    }
    edge_vector(a.given.positions + 3 * atom, a.given.positions + 3 * other, shift,
                a.given.cell + 9 * structure, vec);
  }

  // The rule: |edge_vec| < cutoff, of the edge vector as it is returned.
  __device__ bool is_pair(int64_t other, int image) const {
    int64_t shift[3];
    T vec[3];
    edge(other, image, shift, vec);
    const double x = vec[0], y = vec[1], z = vec[2], cutoff = a.given.cutoff;
    return plus(plus(times(x, x), times(y, y)), times(z, z)) < times(cutoff, cutoff);
  }
};

// Sorts n keys; the network of Batcher's bitonic sort in which all comparators point upwards, so that what is
// beyond the last key needs no place.
__device__ void sort_keys(uint64_t* keys, int n, int lane) {
  const auto compare = [=](int low, int high) {
    if (high >= n) return;
    const uint64_t a = keys[low], b = keys[high];
    if (a <= b) return;
    keys[low] = b;
    keys[high] = a;
  };
  for (int half = 1; half < n; half *= 2) {
    const int pairs = (n + 2 * half - 1) / (2 * half) * half;
    for (int p = lane; p < pairs; p += kWarp) {
      const int r = p & (half - 1), block = 2 * (p - r);
      compare(block + r, block + 2 * half - 1 - r);
    }
    __syncwarp();
    for (int step = half / 2; step > 0; step /= 2) {
      for (int p = lane; p < pairs; p += kWarp) {
        const int low = 2 * p - (p & (step - 1));
        compare(low, low + step);
      }
      __syncwarp();
    }
  }
}

// What a warp has in shared memory to write edges.
template <typename T>
struct Staged {
  uint64_t keys[kShortList];
  int64_t shift[3 * kWarp];
  T vec[3 * kWarp];
};

// Writes the edges of n sorted keys from edge `first` on; rows of three by neighbouring lanes.
template <typename T>
__device__ void write_edges(const Centre<T>& centre, const uint64_t* keys, int n, int64_t first, int lane,
                            Staged<T>& staged, const EdgeList<T>& out) {
  for (int done = 0; done < n; done += kWarp) {
    const int count = min(n - done, kWarp);
    if (lane < count) {
      const uint64_t key = keys[done + lane];
      const int64_t other = int64_t(key >> kImageBits);
      int64_t shift[3];
      T vec[3];
      centre.edge(other, int(uint32_t(key)), shift, vec);
      out.centre[first + done + lane] = centre.atom;
      out.neighbor[first + done + lane] = other;
      for (int k = 0; k < 3; ++k) {
        staged.shift[3 * lane + k] = shift[k];
        staged.vec[3 * lane + k] = vec[k];
      }
    }
    __syncwarp();
    for (int k = lane; k < 3 * count; k += kWarp) {
      out.shift[3 * (first + done) + k] = staged.shift[k];
      out.vec[3 * (first + done) + k] = staged.vec[k];
    }
    __syncwarp();
  }
}

template <typename T, bool kWrite>
__global__ void __launch_bounds__(kWarps* kWarp, 8) search(Arrays<T> a, EdgeList<T> out) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t slot = int64_t(blockIdx.x) * kWarps + warp;
  if (slot >= a.given.atoms) return;
  if (a.failed()) {
    if (!kWrite && lane == 0) a.given.first_edge[slot] = 0;
    return;
  }
  const float4 own = a.points[slot];
  const int64_t atom = __float_as_int(own.w), structure = a.structure(atom);
  const Grid& grid = a.grids[structure];
  const Centre<T> centre{a, grid, atom, structure};
  const int* bin = a.bin + 3 * slot;
  Run* const found_runs = shared_memory<Run>() + warp * kWarp;
  Staged<T>* const staged = reinterpret_cast<Staged<T>*>(shared_memory<Run>() + kWarps * kWarp) + warp;
  double at[3];
  for (int c = 0; c < 3; ++c) {
    at[c] = double(a.given.positions[3 * atom + c]) - grid.middle[c];
    for (int k = 0; k < 3; ++k) at[c] -= a.wrap[3 * atom + k] * grid.frame.rows[k][c];
  }
  int own_image = 0;
  for (int k = 0; k < 3; ++k) own_image = own_image * grid.images[k] - grid.image[k];

  int64_t first = 0;
  int n = 0;
  uint64_t* keys = nullptr;
  if constexpr (kWrite) {
    first = a.given.first_edge[atom];
    const int64_t size = a.given.first_edge[atom + 1] - first;
    // Long lists stand where their shifts will: at the end, so that writing the first spares the last.
    keys = size <= kShortList ? staged->keys : reinterpret_cast<uint64_t*>(out.shift + 3 * first) + 2 * size;
  }
  const int runs = grid.runs[0] * grid.runs[1] * grid.runs[2];
  for (int base = 0; base < runs; base += kWarp) {
    Run mine;
    if (base + lane < runs) mine = run_of(grid, a.start, bin, at, base + lane);
    __syncwarp();  // nobody reads the last ones any more
    found_runs[lane] = mine;
    __syncwarp();
    for (unsigned left = __ballot_sync(kAll, mine.begin < mine.end); left != 0; left &= left - 1) {
      const Run& run = found_runs[__ffs(int(left)) - 1];
      for (uint32_t begin = run.begin; begin < run.end; begin += kWarp) {
        const uint32_t other_slot = begin + lane;
        bool found = false;
        int64_t other = 0;
        if (other_slot < run.end && !(run.image == own_image && other_slot == slot)) {
          const float4 point = a.points[other_slot];
          const float dx = point.x - run.centre[0], dy = point.y - run.centre[1],
                      dz = point.z - run.centre[2];
          const float squared = dx * dx + dy * dy + dz * dz;
          other = __float_as_int(point.w);
          found = squared < grid.inside || (!(squared > grid.outside) && centre.is_pair(other, run.image));
          if (found && grid.hashed) {  // other bins may have the same place
            const int* its = a.bin + 3 * int64_t(other_slot);
            found = its[0] == run.bin[0] && its[1] == run.bin[1] && its[2] == run.bin[2];
          }
        }
        if constexpr (kWrite) {
          const unsigned all = __ballot_sync(kAll, found);
          if (found)
            keys[n + __popc(all & ((1u << lane) - 1))] = uint64_t(other) << kImageBits | uint32_t(run.image);
          n += __popc(all);
        } else {
          n += found;
        }
      }
    }
  }
  if constexpr (kWrite) {
    __syncwarp();
    sort_keys(keys, n, lane);
    write_edges(centre, keys, n, first, lane, *staged, out);
  } else {
    for (int other = kWarp / 2; other > 0; other /= 2) n += __shfl_xor_sync(kAll, n, other);
    if (lane == 0) a.given.first_edge[atom] = n;
  }
}

}  // namespace

template <typename T>
void count(const Problem<T>& problem, void* stream) {
  const Arrays<T> a(problem);
  make_bins(a, stream);
  const int64_t n = problem.atoms;
  launch("neighbor_list", search<T, false>, blocks_of(n, kWarps), kWarps * kWarp, kRunBytes, stream, a,
         EdgeList<T>{});
  exclusive_sum(problem.first_edge, n + 1, a.workspace, stream);
}

template <typename T>
void write(const Problem<T>& problem, const EdgeList<T>& edges, void* stream) {
  launch("neighbor_list", search<T, true>, blocks_of(problem.atoms, kWarps), kWarps * kWarp,
         kRunBytes + kWarps * sizeof(Staged<T>), stream, Arrays<T>(problem), edges);
}

template void count(const Problem<float>&, void*);
template void count(const Problem<double>&, void*);
template void write(const Problem<float>&, const EdgeList<float>&, void*);
template void write(const Problem<double>&, const EdgeList<double>&, void*);

}  // namespace uqforce::neighbor_list
