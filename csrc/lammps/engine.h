// An exported model as LAMMPS sees it: plain arrays. What is behind it sees libtorch only, no LAMMPS.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace uqforce::lammps {

// How one process reaches the others; the pair style implements it. An atom has `parts` pieces of `bytes`,
// at data + part * stride + atom * bytes.
struct Rows {
  char* data;
  int64_t parts, stride, bytes;
  bool single;  // of float, else of double

  char* at(int64_t part, int64_t atom) const { return data + part * stride + atom * bytes; }
  // Numbers of 8 bytes that hold one atom.
  int doubles() const { return static_cast<int>((parts * bytes + 7) / 8); }
};

class Communication {
 public:
  virtual void to_ghosts(const Rows& rows) = 0;  // owners' rows are given to their ghosts
  virtual void to_owners(const Rows& rows) = 0;  // ghosts' rows are added to their owners'
  virtual void sum(double* values, int count) = 0;

 protected:
  ~Communication() = default;
};

// One process's atoms, its own first, and their edges sorted by centre.
struct Domain {
  int64_t owned = 0, atoms = 0;
  std::vector<int64_t> types;               // [atoms]
  std::vector<int64_t> centers, neighbors;  // [E]
  std::vector<double> edge_vec;             // [E,3] A, from centre to neighbour
};

// Valid until the next call. Null: the model does not carry it, or there are no atoms.
struct Prediction {
  const double* energies = nullptr;            // [owned] eV
  const double* edge_gradient = nullptr;       // [E,3] eV/A, of all energies by edge_vec
  const double* nll = nullptr;                 // [owned]
  const double* energies_variance = nullptr;   // [owned] eV^2
  const double* forces_uncertainty = nullptr;  // [owned] eV/A
  double energy_uncertainty = 0;               // eV, of the whole system
};

class Engine {
 public:
  // Reads an exported model and computes with `threads` threads. std::runtime_error says what is wrong.
  Engine(const std::string& path, int threads);
  ~Engine();

  const std::string& metadata() const;  // JSON, see uqforce/deploy/export.py
  std::string build() const;            // of the op library, JSON

  // `exchange`: ghosts' features come from their owners through `communication`, otherwise ghosts have edges.
  Prediction evaluate(const Domain& domain, bool exchange, Communication& communication);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace uqforce::lammps
