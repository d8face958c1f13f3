// The neighbour list on the CPU: bins, a search around every atom, and a walk over what was found that writes
// the edges where they belong.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "common/isa.h"
#include "common/pool.h"
#include "neighbor_list/cpu_kernels.h"
#include "neighbor_list/grid.h"
#include "neighbor_list/op.h"

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

template <typename T>
struct Structure {
  Grid<T> grid;
  Cell<T> cell;
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

  void enter(const Structure<T>& structure) {
    structure_ = &structure;
    bin_ = -1;
  }

  // Slots of the centre's neighbours, ranks ascending. Valid until the next call.
  std::span<const int32_t> find(int32_t centre) {
    visit(centre);
    int64_t doubts;
    const Matches found = {slots_.data(), ranks_.data()};
    int64_t n = kernels_.find(grid().points(), ranges_.data(), ranges_.size(), centre, grid().limits, found,
                              doubtful_.data(), &doubts);
    if (doubts == 0 && grid().has_one_bin()) return {slots_.data(), size_t(n)};
    for (int64_t d = 0; d < doubts; ++d) {
      const int32_t slot = doubtful_[d];
      if (!is_pair(centre, slot)) continue;
      slots_[n] = slot;
      ranks_[n++] = grid().rank[slot];
    }
    if (n <= kShortList) {
      kernels_.sort(found, n, sorted_.data());
    } else {
      std::copy_n(slots_.data(), n, sorted_.data());
      std::sort(sorted_.data(), sorted_.data() + n,
                [rank = grid().rank](int32_t a, int32_t b) { return rank[a] < rank[b]; });
    }
    return {sorted_.data(), size_t(n)};
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

  // The rule: |edge_vec| < cutoff, of the edge vector as it is returned.
  bool is_pair(int32_t centre, int32_t neighbor) const {
    const End<T>&i = grid().images[centre], &j = grid().images[neighbor];
    int64_t shift[4];
    T vec[4];
    edge(i, j, structure_->cell, shift, vec);
    const double x = vec[0], y = vec[1], z = vec[2];
    return x * x + y * y + z * z < cutoff_ * cutoff_;
  }

  const Structure<T>* structure_ = nullptr;
  const Kernels& kernels_;
  double cutoff_;
  int64_t bin_ = -1;
  std::vector<Range> ranges_;
  std::vector<int32_t> slots_, ranks_, doubtful_, sorted_;
};

// What is known of an atom between the two walks.
struct Found {
  const int32_t* slots;  // of the neighbours
  int32_t size, centre;  // how many, and the atom's own slot
};

// The arrays written.
template <typename T>
struct Edges {
  int64_t *centre, *neighbor, *shift;
  T* vec;

