// An exported model as LAMMPS sees it: plain arrays. What is behind it sees libtorch only, no LAMMPS.
#pragma once

#include <cstdint>
#include <map>
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
  void add(int64_t part, int64_t atom, const char* values) const {
    single ? add_to<float>(at(part, atom), values) : add_to<double>(at(part, atom), values);
  }
  // Numbers of 8 bytes that hold one atom.
  int doubles() const { return static_cast<int>((parts * bytes + 7) / 8); }

 private:
  template <typename T>
  void add_to(char* to, const char* values) const {
    for (int64_t c = 0; c < bytes; c += sizeof(T)) {
      *reinterpret_cast<T*>(to + c) += *reinterpret_cast<const T*>(values + c);
    }
  }
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
  std::vector<int64_t> types, numbers;      // [atoms], numbers the same of an atom and its ghosts
  std::vector<int64_t> centers, neighbors;  // [E]
  std::vector<double> edge_vec;             // [E,3] A, from centre to neighbour
};

// A quantity by its key in the file: `columns` numbers of each of `rows` own atoms or edges, or one row of
// the whole structure. Valid until the next call.
struct Values {
  const double* data = nullptr;
  int64_t rows = 0, columns = 0;
};
using Prediction = std::map<std::string, Values>;

// The results of each method of a package, in order.
using Methods = std::map<std::string, std::vector<std::string>>;

inline constexpr const char* kOutOfMemory =
    "out of memory: use more nodes, ranks of fewer atoms, or `pair_style uqforce shell chunk N`";

// std::runtime_error of all functions says what is wrong.
class Engine {
 public:
  // Opens an exported model, to compute with `threads` threads.
  Engine(const std::string& path, int threads);
  ~Engine();

  const std::string& metadata() const;  // JSON, see uqforce/exporting/exported_potential.py
  // Makes it ready on a device, "cpu" or "cuda:K"; of packages what their metadata says: their methods and
  // the kind of processor.
  void load(const Methods& methods, const std::string& processor, const std::string& device);
  std::string build() const;  // of the op library, JSON
  static int cuda_devices();  // that libtorch sees
  // Which of `archs`, those of the op library, one of them runs: "sm_90", "compute_90" (PTX), "" for none.
  static std::string cuda_arch_for(int device, const std::vector<std::string>& archs);

  // `exchange`: ghosts' features come from their owners, otherwise ghosts have edges. `communication` is null
  // of a process that is alone and has no ghosts.
  // Without `uncertain` there are `energies` [owned] eV and `edge_gradient` [E,3] eV/A, of all energies by
  // edge_vec, and nothing else.
  const Prediction& evaluate(const Domain& domain, bool exchange, bool uncertain,
                             Communication* communication);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace uqforce::lammps
