// The atoms of one structure, with the periodic images that can be neighbours, sorted into bins.
//
// Images are atoms in their own right here, so a search is a walk over a box of bins and knows nothing of
// periodicity. They are kept in slots, bin after bin. An image's rank, its place in the order (atom, shift),
// is the order in which the neighbours of any centre are returned: sorting them is sorting integers.
#pragma once

#include <cstdint>
#include <vector>

#include "common/buffer.h"
#include "neighbor_list/cpu_kernels.h"

namespace uqforce::neighbor_list {

// What an edge needs: the position as given, not moved, and where the image stands. The edge between two
// images has cell_shift = neighbor.shift - centre.shift.
template <typename T>
struct Image {
  T position[3];
  int32_t atom;  // within the structure
  int32_t shift[3];
};

template <typename T>
struct Grid {
  // By slot.
  Buffer<Image<T>> images;
  Buffer<float> x, y, z;  // relative to the middle of the images
  Buffer<int32_t> rank;
  Buffer<int64_t> bin;

  Buffer<int32_t> centres;    // slots of the structure's own atoms, ascending
  int64_t bins[3], reach[3];  // number of bins, and how many to look at on either side
  Buffer<int32_t> start;      // first slot of each bin, one more at the end; absent if most bins are empty
  Limits limits;

  Points points() const { return {x.data(), y.data(), z.data(), rank.data()}; }

  // Slots of the bins around `bin`, as runs along the last axis. Returns how many slots these are.
  int64_t ranges(int64_t bin, std::vector<Range>& out) const;

 private:
  int64_t first_slot(int64_t bin) const;
};

// Builds the grid of one structure and fills wrap [num_atoms, 3]: whole cells by which each atom was moved.
// Errors: positions or cell not finite, no volume, too many images. `first_atom` and `structure` are for
// these.
template <typename T>
Grid<T> build_grid(const T* positions, int64_t num_atoms, const T* cell, const bool* pbc, double cutoff,
                   int64_t first_atom, int64_t structure);

}  // namespace uqforce::neighbor_list
