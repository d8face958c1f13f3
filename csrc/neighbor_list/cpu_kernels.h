// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include <cstdint>

namespace uqforce::neighbor_list {

// Points beyond the last that may be read, but never count.
constexpr int64_t kPadding = 16;

// Float32 coordinates of the images and their ranks.
struct Points {
  const float *x, *y, *z;
  const int32_t* rank;
};

// A run of points.
struct Range {
  int64_t begin, end;
};

// Squared distances: a pair below `inside` is certain, one above `outside` is none; in between float32 cannot
// tell, and the exact rule decides.
struct Limits {
  float inside, outside;
};

// Neighbours as they are found: slots, and the ranks to sort them by. Room for all points searched and
// kPadding.
struct Matches {
  int32_t *slot, *rank;
};

// Coordinates of the atoms of a small structure that is not periodic, compared all with all. NaN follows the
// last one, up to a multiple of 8.
constexpr int64_t kMaxMolecule = 256;
struct Molecule {
  alignas(64) double x[kMaxMolecule], y[kMaxMolecule], z[kMaxMolecule];
  int64_t num_atoms;
};

struct Kernels {
  // Finds the points of the ranges that are certain neighbours of the point `centre`, without itself, and
  // returns their number. The slots of the doubtful ones go to `doubtful`, their number to `num_doubtful`.
  int64_t (*find)(const Points&, const Range* ranges, int64_t num_ranges, int64_t centre, Limits,
                  Matches found, int32_t* doubtful, int64_t* num_doubtful);

  // sorted [n] = the slots in the order of their ranks, by comparing all with all: for short lists.
  void (*sort)(Matches found, int64_t n, int32_t* sorted);

  // Sets bit j of near [words] where atom j is a certain neighbour of atom i, and returns how many are; -1 if
  // the exact rule has to decide, because a squared distance lies between `inside` and `outside`.
  int64_t (*find_in_molecule)(const Molecule&, int64_t i, double inside, double outside, uint64_t* near);
};

extern const Kernels kernels_baseline, kernels_avx2, kernels_avx512;

}  // namespace uqforce::neighbor_list
