// The convolution's inference form on the CPU, one thread's walk over blocks of nodes. For cpu.cpp; internal
// linkage.
//
// A block's convolution is kept in a buffer that fits a near cache, [nodes, conv.dim_out], and leaves it
// through the linear map only; the derivative brings the cotangents there by the transposed map first. An
// edge's weights are rebuilt from the table unit by unit, into a buffer that fits the nearest cache, where
// the kernels of tensor_product_conv find them as if they were an array.
#pragma once

#include <cmath>
#include <vector>

#include "block_linear/cpu_kernels.h"
#include "common/isa.h"
#include "common/workspace.h"
#include "tabulated_conv/cpu_kernels.h"
#include "tabulated_conv/op.h"
#include "tensor_product_conv/cpu_plan.h"

namespace uqforce {
namespace {

using at::Tensor;
using conv::EdgesByCentre;
using conv::kChunk;
using tabulated::Columns;
using tabulated::Edges;

template <typename T>
const tabulated::Kernels<T>& active_kernels() {
  return UQFORCE_ACTIVE_OF(T, tabulated::kernels);
}

// What all threads of a call share.
template <typename T>
struct Call {
  struct Step {
    typename conv::CouplingKernels<T>::UnitKernel kernel;
    conv::Unit unit;  // its weights start at 0: they are rebuilt for it alone
    Columns<T> table;
  };

  const TabulatedConv& conv;
  const tabulated::Kernels<T>& kernels;
  conv::Plan<T> plan;
  EdgesByCentre edges;
  std::vector<Step> steps;
  std::vector<T> inverse_cutoffs;  // [T, T]
  int64_t num_types, degree;
  Tensor x_rows, edge_vecs, types, linear_weights;  // contiguous
  const T *x, *vec, *linear;
  const int64_t* type;
  int64_t cotangents = 1;
  const T* cotangent = nullptr;  // [K, N, map.dim_out]
  T* out = nullptr;              // [N, map.dim_out]
  T *dx = nullptr, *dvec = nullptr;

  Call(const TabulatedConv& conv, typename conv::CouplingKernels<T>::Op conv::CouplingKernels<T>::*op)
      : conv(conv),
        kernels(active_kernels<T>()),
        plan(conv.conv, conv::active_kernels<T>(), op),
        edges(conv.edge_index, conv.x.size(0)),
        num_types(conv.cutoffs.size(0)),
        degree(static_cast<int64_t>(std::sqrt(conv.conv.sh_dim) - 1 + 0.5)),
        x_rows(conv.x.contiguous()),
        edge_vecs(conv.edge_vec.contiguous()),
        types(conv.atom_types.contiguous()),
        linear_weights(conv.linear.contiguous()),
        x(x_rows.const_data_ptr<T>()),
        vec(edge_vecs.const_data_ptr<T>()),
        linear(linear_weights.const_data_ptr<T>()),
        type(types.const_data_ptr<int64_t>()) {
    const Tensor cutoffs = conv.cutoffs.contiguous();
    table_ = conv.table.contiguous();
    for (int64_t k = 0; k < cutoffs.numel(); ++k)
      inverse_cutoffs.push_back(1 / cutoffs.const_data_ptr<T>()[k]);
    for (int64_t i = 0; i < edges.nodes; ++i) {
      TORCH_CHECK_INDEX(type[i] >= 0 && type[i] < num_types, "atom_types has ", type[i], " but cutoffs has ",
                        num_types, " types: types must be in 0..", num_types - 1);
    }
    for (const auto& [kernel, planned] : plan.steps) {
      conv::Unit unit = planned;
      const ConvPath& path = path_of(unit.weight_offset);
      const T* columns = table_.const_data_ptr<T>() + path.weight_offset * (conv.intervals + 5) +
                         (unit.weight_offset - path.weight_offset);
      unit.weight_offset = unit.ahead_lines = 0;
      unit.whole_lines = false;
      steps.push_back({kernel, unit, {columns, path.mul, unit.channels}});
    }
  }

