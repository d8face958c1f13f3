// The neighbour list on the CPU: bins, a search around every atom, and a walk over what was found that writes
// the edges where they belong. Small structures that are not periodic need no bins (molecule.h).
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <numeric>

#include "common/isa.h"
#include "common/pool.h"
#include "neighbor_list/cpu_kernels.h"
#include "neighbor_list/grid.h"
#include "neighbor_list/molecule.h"
#include "neighbor_list/op.h"
#include "neighbor_list/refuse.h"

namespace uqforce::neighbor_list {
namespace {

// Centres that are worth a thread.
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
      if (of_atom[i] < 0 || of_atom[i] >= num_structures) refuse_structure(i, of_atom[i], num_structures);
      if (i > 0 && of_atom[i] < of_atom[i - 1]) refuse_order(i, of_atom[i], of_atom[i - 1]);
      ++start[of_atom[i] + 1];
    }
    for (int64_t b = 0; b < num_structures; ++b) start[b + 1] += start[b];
  } else {
    start[num_structures] = num_atoms;
  }
  return start;
}

template <typename T>
struct Structure {
  std::unique_ptr<const Grid<T>> grid;  // absent: a molecule
  std::span<uint64_t> near;             // of a molecule: a bit per pair
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
  explicit Searcher(double cutoff) : kernels_(uqforce::neighbor_list::kernels()), cutoff_(cutoff) {}

  void enter(const Grid<T>& grid) {
    grid_ = &grid;
    bin_ = -1;
  }

  // Slots of the centre's neighbours, ranks ascending. Valid until the next call.
  std::span<const int32_t> find(int32_t centre) {
    visit(centre);
    int64_t doubts;
    const Matches found = {slots_.data(), ranks_.data()};
    int64_t n = kernels_.find(grid_->points(), ranges_.data(), ranges_.size(), centre, grid_->limits, found,
                              doubtful_.data(), &doubts);
    if (doubts == 0 && grid_->has_one_bin()) return {slots_.data(), size_t(n)};
    for (int64_t d = 0; d < doubts; ++d) {
      const int32_t slot = doubtful_[d];
      if (!are_pair(centre, slot)) continue;
      slots_[n] = slot;
      ranks_[n++] = grid_->rank[slot];
    }
    if (n <= kShortList) {
      kernels_.sort(found, n, sorted_.data());
    } else {
      std::copy_n(slots_.data(), n, sorted_.data());
      std::sort(sorted_.data(), sorted_.data() + n,
                [rank = grid_->rank](int32_t a, int32_t b) { return rank[a] < rank[b]; });
    }
    return {sorted_.data(), size_t(n)};
  }

 private:
  void visit(int32_t centre) {
    const int64_t bin = grid_->bin[centre];
    if (bin_ == bin) return;
    bin_ = bin;
    const size_t room = grid_->ranges(bin, ranges_) + kPadding;
    for (auto* list : {&slots_, &ranks_, &doubtful_, &sorted_}) {
      if (list->size() < room) list->resize(room);
    }
  }

  bool are_pair(int32_t centre, int32_t neighbor) const {
    int64_t shift[4];
    T vec[4];
    edge(grid_->images[centre], grid_->images[neighbor], grid_->cell, shift, vec);
    return is_pair(vec, cutoff_);
  }

  const Grid<T>* grid_ = nullptr;
  const Kernels& kernels_;
  double cutoff_;
  int64_t bin_ = -1;
  std::vector<Range> ranges_;
  std::vector<int32_t> slots_, ranks_, doubtful_, sorted_;
};

// What is known of an atom of a grid between the two walks.
struct Found {
  const int32_t* slots;  // of the neighbours
  int32_t centre;        // the atom's own slot
};

// The arrays written.
template <typename T>
struct Edges {
  int64_t *centre, *neighbor, *shift;
  T* vec;