  // Writes the edges of an atom from edge `first` on.
  void write(int64_t first, const Found& found, const End<T>* images, const Cell<T>& cell) const {
    const End<T>& i = images[found.centre];
    std::fill_n(centre + first, found.size, i.atom);
    int64_t *to_neighbor = neighbor + first, *to_shift = shift + 3 * first;
    T* to_vec = vec + 3 * first;
    for (int32_t k = 0; k + 1 < found.size; ++k, to_shift += 3, to_vec += 3) {
      const End<T>& j = images[found.slots[k]];
      to_neighbor[k] = j.atom;
      edge(i, j, cell, to_shift, to_vec);  // a fourth number lands in the next edge, which follows
    }
    if (found.size == 0) return;
    int64_t last_shift[4];
    T last_vec[4];
    const End<T>& j = images[found.slots[found.size - 1]];
    to_neighbor[found.size - 1] = j.atom;
    edge(i, j, cell, last_shift, last_vec);
    std::copy_n(last_shift, 3, to_shift);
    std::copy_n(last_vec, 3, to_vec);
  }
};

template <typename T>
class List {
 public:
  List(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& pbc, double cutoff,
       const OptionalTensor& batch)
      : cutoff_(cutoff),
        options_(positions.options()),
        start_(structure_starts(batch, positions.size(0), cell.size(0))),
        structures_(cell.size(0)),
        arenas_(at::get_num_threads()) {
    at::parallel_for(0, cell.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const T* box = cell.const_data_ptr<T>() + 9 * b;
        structures_[b] = {build_grid(positions.const_data_ptr<T>(), start_[b], start_[b + 1] - start_[b], box,
                                     pbc.const_data_ptr<bool>() + 3 * b, cutoff, b, arena()),
                          Cell<T>(box)};
      }
    });
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> edges() {
    const int64_t num_atoms = start_.back();
    const std::vector<Found> found = search();
    std::vector<int64_t> first_edge(num_atoms + 1);
    for (int64_t i = 0; i < num_atoms; ++i) first_edge[i + 1] = first_edge[i] + found[i].size;

    const int64_t num_edges = first_edge[num_atoms];
    at::Tensor edge_index = empty_from_pool({2, num_edges}, options_.dtype(at::kLong));
    at::Tensor cell_shift = empty_from_pool({num_edges, 3}, options_.dtype(at::kLong));
    at::Tensor edge_vec = empty_from_pool({num_edges, 3}, options_);
    int64_t* index = edge_index.mutable_data_ptr<int64_t>();
    const Edges<T> edges = {index, index + num_edges, cell_shift.mutable_data_ptr<int64_t>(),
                            edge_vec.mutable_data_ptr<T>()};
    for_each_run([&](int64_t b, int64_t begin, int64_t end) {
      const Structure<T>& structure = structures_[b];
      const End<T>* images = structure.grid.images.data();
      for (int64_t i = begin; i < end; ++i) {
        // What is read lies as the atoms do in space, not in order: ask for it ahead of time.
        for (int64_t k = 0; i + 2 < end && k < found[i + 2].size; k += 16)
          __builtin_prefetch(found[i + 2].slots + k);
        for (int64_t k = 0; i + 1 < end && k < found[i + 1].size; ++k)
          __builtin_prefetch(images + found[i + 1].slots[k]);
        edges.write(first_edge[i], found[i], images, structure.cell);
      }
    });
    return {edge_index, cell_shift, edge_vec};
  }

 private:
  Arena& arena() { return arenas_[at::get_thread_num()]; }

  // The neighbours of all atoms, looked for in the order of the centres' slots: those that follow one another
  // lie side by side, and so do the points around them.
  std::vector<Found> search() {
    std::vector<Found> found(start_.back());
    std::vector<Searcher<T>> searchers(arenas_.size(), Searcher<T>(cutoff_));
    for_each_run([&](int64_t b, int64_t begin, int64_t end) {
      const Grid<T>& grid = structures_[b].grid;
      Searcher<T>& searcher = searchers[at::get_thread_num()];
      Arena& arena = this->arena();
      searcher.enter(structures_[b]);
      for (int64_t c = begin; c < end; ++c) {
        const int32_t centre = grid.centres[c - start_[b]];
        const auto slots = searcher.find(centre);
        const auto kept = arena.take<int32_t>(slots.size());
        std::copy(slots.begin(), slots.end(), kept.begin());
        found[grid.images[centre].atom] = {kept.data(), int32_t(kept.size()), centre};
      }
    });
    return found;
  }

  // Calls f(structure, begin, end) for runs of atoms of one structure, on all threads.
  template <typename F>
  void for_each_run(F f) const {
    at::parallel_for(0, start_.back(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t b = std::upper_bound(start_.begin(), start_.end(), begin) - start_.begin() - 1;
           begin < end; ++b) {
        const int64_t last = std::min(end, start_[b + 1]);
        f(b, begin, last);
        begin = last;
      }
    });
  }

  double cutoff_;
  at::TensorOptions options_;
  std::vector<int64_t> start_;  // first atom of each structure
  std::vector<Structure<T>> structures_;
  std::vector<Arena> arenas_;
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