  // Nodes that are worked on together, at most `most`, so that their rows of the convolution stay in a near
  // cache; whole tiles of `matmul` where that allows it.
  std::vector<int64_t> blocks(int64_t most) const {
    constexpr int64_t kCacheBytes = 1 << 18, kTile = linear_map::kRows, kMost = 48;
    const int64_t row = std::max<int64_t>(conv.conv.dim_out * cotangents * sizeof(T), 1);
    const int64_t nodes = std::clamp(kCacheBytes / row / kTile, int64_t(1), kMost / kTile) * kTile;
    std::vector<int64_t> cuts{0};
    while (cuts.back() < edges.nodes)
      cuts.push_back(std::min(cuts.back() + std::min(nodes, most), edges.nodes));
    return cuts;
  }

 private:
  const ConvPath& path_of(int64_t weight) const {
    for (const ConvPath& path : conv.conv.paths) {
      if (weight >= path.weight_offset && weight < path.weight_offset + path.mul) return path;
    }
    TORCH_INTERNAL_ASSERT(false, "no path has weight ", weight);
  }
  Tensor table_;
};

// One thread's work.
template <typename T>
class Walker {
 public:
  // Of blocks of up to `nodes` nodes, and of these cotangents.
  Walker(const Call<T>& call, int64_t nodes, int64_t first_cotangent, int64_t cotangents)
      : call_(call),
        first_cotangent_(first_cotangent),
        cotangents_(cotangents),
        columns_(call.conv.conv.sh_dim + 1),
        edges_(1),
        matrix_(call.plan.matrix_size),
        weight_(kChunk * kWidth),
        slope_(kChunk * kWidth),
        dweight_(kChunk * kWidth),
        partial_(cotangents * kChunk * columns_ * call.kernels.lanes),
        gradient_(columns_ * kChunk),
        chunk_rows_(call.dx ? cotangents * kChunk * call.conv.conv.dim_in : 0),
        rows_(nodes * cotangents * call.conv.conv.dim_out) {
    chunk_.matrix = matrix_.data();
    chunk_.sh_dim = columns_;
    for (int64_t k = 0; k < kChunk; ++k) {
      chunk_.weight[k] = weight_.data() + k * 2 * call.kernels.lanes;
      chunk_.dw[k] = dweight_.data() + k * 2 * call.kernels.lanes;
    }
  }

  void value(int64_t begin, int64_t end) {
    const int64_t dim = call_.conv.conv.dim_out, columns = call_.conv.map.dim_out;
    if (has_no_edges(begin, end)) {
      std::fill_n(call_.out + begin * columns, (end - begin) * columns, T(0));
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      chunk_.out = rows_.data() + (i - begin) * dim;
      find_edges(i);
      if (found_.empty()) std::fill_n(chunk_.out, dim, T(0));
      for_chunks([&](const int64_t* found) {
        prepare(i, found);
        for (const auto& step : call_.steps) {
          call_.kernels.weights(edges_[0], chunk_.edges, step.table, weight_.data());
          step.kernel(step.unit, chunk_);
        }
      });
    }
    for (const ColumnBlock& b : call_.conv.map.blocks) {
      from_.clear(), to_.clear();
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t m = 0; m < b.components; ++m) {
          from_.push_back(rows_.data() + (i - begin) * dim + b.in_offset + m * b.mul_in);
          to_.push_back(call_.out + i * call_.conv.map.dim_out + b.out_offset + m * b.mul_out);
        }
      }
      linear_map::active_kernels<T>().matmul(from_.data(), call_.linear + b.weight_offset, to_.data(),
                                             from_.size(), b.mul_in, b.mul_out);
    }
  }

