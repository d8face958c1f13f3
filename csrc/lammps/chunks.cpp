#include "lammps/chunks.h"

#include <cstring>
#include <stdexcept>

namespace uqforce::lammps {

constexpr int kMostPasses = 6;  // sums of sums of sums: two are known

void ChunkSums::begin(int64_t owned, int64_t atoms) {
  owned_ = owned, atoms_ = atoms, passes_ = 0;
  sums_.clear();
}

void ChunkSums::next(const std::vector<int>& atoms, int64_t count) {
  rows_ = &atoms, count_ = count, next_ = 0;
}

ChunkSums::Sum& ChunkSums::asked(bool of_atoms, int64_t parts, int64_t bytes, bool single) {
  if (next_ == sums_.size()) sums_.push_back({of_atoms, {}, {}, {}});
  Sum& sum = sums_[next_++];
  const int64_t atoms = of_atoms ? atoms_ : 1;
  sum.shape = {nullptr, parts, atoms * bytes, bytes, single};
  sum.sums.resize(parts * atoms * bytes);
  if (sum.of_atoms != of_atoms || (!sum.told.empty() && sum.told.size() != sum.sums.size())) {
    throw std::logic_error("the model asks for other sums than before");
  }
  return sum;
}

void ChunkSums::to_ghosts(const Rows& /*rows*/) {
  throw std::logic_error("chunks exchange no features: their ghosts have edges");
}

void ChunkSums::to_owners(const Rows& rows) {
  Sum& sum = asked(true, rows.parts, rows.bytes, rows.single);
  const Rows all = sum.view();
  for (int64_t part = 0; part < rows.parts; ++part) {
    for (size_t row = 0; row < rows_->size(); ++row) all.add(part, (*rows_)[row], rows.at(part, row));
    for (int64_t row = 0; row < count_ && !sum.told.empty(); ++row) {
      memcpy(rows.at(part, row), sum.told.data() + part * all.stride + (*rows_)[row] * all.bytes, all.bytes);
    }
  }
}

void ChunkSums::sum(double* values, int count) {
  const auto bytes = static_cast<int64_t>(count * sizeof(double));
  Sum& sum = asked(false, 1, bytes, false);
  sum.view().add(0, 0, reinterpret_cast<const char*>(values));
  if (!sum.told.empty()) memcpy(values, sum.told.data(), bytes);
}

bool ChunkSums::settled(Communication& ranks) {
  double changed = 0;
  for (Sum& sum : sums_) {
    const Rows all = sum.view();
    if (sum.of_atoms) {
      ranks.to_owners(all);
    } else {
      ranks.sum(reinterpret_cast<double*>(all.data), static_cast<int>(all.bytes / sizeof(double)));
    }
    const int64_t bytes = (sum.of_atoms ? owned_ : 1) * all.bytes;  // ghosts' rows are no sums
    for (int64_t part = 0; part < all.parts; ++part) {
      const int64_t at = part * all.stride;
      if (sum.told.empty() || memcmp(sum.told.data() + at, all.data + at, bytes) != 0) changed = 1;
    }
    sum.told.swap(sum.sums);
    sum.sums.clear();
  }
  ranks.sum(&changed, 1);
  if (changed != 0 && ++passes_ == kMostPasses) {
    throw std::runtime_error("what chunks sum up changes in every pass");
  }
  return changed == 0;
}

}  // namespace uqforce::lammps
