// A process's share of the system as the model sees it: rows of atoms and their edges, from LAMMPS's lists.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "lammps/engine.h"
#include "pointers.h"

namespace LAMMPS_NS {

class NeighList;

class Share : protected Pointers {
 public:
  explicit Share(LAMMPS* lmp) : Pointers(lmp) {}

  std::vector<int64_t> model_type;  // of LAMMPS's types, from 1
  double cutoff = 0;                // A

  uqforce::lammps::Domain domain;
  std::vector<int> atoms;       // of each row an atom of LAMMPS
  std::vector<int> rows;        // of LAMMPS's atoms their rows, -1 where they have none
  std::vector<int> edge_atoms;  // LAMMPS's neighbor of each edge

  // All own atoms with their edges, for models whose ghosts have their features from other processes. A ghost
  // that is an image of an own atom is that atom's row: one rank has no ghosts at all.
  void with_ghosts(const NeighList& list);
  // The atoms `own` with all that their features depend on in `layers` layers: others, too, have edges.
  // `all`: the rest of the process's atoms are rows without edges.
  void with_shell(const NeighList& list, const std::vector<int>& own, int layers, bool all);

  // Numbers of own atoms in compact pieces of at most `most`, each side by side in space.
  std::vector<std::vector<int>> pieces(int most) const;

 private:
  void begin();
  void add_row(int atom);
  void add_edges(const NeighList& list, int atom);
  void describe(int64_t owned);

  std::unordered_map<tagint, int> own_;
};

}  // namespace LAMMPS_NS
