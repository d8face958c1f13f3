// The neighbour list on the CPU: bins, then two walks over all centres, one to count and one to write.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "common/buffer.h"
#include "common/isa.h"
#include "neighbor_list/cpu_kernels.h"
#include "neighbor_list/grid.h"
#include "neighbor_list/op.h"

namespace uqforce::neighbor_list {
namespace {

// Centres handed to a thread at a time.
constexpr int64_t kGrain = 128;
// Up to so many neighbours, comparing all with all sorts faster than std::sort.
constexpr int64_t kShortList = 512;

// First atom of each structure, and the number of atoms at the end.
std::vector<int64_t> structure_starts(const OptionalTensor& batch, int64_t num_atoms,
                                      int64_t num_structures) {
  std::vector<int64_t> start(num_structures + 1, 0);
  if (batch) {
    const at::Tensor contiguous = batch->contiguous();
    const int64_t* of_atom = contiguous.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < num_atoms; ++i) {
      TORCH_CHECK_VALUE(of_atom[i] >= 0 && of_atom[i] < num_structures, "batch[", i, "] is ", of_atom[i],
                        " but cell holds ", num_structures, " structures: use 0 to ", num_structures - 1);
      TORCH_CHECK_VALUE(i == 0 || of_atom[i] >= of_atom[i - 1], "batch[", i, "] is ", of_atom[i], " after ",
                        of_atom[i - 1], ": batch must ascend; sort the atoms by structure");
      ++start[of_atom[i] + 1];
    }
    for (int64_t b = 0; b < num_structures; ++b) start[b + 1] += start[b];
  } else {
    start[num_structures] = num_atoms;
  }
  return start;
}

at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
  at::Tensor out = at::empty(sizes, options);
  advise_huge_pages(out.data_ptr(), out.nbytes());
  return out;
}

template <typename T>
struct Structure {
  Grid<T> grid;
  const T* cell;
  int64_t first_atom;
};

// The edges of one centre, computed as edge_vectors() computes them.
template <typename T>
class Around {
 public:
  Around(const Structure<T>& structure, int32_t centre)
      : images_(structure.grid.images.data()),
        centre_(images_[centre]),
        cell_(structure.cell),
        first_atom_(structure.first_atom) {}

  int64_t centre() const { return first_atom_ + centre_.atom; }

  // Writes shift and vector of the edge to the image in this slot, returns the neighbour.
  int64_t edge(int32_t slot, int64_t* shift, T* vec) const {
    const Image<T> image = images_[slot];
    for (int k = 0; k < 3; ++k) shift[k] = int64_t(image.shift[k]) - centre_.shift[k];
    edge_vector(centre_.position, image.position, shift, cell_, vec);
    return first_atom_ + image.atom;
  }

  // The rule: |edge_vec| < cutoff, of the edge vector as it is returned.
  bool is_pair(int32_t slot, double cutoff) const {
    int64_t shift[3];
    T vec[3];
    edge(slot, shift, vec);
    const double x = vec[0], y = vec[1], z = vec[2];
    return x * x + y * y + z * z < cutoff * cutoff;
  }

 private:
  const Image<T>* images_;
  const Image<T> centre_;
  const T* cell_;
  int64_t first_atom_;
};

const Kernels& kernels() {
#ifdef __x86_64__
  if (active_isa() == Isa::avx512) return kernels_avx512;
  if (active_isa() == Isa::avx2) return kernels_avx2;
#endif
  return kernels_baseline;
}

// Searches around centres, one after another, keeping its memory and what belongs to the last centre's bin.
template <typename T>
class Searcher {
 public:
  Searcher(const Structure<T>& structure, double cutoff)
      : structure_(&structure), kernels_(uqforce::neighbor_list::kernels()), cutoff_(cutoff) {}

  void enter(const Structure<T>& structure) {
    structure_ = &structure;
    bin_ = -1;
  }

  // Number of neighbours of the centre, given by its slot; itself included.
  int64_t count(int32_t centre) {
    visit(centre);
    int64_t doubts;
    const int64_t n = kernels_.count(grid().points(), ranges_.data(), ranges_.size(), centre, grid().limits,
                                     doubtful_.data(), &doubts);
    return doubts == 0 ? n : n + decide(centre, doubts);
  }

  // Their slots, ranks ascending. Valid until the next call.
  const int32_t* find(int32_t centre, int64_t& n) {
    visit(centre);
    int64_t doubts;
    const Found found = {slots_.data(), ranks_.data()};
    n = kernels_.find(grid().points(), ranges_.data(), ranges_.size(), centre, grid().limits, found,
                      doubtful_.data(), &doubts);
    if (doubts > 0) {
      doubts = decide(centre, doubts);
      for (int64_t d = 0; d < doubts; ++d, ++n) {
        slots_[n] = doubtful_[d];
        ranks_[n] = grid().rank[doubtful_[d]];
      }
    }
    if (n <= kShortList) {
      kernels_.sort(found, n, sorted_.data());
    } else {
      std::copy_n(slots_.data(), n, sorted_.data());
      const int32_t* rank = grid().rank.data();
      std::sort(sorted_.data(), sorted_.data() + n,
                [rank](int32_t a, int32_t b) { return rank[a] < rank[b]; });
    }
    return sorted_.data();
  }

 private:
  const Grid<T>& grid() const { return structure_->grid; }

  void visit(int32_t centre) {
    const int64_t bin = grid().bin[centre];
    if (bin_ == bin) return;
    bin_ = bin;
    const size_t room = grid().ranges(bin, ranges_) + kPadding;
    for (auto* list : {&slots_, &ranks_, &doubtful_, &sorted_}) {
      if (list->size() < room) list->resize(room);
    }
  }

