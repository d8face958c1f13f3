// Rows of atoms between processes, by LAMMPS's communication of a pair style.
#pragma once

#include <vector>

#include "lammps/engine.h"
#include "pointers.h"

namespace LAMMPS_NS {

class Pair;

class Messages : protected Pointers, public uqforce::lammps::Communication {
 public:
  // `pair` hands what LAMMPS asks it to pack and unpack to this.
  Messages(LAMMPS* lmp, Pair* pair) : Pointers(lmp), pair_(pair) {}

  // Of LAMMPS's atoms, own ones first, their rows; without `rows` each atom is its own.
  void use(const std::vector<int>* rows) { row_of_ = rows; }

  void to_ghosts(const uqforce::lammps::Rows& rows) override;
  void to_owners(const uqforce::lammps::Rows& rows) override;
  void sum(double* values, int count) override;

  int pack_forward(int n, const int* list, double* buffer) const;
  void unpack_forward(int n, int first, const double* buffer) const;
  int pack_reverse(int n, int first, double* buffer) const;
  void unpack_reverse(int n, const int* list, const double* buffer) const;

 private:
  int row(int atom) const { return row_of_ ? (*row_of_)[atom] : atom; }

  Pair* pair_;
  const std::vector<int>* row_of_ = nullptr;
  const uqforce::lammps::Rows* rows_ = nullptr;  // that are on their way
};

}  // namespace LAMMPS_NS
