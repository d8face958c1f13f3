// The neighbour list on the CPU: bins, then two walks over all centres, one to count and one to write.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "neighbor_list/grid.h"
#include "neighbor_list/op.h"

namespace uqforce {
namespace {

// Centres handed to a thread at a time.
constexpr int64_t kGrain = 128;

// First atom of each structure, and the number of atoms at the end.
std::vector<int64_t> structure_starts(const OptionalTensor& batch, int64_t num_atoms,
                                      int64_t num_structures) {
  std::vector<int64_t> start(num_structures + 1, 0);
  if (batch) {
    const at::Tensor contiguous = batch->contiguous();
    const int64_t* of_atom = contiguous.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < num_atoms; ++i) {
      TORCH_CHECK_VALUE(of_atom[i] >= 0 && of_atom[i] < num_structures, "batch[", i, "] is ", of_atom[i],
                        " but cell holds ", num_structures, " structures: use 0 to ", num_structures - 1);
      TORCH_CHECK_VALUE(i == 0 || of_atom[i] >= of_atom[i - 1], "batch[", i, "] is ", of_atom[i], " after ",
                        of_atom[i - 1], ": batch must ascend; sort the atoms by structure");
      ++start[of_atom[i] + 1];
    }
    for (int64_t b = 0; b < num_structures; ++b) start[b + 1] += start[b];
  } else {
    start[num_structures] = num_atoms;
  }
  return start;
}

template <typename T>
struct Structure {
  Grid grid;
  const T* positions;  // of its first atom
  const T* cell;
  const int32_t* wrap;
  int64_t first_atom;
};

// What one thread needs, kept from centre to centre.
struct Scratch {
  std::vector<Range> ranges;
  std::vector<int32_t> ranks;
  int64_t bin = -1;
};

template <typename T>
void edge_to(const Structure<T>& structure, int32_t atom, const Image& image, int64_t* shift, T* vec) {
  for (int k = 0; k < 3; ++k) shift[k] = int64_t(structure.wrap[3 * atom + k]) + image.shift[k];
  edge_vector(structure.positions + 3 * atom, structure.positions + 3 * image.atom, shift, structure.cell,
              vec);
}

// The rule: |edge_vec| < cutoff, of the edge vector as it is returned.
template <typename T>
bool is_pair(const Structure<T>& structure, int32_t atom, const Image& image, double cutoff) {
  int64_t shift[3];
  T vec[3];
  edge_to(structure, atom, image, shift, vec);
  const double x = vec[0], y = vec[1], z = vec[2];
  return x * x + y * y + z * z < cutoff * cutoff;
}

// Ranks of all images within the cutoff of a centre, itself included, in no order.
template <typename T>
void search(const Structure<T>& structure, const Centre& centre, double cutoff, Scratch& scratch) {
  const Grid& grid = structure.grid;
  if (scratch.bin != centre.bin) {
    grid.ranges(centre.bin, scratch.ranges);
    scratch.bin = centre.bin;
  }
  scratch.ranks.clear();
  const int32_t atom = grid.images[grid.rank[centre.slot]].atom;
  const float x = grid.x[centre.slot], y = grid.y[centre.slot], z = grid.z[centre.slot];
  for (const Range& range : scratch.ranges) {
    for (int64_t s = range.begin; s < range.end; ++s) {
      const float dx = grid.x[s] - x, dy = grid.y[s] - y, dz = grid.z[s] - z;
      const float squared = dx * dx + dy * dy + dz * dz;
      if (squared > grid.outside) continue;
      const bool certain = squared < grid.inside;
      if (certain || is_pair(structure, atom, grid.images[grid.rank[s]], cutoff)) {
        scratch.ranks.push_back(grid.rank[s]);
      }
    }
  }
}

// Calls f(structure, centre, scratch) for all centres, on all threads.
template <typename T, typename F>
void for_each_centre(const std::vector<Structure<T>>& structures, const std::vector<int64_t>& start, F f) {
  at::parallel_for(0, start.back(), kGrain, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    int64_t b = std::upper_bound(start.begin(), start.end(), begin) - start.begin() - 1;
    for (int64_t c = begin; c < end; ++c) {
      while (c >= start[b + 1]) ++b, scratch.bin = -1;
      f(structures[b], structures[b].grid.centres[c - start[b]], scratch);
    }
  });
}