  // Keeps those of the doubtful that are pairs.
  int64_t decide(int32_t centre, int64_t doubts) {
    const Around<T> around(*structure_, centre);
    const auto is_none = [&](int32_t slot) { return !around.is_pair(slot, cutoff_); };
    return std::remove_if(doubtful_.data(), doubtful_.data() + doubts, is_none) - doubtful_.data();
  }

  const Structure<T>* structure_;
  const Kernels& kernels_;
  double cutoff_;
  int64_t bin_ = -1;
  std::vector<Range> ranges_;
  std::vector<int32_t> slots_, ranks_, doubtful_, sorted_;
};

// Calls f(c, structure, slot, searcher) for all centres, on all threads. c numbers the centres structure
// after structure, in the order of their slots: centres that follow one another lie side by side.
template <typename T, typename F>
void for_each_centre(const std::vector<Structure<T>>& structures, const std::vector<int64_t>& start,
                     double cutoff, F f) {
  at::parallel_for(0, start.back(), kGrain, [&](int64_t begin, int64_t end) {
    int64_t b = std::upper_bound(start.begin(), start.end(), begin) - start.begin() - 1;
    Searcher<T> searcher(structures[b], cutoff);
    for (int64_t c = begin; c < end; ++c) {
      while (c >= start[b + 1]) searcher.enter(structures[++b]);
      f(c, structures[b], structures[b].grid.centres[c - start[b]], searcher);
    }
  });
}

// The arrays written.
template <typename T>
struct Edges {
  int64_t *centre, *neighbor, *shift;
  T* vec;

  // Writes the edges of a centre from edge `first` on; `itself` is the centre's slot.
  void write(int64_t first, const Around<T>& around, int32_t itself, const int32_t* slots,
             int64_t num_slots) const {
    const int64_t i = around.centre();
    int64_t *to_i = centre + first, *to_j = neighbor + first, *to_shift = shift + 3 * first;
    T* to_vec = vec + 3 * first;
    for (int64_t k = 0; k < num_slots; ++k) {
      if (slots[k] == itself) continue;
      *to_i++ = i;
      *to_j++ = around.edge(slots[k], to_shift, to_vec);
      to_shift += 3;
      to_vec += 3;
    }
  }
};

template <typename T>
std::tuple<at::Tensor, at::Tensor, at::Tensor> neighbor_list_typed(const at::Tensor& positions,
                                                                   const at::Tensor& cell,
                                                                   const at::Tensor& pbc, double cutoff,
                                                                   const OptionalTensor& batch) {
  const int64_t num_atoms = positions.size(0), num_structures = cell.size(0);
  const std::vector<int64_t> start = structure_starts(batch, num_atoms, num_structures);
  std::vector<Structure<T>> structures(num_structures);
  at::parallel_for(0, num_structures, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const T* box = cell.const_data_ptr<T>() + 9 * b;
      structures[b] = {build_grid(positions.const_data_ptr<T>() + 3 * start[b], start[b + 1] - start[b], box,
                                  pbc.const_data_ptr<bool>() + 3 * b, cutoff, start[b], b),
                       box, start[b]};
    }
  });

  std::vector<int64_t> offset(num_atoms + 1, 0);  // first edge of each atom
  for_each_centre(structures, start, cutoff,
                  [&](int64_t, const Structure<T>& structure, int32_t slot, Searcher<T>& searcher) {
                    const int64_t atom = structure.first_atom + structure.grid.images[slot].atom;
                    offset[atom + 1] = searcher.count(slot) - 1;
                  });
  for (int64_t i = 0; i < num_atoms; ++i) offset[i + 1] += offset[i];
  const int64_t num_edges = offset[num_atoms];
  Buffer<int64_t> first_edge(
      num_atoms);  // the same, of each centre: read in order below, where a miss would stall
  for (int64_t b = 0; b < num_structures; ++b) {
    const Grid<T>& grid = structures[b].grid;
    for (int64_t c = start[b]; c < start[b + 1]; ++c) {
      first_edge[c] = offset[start[b] + grid.images[grid.centres[c - start[b]]].atom];
    }
  }

  const auto integers = positions.options().dtype(at::kLong);
  at::Tensor edge_index = empty({2, num_edges}, integers);
  at::Tensor cell_shift = empty({num_edges, 3}, integers);
  at::Tensor edge_vec = empty({num_edges, 3}, positions.options());
  int64_t* index = edge_index.mutable_data_ptr<int64_t>();
  const Edges<T> edges = {index, index + num_edges, cell_shift.mutable_data_ptr<int64_t>(),
                          edge_vec.mutable_data_ptr<T>()};
  for_each_centre(structures, start, cutoff,
                  [&](int64_t c, const Structure<T>& structure, int32_t slot, Searcher<T>& searcher) {
                    int64_t found;
                    const int32_t* slots = searcher.find(slot, found);
                    edges.write(first_edge[c], Around<T>(structure, slot), slot, slots, found);
                  });
  return {edge_index, cell_shift, edge_vec};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> neighbor_list_cpu(const at::Tensor& positions,
                                                                 const at::Tensor& cell,
                                                                 const at::Tensor& pbc, double cutoff,
                                                                 const OptionalTensor& batch) {
  check_neighbor_list(positions, cell, pbc, cutoff, batch);
  return AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "neighbor_list", [&] {
    return neighbor_list_typed<scalar_t>(positions.contiguous(), cell.contiguous(), pbc.contiguous(), cutoff,
                                         batch);
  });
}

}  // namespace
}  // namespace uqforce::neighbor_list

TORCH_LIBRARY_IMPL(uqforce, CPU, m) { m.impl("neighbor_list", &uqforce::neighbor_list::neighbor_list_cpu); }
