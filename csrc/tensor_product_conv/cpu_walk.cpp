// The walk over edges: centre by centre, a chunk of edges at a time.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "common/in_turn.h"
#include "common/workspace.h"
#include "tensor_product_conv/cpu_plan.h"

namespace uqforce::conv {
namespace {

// One thread's walk. Kernels know no absent inputs: those are one row of zeros.
template <typename T>
class Walker {
 public:
  Walker(const ConvSpec& spec, const Kernels<T>& kernels, const Plan<T>& plan, const EdgesByCentre& edges,
         const Arrays<T>& arrays)
      : spec_(spec),
        kernels_(kernels),
        plan_(plan),
        edges_(edges),
        arrays_(arrays),
        sh_(spec.sh_dim * kChunk),
        matrix_(plan.matrix_size),
        ddmatrix_(plan.matrix_size),
        dsh_(kChunk * spec.sh_dim * kernels.lanes),
        zeros_(std::max(spec.dim_in, spec.weight_numel)),
        scratch_(arrays.out ? 0 : spec.dim_out) {
    chunk_.matrix = matrix_.data();
    chunk_.ddmatrix = ddmatrix_.data();
    chunk_.dsh = arrays.dsh ? dsh_.data() : nullptr;
    chunk_.sh_dim = spec.sh_dim;
    // A result too large for the caches is not found there by whoever reads it.
    constexpr int64_t kStreamBytes = 1 << 23;
    const int64_t row_bytes = spec.weight_numel * sizeof(T), edge_count = edges.begin[edges.nodes];
    chunk_.stream = arrays.dw && row_bytes % kLine == 0 &&
                    reinterpret_cast<uintptr_t>(arrays.dw) % kLine == 0 &&
                    row_bytes * edge_count >= kStreamBytes;
    chunk_.ahead_step = edges.order ? 0 : kLine;
    chunk_.ddahead_step = arrays.ddw ? chunk_.ahead_step : 0;
  }

  // Centres [begin, end). dx_rows: rows for the gradients of x of their edges, in the order of the walk, or
  // null.
  void centres(int64_t begin, int64_t end, T* dx_rows) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = edges_.begin[i], last = edges_.begin[i + 1];
      chunk_.grad = arrays_.grad + (arrays_.grad ? i * spec_.dim_out : 0);
      chunk_.out = arrays_.out ? arrays_.out + i * spec_.dim_out : scratch_.data();
      if (first == last && arrays_.out) std::fill_n(chunk_.out, spec_.dim_out, T(0));
      const int64_t chunks = (last - first + kChunk - 1) / kChunk;
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t k = first + (last - first) * c / chunks;
        chunk_.first = c == 0;
        chunk_.edges = first + (last - first) * (c + 1) / chunks - k;
        chunk(k, dx_rows == nullptr ? nullptr : dx_rows + (k - edges_.begin[begin]) * spec_.dim_in);
      }
    }
    if (chunk_.stream) kernels_.fence();
  }

 private:
  void chunk(int64_t position, T* dx_rows) {
    const int64_t in = spec_.dim_in, weights = spec_.weight_numel;
    for (int64_t k = 0; k < chunk_.edges; ++k) {
      const int64_t e = edges_.edge(position + k), j = edges_.neighbour[e];
      chunk_.x[k] = arrays_.x + j * in;
      chunk_.weight[k] = arrays_.weight + e * weights;
      chunk_.ddx[k] = arrays_.ddx ? arrays_.ddx + j * in : zeros_.data();
      chunk_.ddw[k] = arrays_.ddw ? arrays_.ddw + e * weights : zeros_.data();
      chunk_.dx[k] = dx_rows ? dx_rows + k * in : nullptr;
      chunk_.dw[k] = arrays_.dw ? arrays_.dw + e * weights : nullptr;
      if (!dx_rows) continue;
      for (int64_t column : plan_.unwritten) dx_rows[k * in + column] = 0;
    }
    chunk_.ahead = reinterpret_cast<const char*>(chunk_.weight[chunk_.edges - 1] + weights);
    chunk_.ddahead = reinterpret_cast<const char*>(chunk_.ddw[chunk_.edges - 1] + weights);
    matrices(arrays_.sh, position, matrix_.data());
    if (arrays_.ddsh) matrices(arrays_.ddsh, position, ddmatrix_.data());
    if (arrays_.dsh) std::memset(dsh_.data(), 0, chunk_.edges * spec_.sh_dim * kernels_.lanes * sizeof(T));
    for (const auto& [kernel, unit] : plan_.steps) kernel(unit, chunk_);
    if (!arrays_.dsh) return;
    // The rows of edges in order follow one another.
    const int64_t rows = edges_.order ? 1 : chunk_.edges;
    for (int64_t k = 0; k < chunk_.edges; k += rows) {
      kernels_.sum_lanes(dsh_.data() + k * spec_.sh_dim * kernels_.lanes, rows * spec_.sh_dim,
                         arrays_.dsh + edges_.edge(position + k) * spec_.sh_dim);
    }
  }

  void matrices(const T* rows, int64_t position, T* matrix) {
    for (int64_t k = 0; k < chunk_.edges; ++k) {
      const T* row = rows + edges_.edge(position + k) * spec_.sh_dim;
      for (int64_t c = 0; c < spec_.sh_dim; ++c) sh_.data()[c * kChunk + k] = row[c];
    }
    for (const auto& coupling : plan_.couplings) {
      coupling.kernels->matrix(sh_.data() + coupling.sh_offset * kChunk, matrix + coupling.matrix);
    }
  }

  const ConvSpec& spec_;
  const Kernels<T>& kernels_;
  const Plan<T>& plan_;
  const EdgesByCentre& edges_;
  const Arrays<T>& arrays_;
  Workspace<T> sh_, matrix_, ddmatrix_, dsh_, zeros_, scratch_;
  Chunk<T> chunk_{};
};

