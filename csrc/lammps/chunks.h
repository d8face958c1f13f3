// What chunks of a process's atoms sum up, among themselves and with other processes.
//
// Chunks are evaluated one after the other, and a chunk asks for a sum before the others have been heard. So
// they are evaluated in passes: in each one every chunk adds its part and is told what the pass before summed
// up, until a pass sums up what it was told. Sums that depend on no others are right after one pass.
#pragma once

#include <vector>

#include "lammps/engine.h"

namespace uqforce::lammps {

class ChunkSums : public Communication {
 public:
  // A step: `owned` atoms are the process's own, the first of `atoms`.
  void begin(int64_t owned, int64_t atoms);
  // A chunk with the atoms of its rows, of which `count` are the chunk's own.
  void next(const std::vector<int>& atoms, int64_t count);
  // Ends a pass: sums over the processes by `ranks`, where each atom is its own row. True when all has been
  // told as it is. All processes call it.
  bool settled(Communication& ranks);

  void to_ghosts(const Rows& rows) override;
  void to_owners(const Rows& rows) override;
  void sum(double* values, int count) override;

 private:
  struct Sum {
    bool of_atoms = false;
    Rows shape{};                  // of all atoms, without data; of a sum of plain values one atom
    std::vector<char> sums, told;  // [parts, atoms, bytes]

    Rows view() { return {sums.data(), shape.parts, shape.stride, shape.bytes, shape.single}; }
  };
  // The same for every chunk and pass: the model asks in the same order.
  Sum& asked(bool of_atoms, int64_t parts, int64_t bytes, bool single);

  int64_t owned_ = 0, atoms_ = 0, count_ = 0;
  const std::vector<int>* rows_ = nullptr;  // atoms of the chunk's rows
  std::vector<Sum> sums_;
  size_t next_ = 0;
  int passes_ = 0;
};

}  // namespace uqforce::lammps