template <typename T>
std::tuple<at::Tensor, at::Tensor, at::Tensor> neighbor_list_typed(const at::Tensor& positions,
                                                                   const at::Tensor& cell,
                                                                   const at::Tensor& pbc, double cutoff,
                                                                   const OptionalTensor& batch) {
  const int64_t num_atoms = positions.size(0), num_structures = cell.size(0);
  const std::vector<int64_t> start = structure_starts(batch, num_atoms, num_structures);
  std::vector<int32_t> wrap(3 * num_atoms);
  std::vector<Structure<T>> structures(num_structures);
  at::parallel_for(0, num_structures, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const T* first = positions.const_data_ptr<T>() + 3 * start[b];
      const T* box = cell.const_data_ptr<T>() + 9 * b;
      int32_t* moved = wrap.data() + 3 * start[b];
      structures[b] = {build_grid(first, start[b + 1] - start[b], box, pbc.const_data_ptr<bool>() + 3 * b,
                                  cutoff, moved, start[b], b),
                       first, box, moved, start[b]};
    }
  });

  std::vector<int64_t> offset(num_atoms + 1, 0);
  for_each_centre(structures, start,
                  [&](const Structure<T>& structure, const Centre& centre, Scratch& scratch) {
                    const int64_t atom = structure.grid.images[structure.grid.rank[centre.slot]].atom;
                    search(structure, centre, cutoff, scratch);
                    offset[structure.first_atom + atom + 1] = scratch.ranks.size() - 1;
                  });
  for (int64_t i = 0; i < num_atoms; ++i) offset[i + 1] += offset[i];

  const int64_t num_edges = offset[num_atoms];
  const auto integers = positions.options().dtype(at::kLong);
  at::Tensor edge_index = at::empty({2, num_edges}, integers);
  at::Tensor cell_shift = at::empty({num_edges, 3}, integers);
  at::Tensor edge_vec = at::empty({num_edges, 3}, positions.options());
  int64_t* centre_of = edge_index.mutable_data_ptr<int64_t>();
  int64_t* shifts = cell_shift.mutable_data_ptr<int64_t>();
  T* vecs = edge_vec.mutable_data_ptr<T>();
  for_each_centre(structures, start,
                  [&](const Structure<T>& structure, const Centre& centre, Scratch& scratch) {
                    const Grid& grid = structure.grid;
                    const int32_t own = grid.rank[centre.slot];
                    const int32_t atom = grid.images[own].atom;
                    search(structure, centre, cutoff, scratch);
                    std::sort(scratch.ranks.begin(), scratch.ranks.end());
                    int64_t e = offset[structure.first_atom + atom];
                    for (int32_t rank : scratch.ranks) {
                      if (rank == own) continue;
                      const Image& image = grid.images[rank];
                      centre_of[e] = structure.first_atom + atom;
                      centre_of[num_edges + e] = structure.first_atom + image.atom;
                      edge_to(structure, atom, image, shifts + 3 * e, vecs + 3 * e);
                      ++e;
                    }
                  });
  return {edge_index, cell_shift, edge_vec};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> neighbor_list_cpu(const at::Tensor& positions,
                                                                 const at::Tensor& cell,
                                                                 const at::Tensor& pbc, double cutoff,
                                                                 const OptionalTensor& batch) {
  check_neighbor_list(positions, cell, pbc, cutoff, batch);
  return AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "neighbor_list", [&] {
    return neighbor_list_typed<scalar_t>(positions.contiguous(), cell.contiguous(), pbc.contiguous(), cutoff,
                                         batch);
  });
}

}  // namespace
}  // namespace uqforce

TORCH_LIBRARY_IMPL(uqforce, CPU, m) { m.impl("neighbor_list", &uqforce::neighbor_list_cpu); }
