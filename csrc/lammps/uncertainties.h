// The uncertainties that a model file carries, by their keys: one table for fixes, computes and the legend.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lammps/engine.h"

namespace uqforce::lammps {

class Uncertainties {
 public:
  // As `compute pair` finds them without knowing the file: the first places are always the same.
  Uncertainties();

  void add(const std::string& key, bool per_atom, int columns = 1);
  bool carries(const std::string& key) const;
  bool any() const;

  int size() const;            // numbers of `compute pair`
  std::string legend() const;  // what they are: "1 largest nll, 2 mean nll, ..."

  // A step: nan everywhere, never old numbers in new places.
  void begin(int64_t owned);
  // Takes what the model computed of these of the process's own atoms, and of the whole system.
  void take(const Prediction& prediction, const std::vector<int>& atoms);
  // All reduced over the processes into `vector` [size], which LAMMPS sums over them: nan where the file
  // lacks it, or nothing was `taken`. All processes call it.
  void end(bool taken, double all_atoms, MPI_Comm world, double* vector) const;
  // Per own atom, as Pair::extract_peratom; null where the file lacks it.
  void* find(const std::string& key, int& columns);

 private:
  struct Quantity {
    std::string key;
    bool carried, per_atom;
    int64_t columns;
    double of_system;
    std::vector<double> values;  // [owned, columns]
    std::vector<double*> rows;   // of several columns

    int places() const { return per_atom ? (columns == 1 ? 2 : 0) : 1; }
    void resize(int64_t owned);
  };
  int64_t owned_ = 0;
  std::vector<Quantity> quantities_;
};

}  // namespace uqforce::lammps
