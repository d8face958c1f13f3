// Small structures that are not periodic: every atom is compared with every other, without bins, and a bit
// per pair kept until there is room for the edges.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "neighbor_list/cpu_kernels.h"
#include "neighbor_list/op.h"

namespace uqforce::neighbor_list {

// Words with a bit for every atom.
inline int64_t words(int64_t num_atoms) { return (num_atoms + 63) / 64; }

// Whether it is such a structure. What is not finite is left to the grid, which reports it.
template <typename T>
bool is_molecule(const T* positions, int64_t num_atoms, const T* cell, const bool* pbc) {
  if (num_atoms > kMaxMolecule || pbc[0] || pbc[1] || pbc[2]) return false;
  int finite = 1;
  for (int64_t k = 0; k < 3 * num_atoms; ++k)
    finite &= std::abs(positions[k]) <= std::numeric_limits<T>::max();
  for (int64_t k = 0; k < 9; ++k) finite &= std::abs(cell[k]) <= std::numeric_limits<T>::max();
  return finite != 0;
}

template <typename T>
class MoleculeSearch {
 public:
  MoleculeSearch(const T* positions, int64_t num_atoms, double cutoff, const Kernels& kernels)
      : positions_(positions), cutoff_(cutoff), kernels_(kernels) {
    constexpr int64_t kLanes = 8;
    molecule_.num_atoms = num_atoms;
    double* const axes[3] = {molecule_.x, molecule_.y, molecule_.z};
    for (int64_t i = 0; i < num_atoms; ++i) {
      for (int k = 0; k < 3; ++k) axes[k][i] = double(positions[3 * i + k]);
    }
    for (double* axis : axes) {
      for (int64_t i = num_atoms; i % kLanes != 0; ++i) axis[i] = std::numeric_limits<double>::quiet_NaN();
    }
  }

  // Sets the bits of the neighbours of atom i and returns how many there are.
  int64_t find(int64_t i, uint64_t* near) const {
    // What rounding the edge vector to T and another order of operations can change in the square, and more.
    constexpr double kRounding = 16 * double(std::numeric_limits<T>::epsilon());
    const double squared = cutoff_ * cutoff_, inside = squared * (1 - kRounding),
                 outside = squared * (1 + kRounding);
    const int64_t count = kernels_.find_in_molecule(molecule_, i, inside, outside, near);
    return count >= 0 ? count : find_exactly(i, near);
  }

 private:
  int64_t find_exactly(int64_t i, uint64_t* near) const {
    std::fill_n(near, words(molecule_.num_atoms), 0);
    int64_t count = 0;
    for (int64_t j = 0; j < molecule_.num_atoms; ++j) {
      T vec[3];
      for (int k = 0; k < 3; ++k) vec[k] = positions_[3 * j + k] - positions_[3 * i + k];
      if (j == i || !is_pair(vec, cutoff_)) continue;
      near[j / 64] |= uint64_t(1) << j % 64;
      ++count;
    }
    return count;
  }

  const T* positions_;
  double cutoff_;
  const Kernels& kernels_;
  Molecule molecule_;
};

}  // namespace uqforce::neighbor_list
