#include "lammps/share.h"

#include <algorithm>
#include <numeric>

#include "atom.h"
#include "neigh_list.h"

namespace LAMMPS_NS {

void Share::begin() {
  atoms.clear(), edge_atoms.clear();
  domain.centers.clear(), domain.neighbors.clear(), domain.edge_vec.clear();
  rows.assign(atom->nlocal + atom->nghost, -1);
}

void Share::add_row(int i) {
  rows[i] = static_cast<int>(atoms.size());
  atoms.push_back(i);
}

// Neighbors that have no row yet get one.
void Share::add_edges(const NeighList& list, int i) {
  double** x = atom->x;
  for (int k = 0; k < list.numneigh[i]; ++k) {
    const int j = list.firstneigh[i][k] & NEIGHMASK;
    const double d[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
    if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] >= cutoff * cutoff) continue;
    if (rows[j] < 0) add_row(j);
    domain.centers.push_back(rows[i]);
    domain.neighbors.push_back(rows[j]);
    domain.edge_vec.insert(domain.edge_vec.end(), d, d + 3);
    edge_atoms.push_back(j);
  }
}

void Share::describe(int64_t owned) {
  domain.owned = owned;
  domain.atoms = static_cast<int64_t>(atoms.size());
  domain.types.resize(atoms.size());
  domain.numbers.resize(atoms.size());
  for (size_t row = 0; row < atoms.size(); ++row) {
    domain.types[row] = model_type[atom->type[atoms[row]]];
    domain.numbers[row] = atom->tag[atoms[row]];
  }
}

void Share::with_ghosts(const NeighList& list) {
  begin();
  const int owned = atom->nlocal, all = atom->nlocal + atom->nghost;
  own_.clear();
  for (int i = 0; i < owned; ++i) {
    add_row(i);
    own_.emplace(atom->tag[i], i);
  }
  for (int i = owned; i < all; ++i) {
    const auto found = own_.find(atom->tag[i]);
    if (found == own_.end()) {
      add_row(i);
    } else {
      rows[i] = found->second;
    }
  }
  for (int i = 0; i < owned; ++i) add_edges(list, i);
  describe(owned);
}

void Share::with_shell(const NeighList& list, const std::vector<int>& own, int layers, bool all) {
  begin();
  for (int i : own) add_row(i);
  size_t row = 0;
  for (int layer = 0; layer < layers; ++layer) {  // neighbors of all rows there are
    for (const size_t end = atoms.size(); row < end; ++row) add_edges(list, atoms[row]);
  }
  for (int i = 0; all && i < atom->nlocal + atom->nghost; ++i) {
    if (rows[i] < 0) add_row(i);
  }
  describe(static_cast<int64_t>(own.size()));
}

// Halves the longest side, again and again, where it leaves equal pieces.
static void divide(double** x, std::vector<int>::iterator begin, std::vector<int>::iterator end,
                   int64_t parts, std::vector<std::vector<int>>& pieces) {
  if (parts == 1) {
    pieces.emplace_back(begin, end);
    std::sort(pieces.back().begin(), pieces.back().end());
    return;
  }
  int longest = 0;
  double most = -1;
  for (int c = 0; c < 3; ++c) {
    const auto before = [&](int i, int j) { return x[i][c] < x[j][c]; };
    const auto [first, last] = std::minmax_element(begin, end, before);
    const double length = x[*last][c] - x[*first][c];
    if (length > most) longest = c, most = length;
  }
  const auto middle = begin + (end - begin) * (parts / 2) / parts;
  std::nth_element(begin, middle, end, [&](int i, int j) {
    return x[i][longest] != x[j][longest] ? x[i][longest] < x[j][longest] : i < j;
  });
  divide(x, begin, middle, parts / 2, pieces);
  divide(x, middle, end, parts - parts / 2, pieces);
}

std::vector<std::vector<int>> Share::pieces(int most) const {
  std::vector<int> own(atom->nlocal);
  std::iota(own.begin(), own.end(), 0);
  const int64_t parts = std::max<int64_t>((atom->nlocal + static_cast<int64_t>(most) - 1) / most, 1);
  std::vector<std::vector<int>> pieces;
  divide(atom->x, own.begin(), own.end(), parts, pieces);
  return pieces;
}

}  // namespace LAMMPS_NS