  // Writes the edges `first` to `last` of an atom.
  void write(int64_t first, int64_t last, const Found& found, const End<T>* images,
             const Cell<T>& cell) const {
    if (first == last) return;
    const End<T>& i = images[found.centre];
    std::fill(centre + first, centre + last, i.atom);
    const int32_t* slot = found.slots;
    for (int64_t e = first; e + 1 < last; ++e) {
      const End<T>& j = images[*slot++];
      neighbor[e] = j.atom;
      edge(i, j, cell, shift + 3 * e, vec + 3 * e);  // a fourth number lands in the next edge, which follows
    }
    int64_t last_shift[4];
    T last_vec[4];
    const End<T>& j = images[*slot];
    neighbor[last - 1] = j.atom;
    edge(i, j, cell, last_shift, last_vec);
    std::copy_n(last_shift, 3, shift + 3 * (last - 1));
    std::copy_n(last_vec, 3, vec + 3 * (last - 1));
  }

  // The same of atom i of a molecule that begins with atom `offset`, but for the shifts.
  void write(int64_t e, int64_t i, int64_t offset, const T* positions, std::span<const uint64_t> near) const {
    for (size_t w = 0; w < near.size(); ++w) {
      for (uint64_t bits = near[w]; bits != 0; bits &= bits - 1, ++e) {
        const int64_t j = offset + 64 * int64_t(w) + std::countr_zero(bits);
        centre[e] = i;
        neighbor[e] = j;
        for (int k = 0; k < 3; ++k) vec[3 * e + k] = positions[3 * j + k] - positions[3 * i + k];
      }
    }
  }
};