// One thread's slices of centres, where dx is wanted. Edges of different centres add to the same row of dx: a
// slice's rows are written to a buffer first, and added when it is the slice's turn. A row of dx is thus
// summed in the order of the edges, whatever the slices are.
template <typename T>
class SliceWalker {
 public:
  SliceWalker(const ConvSpec& spec, const Kernels<T>& kernels, const Plan<T>& plan,
              const EdgesByCentre& edges, const Arrays<T>& arrays, const std::vector<int64_t>& cuts,
              int64_t parts)
      : walker_(spec, kernels, plan, edges, arrays),
        kernels_(kernels),
        edges_(edges),
        cuts_(cuts),
        dim_(spec.dim_in),
        parts_(parts),
        dx_(arrays.dx),
        rows_(edges.most_edges(cuts) * dim_, /*zeroed=*/false) {}

  void work(int64_t slice) noexcept { walker_.centres(cuts_[slice], cuts_[slice + 1], rows_.data()); }

  // Rows of the nodes that are `part` modulo `parts`.
  void finish(int64_t slice, int64_t part) noexcept {
    const int64_t first = edges_.begin[cuts_[slice]], last = edges_.begin[cuts_[slice + 1]];
    for (int64_t position = first; position < last; ++position) {
      const int64_t j = edges_.neighbour[edges_.edge(position)];
      if (j % parts_ == part)
        kernels_.add_row(rows_.data() + (position - first) * dim_, dim_, dx_ + j * dim_);
    }
  }

 private:
  Walker<T> walker_;
  const Kernels<T>& kernels_;
  const EdgesByCentre& edges_;
  const std::vector<int64_t>& cuts_;
  int64_t dim_, parts_;
  T* dx_;
  Workspace<T> rows_;
};

}  // namespace

template <typename T>
void walk(const ConvSpec& spec, const Kernels<T>& kernels, const Plan<T>& plan, const EdgesByCentre& edges,
          const Arrays<T>& arrays) {
  constexpr int64_t kSliceEdges = 256, kParts = 4;
  const int64_t threads = at::get_num_threads();
  if (!arrays.dx) {
    const auto cuts = edges.cuts(kSliceEdges);
    at::parallel_for(0, static_cast<int64_t>(cuts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      Walker<T>(spec, kernels, plan, edges, arrays).centres(cuts[begin], cuts[end], nullptr);
    });
    return;
  }
  const int64_t cache_bytes = threads > 1 ? 1 << 19 : 1 << 16, parts = threads > 1 ? kParts : 1;
  const int64_t row_bytes = std::max<int64_t>(spec.dim_in, 1) * sizeof(T);
  const auto cuts = edges.cuts(std::min(kSliceEdges, cache_bytes / row_bytes));
  in_turn(static_cast<int64_t>(cuts.size()) - 1, parts,
          [&] { return SliceWalker<T>(spec, kernels, plan, edges, arrays, cuts, parts); });
}

template void walk(const ConvSpec&, const Kernels<float>&, const Plan<float>&, const EdgesByCentre&,
                   const Arrays<float>&);
template void walk(const ConvSpec&, const Kernels<double>&, const Plan<double>&, const EdgesByCentre&,
                   const Arrays<double>&);

}  // namespace uqforce::conv