  // Adds to dx at once, or leaves it to the caller: rows for `edge - first edge of begin`, [K, rows, dim_in],
  // and for each its node, -1 where it has none.
  void vjp(int64_t begin, int64_t end) { vjp(begin, end, nullptr, nullptr, 0); }
  void vjp(int64_t begin, int64_t end, T* dx_rows, int64_t* dx_nodes, int64_t num_rows) {
    const ConvSpec& spec = call_.conv.conv;
    const int64_t K = cotangents_, in = spec.dim_in;
    const int64_t first = call_.edges.begin[begin];
    if (dx_nodes) std::fill_n(dx_nodes, num_rows, -1);
    if (has_no_edges(begin, end)) return;
    to_convolution(begin, end);
    for (int64_t i = begin; i < end; ++i) {
      find_edges(i);
      for_chunks([&](const int64_t* found) {
        prepare(i, found);
        const int64_t row = found[0] - first;
        T* rows = dx_rows ? dx_rows : chunk_rows_.data();
        const int64_t stride = dx_rows ? num_rows * in : kChunk * in;
        // Found edges need not follow one another, their rows do.
        const auto dx_row = [&](int64_t k, int64_t e) {
          return rows + k * stride + ((dx_rows ? row : 0) + e) * in;
        };
        std::fill_n(partial_.data(), partial_.size(), T(0));
        for (int64_t r = 0; call_.dx && r < K * chunk_.edges; ++r) {
          for (int64_t column : call_.plan.unwritten) dx_row(r / chunk_.edges, r % chunk_.edges)[column] = 0;
        }
        for (const auto& step : call_.steps) {
          call_.kernels.weights_and_slopes(edges_[0], chunk_.edges, step.table, weight_.data(),
                                           slope_.data());
          for (int64_t k = 0; k < K; ++k) {
            chunk_.grad = rows_.data() + ((i - begin) * K + k) * spec.dim_out;
            chunk_.dsh = partial_.data() + k * kChunk * columns_ * call_.kernels.lanes;
            for (int64_t e = 0; e < chunk_.edges; ++e) chunk_.dx[e] = call_.dx ? dx_row(k, e) : nullptr;
            step.kernel(step.unit, chunk_);
            call_.kernels.add_slope(dweight_.data(), slope_.data(), chunk_.edges, step.unit.channels,
                                    chunk_.dsh + spec.sh_dim * call_.kernels.lanes,
                                    columns_ * call_.kernels.lanes);
          }
        }
        for (int64_t k = 0; k < K; ++k) {
          write_dvec(k, found);
          if (dx_rows || !call_.dx) continue;
          for (int64_t e = 0; e < chunk_.edges; ++e) {
            add_row(dx_row(k, e), k, call_.edges.neighbour[call_.edges.edge(found[e])]);
          }
        }
        if (dx_nodes) {
          for (int64_t e = 0; e < chunk_.edges; ++e)
            dx_nodes[row + e] = call_.edges.neighbour[call_.edges.edge(found[e])];
        }
      });
    }
  }

  void add_row(const T* row, int64_t k, int64_t node) const {
    const int64_t in = call_.conv.conv.dim_in;
    const int64_t total = (first_cotangent_ + k) * call_.edges.nodes + node;
    conv::active_kernels<T>().add_row(row, in, call_.dx + total * in);
  }

 private:
  static constexpr int64_t kWidth = 32;  // of a unit's weights: at most two vectors

  // As the ghosts of a parallel engine, which come last and may be more than the atoms that it owns.
  bool has_no_edges(int64_t begin, int64_t end) const {
    return call_.edges.begin[begin] == call_.edges.begin[end];
  }

  // Positions of centre i's edges within the cutoff. Not a number is kept, so that it shows.
  void find_edges(int64_t i) {
    found_.clear();
    for (int64_t p = call_.edges.begin[i]; p < call_.edges.begin[i + 1]; ++p) {
      const int64_t e = call_.edges.edge(p);
      const T* v = call_.vec + 3 * e;
      const T scaled = inverse_cutoff(i, e);
      if (!((v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) * scaled * scaled >= 1)) found_.push_back(p);
    }
  }