template <typename T>
class List {
 public:
  List(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& pbc, double cutoff,
       const OptionalTensor& batch)
      : cutoff_(cutoff),
        options_(positions.options()),
        positions_(positions.const_data_ptr<T>()),
        start_(structure_starts(batch, positions.size(0), cell.size(0))),
        structures_(cell.size(0)),
        arenas_(at::get_num_threads()) {
    at::parallel_for(0, cell.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t first = start_[b], num_atoms = start_[b + 1] - first;
        const T* box = cell.const_data_ptr<T>() + 9 * b;
        const bool* periodic = pbc.const_data_ptr<bool>() + 3 * b;
        if (is_molecule(positions_ + 3 * first, num_atoms, box, periodic)) {
          structures_[b].near = arena().template take<uint64_t>(num_atoms * words(num_atoms));
        } else {
          structures_[b].grid = std::make_unique<const Grid<T>>(
              build_grid(positions_, first, num_atoms, box, periodic, cutoff, b, arena()));
        }
      }
    });
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> edges() {
    const int64_t num_atoms = start_.back();
    found_ = arenas_[0].template take<Found>(num_atoms);
    first_edge_ = arenas_[0].template take<int64_t>(num_atoms + 1);
    first_edge_[0] = 0;
    search();
    std::partial_sum(first_edge_.begin(), first_edge_.end(), first_edge_.begin());

    const int64_t num_edges = first_edge_[num_atoms];
    at::Tensor edge_index = empty_from_pool({2, num_edges}, options_.dtype(at::kLong));
    at::Tensor cell_shift = empty_from_pool({num_edges, 3}, options_.dtype(at::kLong));
    at::Tensor edge_vec = empty_from_pool({num_edges, 3}, options_);
    int64_t* index = edge_index.mutable_data_ptr<int64_t>();
    write({index, index + num_edges, cell_shift.mutable_data_ptr<int64_t>(), edge_vec.mutable_data_ptr<T>()});
    return {edge_index, cell_shift, edge_vec};
  }

 private:
  Arena& arena() { return arenas_[at::get_thread_num()]; }

  // Finds the neighbours of all atoms and writes the number of atom i's to first_edge_[i + 1].
  void search() {
    std::vector<Searcher<T>> searchers(arenas_.size(), Searcher<T>(cutoff_));
    for_each_run([&](int64_t b, int64_t begin, int64_t end) {
      if (structures_[b].grid) {
        search_grid(searchers[at::get_thread_num()], *structures_[b].grid, start_[b], begin, end);
      } else {
        search_molecule(structures_[b].near, b, begin, end);
      }
    });
  }

  // Looked for in the order of the centres' slots: those that follow one another lie side by side, and so do
  // the points around them.
  void search_grid(Searcher<T>& searcher, const Grid<T>& grid, int64_t offset, int64_t begin, int64_t end) {
    searcher.enter(grid);
    Arena& arena = this->arena();
    for (int64_t c = begin; c < end; ++c) {
      const int32_t centre = grid.centres[c - offset];
      const auto slots = searcher.find(centre);
      const auto kept = arena.take<int32_t>(slots.size());
      std::copy(slots.begin(), slots.end(), kept.begin());
      const int64_t atom = grid.images[centre].atom;
      found_[atom] = {kept.data(), centre};
      first_edge_[atom + 1] = slots.size();
    }
  }

  void search_molecule(std::span<uint64_t> near, int64_t b, int64_t begin, int64_t end) {
    const int64_t offset = start_[b], num_atoms = start_[b + 1] - offset;
    const MoleculeSearch<T> search(positions_ + 3 * offset, num_atoms, cutoff_, kernels());
    for (int64_t i = begin; i < end; ++i) {
      first_edge_[i + 1] = search.find(i - offset, near.data() + (i - offset) * words(num_atoms));
    }
  }

  void write(const Edges<T>& edges) {
    for_each_run([&](int64_t b, int64_t begin, int64_t end) {
      if (structures_[b].grid) {
        write_grid(edges, *structures_[b].grid, begin, end);
      } else {
        write_molecule(edges, structures_[b].near, b, begin, end);
      }
    });
  }

  void write_grid(const Edges<T>& edges, const Grid<T>& grid, int64_t begin, int64_t end) const {
    const End<T>* images = grid.images.data();
    const auto size = [&](int64_t i) { return i < end ? first_edge_[i + 1] - first_edge_[i] : 0; };
    for (int64_t i = begin; i < end; ++i) {
      // What is read lies as the atoms do in space, not in order: ask for it ahead of time.
      for (int64_t k = 0; k < size(i + 2); k += 16) __builtin_prefetch(found_[i + 2].slots + k);
      for (int64_t k = 0; k < size(i + 1); ++k) __builtin_prefetch(images + found_[i + 1].slots[k]);
      edges.write(first_edge_[i], first_edge_[i + 1], found_[i], images, grid.cell);
    }
  }

  void write_molecule(const Edges<T>& edges, std::span<const uint64_t> near, int64_t b, int64_t begin,
                      int64_t end) const {
    const int64_t offset = start_[b], row = words(start_[b + 1] - offset);
    std::fill(edges.shift + 3 * first_edge_[begin], edges.shift + 3 * first_edge_[end], 0);
    for (int64_t i = begin; i < end; ++i) {
      edges.write(first_edge_[i], i, offset, positions_, near.subspan((i - offset) * row, row));
    }
  }

  // Calls f(structure, begin, end) for runs of atoms of one structure, on all threads.
  template <typename F>
  void for_each_run(F f) const {
    at::parallel_for(0, start_.back(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t b = std::upper_bound(start_.begin(), start_.end(), begin) - start_.begin() - 1;
           begin < end; ++b) {
        const int64_t last = std::min(end, start_[b + 1]);
        if (begin < last) f(b, begin, last);
        begin = last;
      }
    });
  }

  double cutoff_;
  at::TensorOptions options_;
  const T* positions_;
  std::vector<int64_t> start_;  // first atom of each structure
  std::vector<Structure<T>> structures_;
  std::vector<Arena> arenas_;
  std::span<Found> found_;         // atoms of grids
  std::span<int64_t> first_edge_;  // of each atom, and the number of edges at the end
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> neighbor_list_cpu(const at::Tensor& positions,
                                                                 const at::Tensor& cell,
                                                                 const at::Tensor& pbc, double cutoff,
                                                                 const OptionalTensor& batch) {
  check_neighbor_list(positions, cell, pbc, cutoff, batch);
  return AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "neighbor_list", [&] {
    const at::Tensor given[] = {positions.contiguous(), cell.contiguous(), pbc.contiguous()};
    return List<scalar_t>(given[0], given[1], given[2], cutoff, batch).edges();
  });
}

}  // namespace
}  // namespace uqforce::neighbor_list

TORCH_LIBRARY_IMPL(uqforce, CPU, m) { m.impl("neighbor_list", &uqforce::neighbor_list::neighbor_list_cpu); }
