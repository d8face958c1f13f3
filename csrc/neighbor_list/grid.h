// The atoms of one structure, with the periodic images that can be neighbours, sorted into bins.
//
// Images are atoms in their own right here, so a search is a walk over a box of bins and knows nothing of
// periodicity. They are kept in slots, bin after bin. An image's rank, its place in the order (atom, shift),
// is the order in which the neighbours of any centre are returned: sorting them is sorting integers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/pool.h"
#include "neighbor_list/cpu_kernels.h"
#include "neighbor_list/op.h"

namespace uqforce::neighbor_list {

template <typename T>
struct Grid {
  // By slot.
  std::span<End<T>> images;
  std::span<float> x, y, z;  // relative to the middle of the images
  std::span<int32_t> rank;
  std::span<int64_t> bin;

  std::span<int32_t> centres;  // slots of the structure's own atoms, ascending
  int64_t bins[3], reach[3];   // number of bins, and how many to look at on either side
  std::span<int32_t> start;    // first slot of each bin, one more at the end; absent if most bins are empty
  Limits limits;
  Cell<T> cell;

  Points points() const { return {x.data(), y.data(), z.data(), rank.data()}; }
  bool has_one_bin() const {
    return bins[0] * bins[1] * bins[2] == 1;
  }  // then slots are in the order of ranks

  // Slots of the bins around `bin`, as runs along the last axis. Returns how many slots these are.
  int64_t ranges(int64_t bin, std::vector<Range>& out) const;

 private:
  int64_t first_slot(int64_t bin) const;
};

// Builds the grid of one structure in memory of the arena. Errors: positions or cell not finite, no volume,
// too many images. `first_atom` is where the structure begins: positions are those of all structures.
template <typename T>
Grid<T> build_grid(const T* positions, int64_t first_atom, int64_t num_atoms, const T* cell, const bool* pbc,
                   double cutoff, int64_t structure, Arena& arena);

}  // namespace uqforce::neighbor_list