  T inverse_cutoff(int64_t i, int64_t e) const {
    return call_.inverse_cutoffs[call_.type[i] * call_.num_types + call_.type[call_.edges.neighbour[e]]];
  }

  // Cuts the found edges into chunks of like size.
  template <typename Use>
  void for_chunks(const Use& use) {
    const int64_t count = found_.size(), chunks = (count + kChunk - 1) / kChunk;
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t begin = count * c / chunks;
      chunk_.first = c == 0;
      chunk_.edges = count * (c + 1) / chunks - begin;
      use(found_.data() + begin);
    }
  }

  void prepare(int64_t i, const int64_t* found) {
    Edges<T>& edges = edges_[0];
    for (int64_t k = 0; k < kChunk; ++k) {
      const bool present = k < chunk_.edges;
      const int64_t e = present ? call_.edges.edge(found[k]) : -1;
      for (int64_t d = 0; d < 3; ++d) edges.vec[d][k] = present ? call_.vec[3 * e + d] : T(d == 0);
      edges.inverse_cutoff[k] = present ? inverse_cutoff(i, e) : T(1);
      if (present) chunk_.x[k] = call_.x + call_.edges.neighbour[e] * call_.conv.conv.dim_in;
    }
    call_.kernels.embed[call_.degree](edges, call_.conv.intervals);
    for (const auto& coupling : call_.plan.couplings) {
      coupling.kernels->matrix(edges.sh[coupling.sh_offset], matrix_.data() + coupling.matrix);
    }
  }

  // Cotangents of the linear map's output -> of the convolution, rows_ [nodes, K, dim_out].
  void to_convolution(int64_t begin, int64_t end) {
    const ConvSpec& spec = call_.conv.conv;
    const int64_t K = cotangents_;
    // Columns that no block takes have no effect.
    std::fill_n(rows_.data(), (end - begin) * K * spec.dim_out, T(0));
    for (const ColumnBlock& b : call_.conv.map.blocks) {
      from_.clear(), to_.clear();
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t k = 0; k < K; ++k) {
          const int64_t row = (first_cotangent_ + k) * call_.edges.nodes + i;
          const T* cotangent = call_.cotangent + row * call_.conv.map.dim_out;
          for (int64_t m = 0; m < b.components; ++m) {
            from_.push_back(cotangent + b.out_offset + m * b.mul_out);
            to_.push_back(rows_.data() + ((i - begin) * K + k) * spec.dim_out + b.in_offset + m * b.mul_in);
          }
        }
      }
      linear_map::active_kernels<T>().matmul(from_.data(), call_.linear + b.weight_offset, to_.data(),
                                             from_.size(), b.mul_out, b.mul_in);
    }
  }

  void write_dvec(int64_t k, const int64_t* found) {
    call_.kernels.sum_lanes(partial_.data() + k * kChunk * columns_ * call_.kernels.lanes, columns_,
                            gradient_.data());
    T dvec[3 * kChunk];
    call_.kernels.embed_vjp[call_.degree](edges_[0], gradient_.data(), dvec);
    for (int64_t e = 0; e < chunk_.edges; ++e) {
      T* p = call_.dvec + ((first_cotangent_ + k) * call_.edge_vecs.size(0) + call_.edges.edge(found[e])) * 3;
      for (int64_t d = 0; d < 3; ++d) p[d] = dvec[d * kChunk + e];
    }
  }

  const Call<T>& call_;
  int64_t first_cotangent_, cotangents_;
  int64_t columns_;  // of an edge's gradient: spherical harmonics, length
  Workspace<Edges<T>> edges_;
  Workspace<T> matrix_, weight_, slope_, dweight_, partial_, gradient_, chunk_rows_, rows_;
  std::vector<int64_t> found_;
  std::vector<const T*> from_;
  std::vector<T*> to_;
  conv::Chunk<T> chunk_{};
};

}  // namespace
}  // namespace uqforce
