// The atoms of one structure, with the periodic images that can be neighbours, sorted into bins.
//
// Images are atoms in their own right here, so a search is a walk over a box of bins and knows nothing of
// periodicity. An image's rank, its place in the order (atom, shift), is the order in which the neighbours of
// any centre are returned: to sort a centre's neighbours is to sort integers.
#pragma once

#include <cstdint>
#include <vector>

namespace uqforce {

struct Image {
  int32_t atom;      // within the structure
  int32_t shift[3];  // the edge from atom i has cell_shift = wrap[i] + shift
};

// An atom of the structure itself, to be a centre.
struct Centre {
  int64_t bin;
  int32_t slot;  // where it stands in x, y, z
};

// A run of slots.
struct Range {
  int64_t begin, end;
};

struct Grid {
  std::vector<Image> images;    // by rank
  std::vector<float> x, y, z;   // by slot (bin after bin), relative to the grid's corner
  std::vector<int32_t> rank;    // by slot
  std::vector<Centre> centres;  // by slot
  int64_t bins[3], reach[3];    // number of bins, and how many to look at on either side
  std::vector<int64_t> start;   // dense: first slot of each bin, one more at the end
  std::vector<int64_t> bin_of;  // sparse: bin of each slot, ascending
  // Squared distances of the float32 coordinates: below `inside` a pair is certain, above `outside` excluded,
  // in between the exact rule decides.
  float inside, outside;

  // Slots of the bins around `bin`, as runs along the last axis.
  void ranges(int64_t bin, std::vector<Range>& out) const;

 private:
  int64_t first_slot(int64_t bin) const;
};

// Builds the grid of one structure and fills wrap [num_atoms, 3]: whole cells by which each atom was moved.
// Errors: positions or cell not finite, no volume, too many images. `first_atom` and `structure` are for
// these.
template <typename T>
Grid build_grid(const T* positions, int64_t num_atoms, const T* cell, const bool* pbc, double cutoff,
                int32_t* wrap, int64_t first_atom, int64_t structure);

}  // namespace uqforce
