// CPU kernels of force_variance: one walk over the edges, in which every atom collects its sums, and one over
// the atoms. The backward makes the first walk again, turns the sums into their adjoints, and hands these out
// to the edges.
//
// Threads own ranges of atoms; a thread meets an edge when it owns one of its ends. Virials are summed in
// double over fixed runs of atoms, added up in order: no result depends on the number of threads.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <array>
#include <vector>

#include "force_variance/arrays.h"
#include "force_variance/cpu_vector.h"
#include "force_variance/graph.h"

namespace uqforce::force_variance {

// Atoms owned by one thread, whose virials are summed before they are added to the structure's.
constexpr int64_t kChunk = 4 * Graph::kBlock;

template <typename S>
class Pass {
  using T = typename Types<S>::Plain;
  using Wide = typename Types<S>::Wide;
  using Vector = typename Types<S>::Vector;
  using View = typename Types<S>::View;
  using Matrix = std::array<Wide, 9>;

 public:
  View edge_vec, grad_energy, grad_sigma;
  const int64_t* batch;
  int64_t rows, members, sigma_members, structures;  // rows of grad_energy, of which members are the first
  bool local;
  T ddof;
  const Graph& graph;

  void forward(const ResultPointers<T>& out) const {
    const Sums sums = collect(true);
    const int64_t columns = virials();
    at::parallel_for(0, graph.atoms, kChunk, [&](int64_t begin, int64_t end) {
      for (const auto i : c10::irange(begin, end)) {
        const Vector* force = &sums.force[i * rows];
        const Vector average = average_of(force);
        for (const auto k : c10::irange(rows)) {
          store(stored(force[k]), out.member_forces + 3 * (k * graph.atoms + i));
        }
        S epistemic[6] = {}, aleatoric[6] = {}, x[3];
        for (const auto k : c10::irange(members)) {
          unpack(force[k] - average, x);
          add_outer(epistemic, spread(), x);
        }
        for (const auto k : c10::irange(sigma_members)) {
          unpack(sums.sigma[i * sigma_members + k], x);
          add_outer(aleatoric, sigma_mean(), x);
        }
        if (local) {
          for (const auto a : c10::irange(6)) aleatoric[a] += sums.pairs[6 * i + a];
          for (const auto k : c10::irange(sigma_members)) {
            write(sums.sigma_virial[i * sigma_members + k], out.sigma_virials + 9 * (k * graph.atoms + i));
          }
        }
        store(stored(average), out.forces + 3 * i);
        for (const auto a : c10::irange(6)) {
          out.aleatoric[6 * i + a] = stored(aleatoric[a]);
          out.epistemic[6 * i + a] = stored(epistemic[a]);
        }
      }
    });
    for (const auto b : c10::irange(structures)) {
      const Matrix* virial = &sums.virial[b * columns];
      for (const auto k : c10::irange(columns)) {
        T* const to = k < rows ? out.member_virials + 9 * (k * structures + b)
                               : out.sigma_virials + 9 * ((k - rows) * structures + b);
        write(virial[k], to);
      }
      for (const auto c : c10::irange(9)) {
        Wide sum(0), variance(0);
        for (const auto k : c10::irange(members)) sum += virial[k][c];
        const Wide average = double(mean()) * sum;
        for (const auto k : c10::irange(members)) {
          const Wide deviation = virial[k][c] - average;
          variance += double(spread()) * (deviation * deviation);
        }
        out.virial[9 * b + c] = T(stored(average));
        out.virial_variance[9 * b + c] = T(stored(variance));
      }
    }
  }

  void backward(const CotangentPointers<T>& c, const GradientPointers<T>& out) const {
    Sums sums = collect(false);
    at::parallel_for(0, graph.atoms, kChunk, [&](int64_t begin, int64_t end) {
      S x[3], adjoint[3];
      for (const auto i : c10::irange(begin, end)) {
        Vector* force = &sums.force[i * rows];
        const Vector average = average_of(force);
        for (const auto k : c10::irange(rows)) {
          const T* own = c.member_forces + 3 * (k * graph.atoms + i);
          for (const auto a : c10::irange(3)) adjoint[a] = S(own[a]);
          if (k < members) {
            unpack(force[k] - average, x);
            for (const auto a : c10::irange(3)) adjoint[a] += S(mean() * c.forces[3 * i + a]);
            // The deviations sum to zero, so the mean inside them adds nothing.
            add_outer_adjoint(adjoint, spread(), c.epistemic + 6 * i, x);
          }
          force[k] = vector(adjoint);
        }
        for (const auto k : c10::irange(sigma_members)) {
          Vector& sum = sums.sigma[i * sigma_members + k];
          unpack(sum, x);
          std::fill_n(adjoint, 3, S(0));
          add_outer_adjoint(adjoint, sigma_mean(), c.aleatoric + 6 * i, x);
          sum = vector(adjoint);
        }
      }
    });
    std::vector<Weight> weights(local ? graph.atoms : 0);
    for (const auto i : c10::irange(weights.size())) weights[i] = Weight(sigma_mean(), c.aleatoric + 6 * i);
    virial_adjoints(c, sums.virial);
    const int64_t columns = virials();
    std::vector<Tensor3> virial(structures * columns);
    for (const auto b : c10::irange(structures * columns)) virial[b] = Tensor3(sums.virial[b]);
    at::parallel_for(0, graph.atoms, kChunk, [&](int64_t begin, int64_t end) {
      std::vector<Vector> to_edge_vec;
      for (const auto i : c10::irange(begin, end)) {
        to_edge_vec.assign(graph.start[i + 1] - graph.start[i], Vector{});
        const Tensor3* of_structure = columns > 0 ? &virial[batch[i] * columns] : nullptr;
        for (const auto k : c10::irange(rows)) {
          distribute(i, {grad_energy, k, rows}, sums.force, of_structure[k], to_edge_vec.data(),
                     out.grad_energy);
        }
        for (const auto k : c10::irange(sigma_members)) {
          if (local) {
            const Tensor3 of_atom = adjoint_of(c.sigma_virials + 9 * (k * graph.atoms + i));
            distribute_pairs(i, k, sums, weights, of_atom, to_edge_vec.data(), out);
          } else {
            distribute(i, {grad_sigma, k, sigma_members}, sums.sigma, of_structure[rows + k],
                       to_edge_vec.data(), out.grad_sigma);
          }
        }
        for (const auto position : c10::irange(graph.start[i], graph.start[i + 1])) {
          const Vector& sum = to_edge_vec[position - graph.start[i]];
          store(stored(sum), out.edge_vec + 3 * graph.edge(position));
        }
      }
    });
  }

 private:
  // What atoms and structures collect from the edges.
  struct Sums {
    std::vector<Vector> force;         // [atoms, rows] over the atom's edges as a centre minus as a neighbour
    std::vector<Vector> sigma;         // the same of grad_sigma; local: over the edges to other atoms
    std::vector<S> pairs;              // local: [atoms, 6], the blocks of the ordered pairs that end at it
    std::vector<Matrix> virial;        // [structures, virials()], -sum of r x g
    std::vector<Matrix> sigma_virial;  // local: [atoms, sigma_members], the same over the atom's edges
  };

  // The matrix that makes the adjoint of a vector x from x where a block collects weight x x^T: weight * 2 C.
  struct Weight {
    Four<T> columns[3];

    Weight() = default;
    Weight(T weight, const T* c)
        : columns{{weight * 2 * c[0], weight * c[5], weight * c[4]},
                  {weight * c[5], weight * 2 * c[1], weight * c[3]},
                  {weight * c[4], weight * c[3], weight * 2 * c[2]}} {}
  };

  // A matrix by its rows and by its columns.
  struct Tensor3 {
    Vector rows[3], columns[3];

    Tensor3() = default;
    explicit Tensor3(const Matrix& matrix) {
      for (const auto a : c10::irange(3)) {
        S row[3], column[3];
        for (const auto b : c10::irange(3)) {
          row[b] = S(matrix[3 * a + b]);
          column[b] = S(matrix[3 * b + a]);
        }
        rows[a] = vector(row);
        columns[a] = vector(column);
      }
    }
  };

  T mean() const { return T(1) / T(members); }
  T sigma_mean() const { return T(1) / T(std::max<int64_t>(sigma_members, 1)); }
  T spread() const { return T(1) / (T(members) - ddof); }

  // Virials of each structure: of the rows, and, unless it is local, of grad_sigma.
  int64_t virials() const { return rows + (local ? 0 : sigma_members); }

  void write(const Matrix& matrix, T* to) const {
    for (const auto c : c10::irange(9)) to[c] = T(stored(matrix[c]));
  }

  // The adjoint of a sum of r x g under a cotangent [3,3] of its negative.
  Tensor3 adjoint_of(const T* cotangent) const {
    Matrix matrix;
    for (const auto c : c10::irange(9)) matrix[c] = Wide(-double(cotangent[c]));
    return Tensor3(matrix);
  }

  Sums collect(bool with_results) const {
    const int64_t chunks = (graph.atoms + kChunk - 1) / kChunk;
    const int64_t of_atoms = local && with_results ? graph.atoms : 0;
    Sums sums{std::vector<Vector>(graph.atoms * rows, Vector{}),
              std::vector<Vector>(graph.atoms * sigma_members, Vector{}), std::vector<S>(6 * of_atoms, S(0)),
              std::vector<Matrix>(structures * virials()), std::vector<Matrix>(of_atoms * sigma_members)};
    struct Run {  // consecutive atoms of one structure
      int64_t structure;
      std::vector<Matrix> virial;
    };
    std::vector<std::vector<Run>> runs(chunks);
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kChunk,
                    last = std::min(graph.atoms, end * kChunk);  // this thread's atoms
      for (int64_t from = 0; from < graph.atoms; from += Graph::kBlock) {
        const bool mine = from >= first && from < last;
        if (!mine && !graph.has_neighbours(from / Graph::kBlock, first, last)) continue;
        for (int64_t i = from; i < std::min(graph.atoms, from + Graph::kBlock); ++i) {
          Matrix* virial = nullptr;
          if (mine) {
            auto& chunk = runs[i / kChunk];
            if (chunk.empty() || chunk.back().structure != batch[i]) {
              chunk.push_back({batch[i], std::vector<Matrix>(virials())});
            }
            virial = chunk.back().virial.data();
          }
          visit(i, first, last, virial, sums);
        }
      }
    });
    for (const auto& chunk : runs) {
      for (const auto& run : chunk) {
        for (const auto k : c10::irange(virials())) {
          Matrix& total = sums.virial[run.structure * virials() + k];
          for (const auto c : c10::irange(9)) total[c] += run.virial[k][c];
        }
      }
    }
    return sums;
  }

  // Adds the edges of centre i to the sums of those ends that lie in [first, last).
  void visit(int64_t i, int64_t first, int64_t last, Matrix* virial, Sums& sums) const {
    for (const auto k : c10::irange(rows)) {
      add_edges(i, first, last, {grad_energy, k, rows}, sums.force.data(), virial ? virial + k : nullptr);
    }
    for (const auto k : c10::irange(sigma_members)) {
      if (local) {
        add_pairs(i, first, last, k, sums);
        if (virial && !sums.sigma_virial.empty()) {
          add_virial(i, {grad_sigma, k, sigma_members}, sums.sigma_virial[i * sigma_members + k]);
        }
      } else {
        add_edges(i, first, last, {grad_sigma, k, sigma_members}, sums.sigma.data(),
                  virial ? virial + rows + k : nullptr);
      }
    }
  }

  struct Member {
    View gradient;
    int64_t k, of;
  };

  // Also virial -= r x g, where wanted.
  void add_edges(int64_t i, int64_t first, int64_t last, Member member, Vector* sums, Matrix* virial) const {
    virial ? add_edges<true>(i, first, last, member, sums, virial)
           : add_edges<false>(i, first, last, member, sums, virial);
  }

  template <bool with_virial>
  void add_edges(int64_t i, int64_t first, int64_t last, Member member, Vector* sums, Matrix* to) const {
    const int64_t row = member.k * graph.edges;
    Vector sum{}, virial[3] = {};
    for (int64_t position = graph.start[i], end = graph.start[i + 1]; position < end; ++position) {
      const int64_t e = graph.edge(position), j = graph.neighbour[e];
      const Vector g = member.gradient[row + e];
      sum += g;
      if (j >= first && j < last) sums[j * member.of + member.k] -= g;
      if constexpr (with_virial) {
        const Vector r = edge_vec[e];
        for (int a = 0; a < 3; ++a) virial[a] += broadcast(at(r, a)) * g;
      }
    }
    if (i >= first && i < last) sums[i * member.of + member.k] += sum;
    if constexpr (with_virial) subtract(virial, *to);
  }

  void add_virial(int64_t i, Member member, Matrix& to) const {
    Vector virial[3] = {};
    for (int64_t position = graph.start[i]; position < graph.start[i + 1]; ++position) {
      const int64_t e = graph.edge(position);
      const Vector r = edge_vec[e], g = member.gradient[member.k * graph.edges + e];
      for (int a = 0; a < 3; ++a) virial[a] += broadcast(at(r, a)) * g;
    }
    subtract(virial, to);
  }

  void subtract(const Vector* virial, Matrix& from) const {
    for (const auto a : c10::irange(9)) from[a] -= Wide(at(virial[a / 3], a % 3));
  }

  void add_pairs(int64_t i, int64_t first, int64_t last, int64_t k, Sums& sums) const {
    Vector sum{};
    for_each_pair(i, k, [&](int64_t j, int64_t, int64_t, const Vector& a) {
      if (j == i) return;
      sum += a;
      if (j < first || j >= last || sums.pairs.empty()) return;
      S x[3];
      unpack(a, x);
      add_outer(&sums.pairs[6 * j], sigma_mean(), x);
    });
    if (i >= first && i < last) sums.sigma[i * sigma_members + k] = sum;
  }

  // Calls use(j, begin, end, sum of member k's grad_sigma) for each neighbour j of centre i and the positions
  // of its images.
  template <typename Use>
  void for_each_pair(int64_t i, int64_t k, Use use) const {
    for (int64_t begin = graph.start[i], end; begin < graph.start[i + 1]; begin = end) {
      const int64_t j = graph.neighbour[graph.edge(begin)];
      Vector a{};
      for (end = begin; end < graph.start[i + 1] && graph.neighbour[graph.edge(end)] == j; ++end) {
        a += grad_sigma[k * graph.edges + graph.edge(end)];
      }
      use(j, begin, end, a);
    }
  }

  // The mean over the members' forces on an atom.
  Vector average_of(const Vector* force) const {
    Vector sum{};
    for (const auto k : c10::irange(members)) sum += force[k];
    S average[3];
    for (const auto a : c10::irange(3)) average[a] = mean() * at(sum, a);
    return vector(average);
  }

  static void unpack(const Vector& a, S* x) {
    for (const auto i : c10::irange(3)) x[i] = at(a, i);
  }

  // In place: the members' virials become the adjoints of their sums of r x g.
  void virial_adjoints(const CotangentPointers<T>& c, std::vector<Matrix>& all) const {
    for (const auto b : c10::irange(structures)) {
      Matrix* const virials = all.data() + b * this->virials();
      for (const auto a : c10::irange(9)) {
        Wide average(0);
        for (const auto k : c10::irange(members)) average += virials[k][a];
        average = (1.0 / double(members)) * average;
        for (const auto k : c10::irange(this->virials())) {
          Wide& virial = virials[k][a];
          const Wide deviation = virial - average;
          const T* own = k < rows ? c.member_virials + 9 * (k * structures + b)
                                  : c.sigma_virials + 9 * ((k - rows) * structures + b);
          virial = Wide(-double(own[a]));
          if (k < members) {
            virial += Wide(-double(mean()) * double(c.virial[9 * b + a])) -
                      (2.0 * double(spread()) * double(c.virial_variance[9 * b + a])) * deviation;
          }
        }
      }
    }
  }

  // The gradients of a member's gradient, and what it adds to those of edge_vec, on the edges of centre i.
  void distribute(int64_t i, Member member, const std::vector<Vector>& adjoints, const Tensor3& virial,
                  Vector* to_edge_vec, T* out) const {
    const Vector of_centre = adjoints[i * member.of + member.k];
    const Tensor3 w = virial;
    for (int64_t position = graph.start[i]; position < graph.start[i + 1]; ++position) {
      const int64_t e = graph.edge(position), row = member.k * graph.edges + e;
      const Vector r = edge_vec[e], g = member.gradient[row];
      Vector adjoint = of_centre - adjoints[graph.neighbour[e] * member.of + member.k];
      for (int a = 0; a < 3; ++a) {
        adjoint += broadcast(at(r, a)) * w.rows[a];
        *to_edge_vec += broadcast(at(g, a)) * w.columns[a];
      }
      ++to_edge_vec;
      store(stored(adjoint), out + 3 * row);
    }
  }

  // Local: the same of member k's grad_sigma, `virial` that of the atom i.
  void distribute_pairs(int64_t i, int64_t k, const Sums& adjoints, const std::vector<Weight>& weights,
                        const Tensor3& virial, Vector* to_edge_vec, const GradientPointers<T>& out) const {
    const Vector of_centre = adjoints.sigma[i * sigma_members + k];
    for_each_pair(i, k, [&](int64_t j, int64_t begin, int64_t end, const Vector& sum) {
      Vector adjoint{};
      if (j != i) {
        adjoint = of_centre;
        for (int a = 0; a < 3; ++a) adjoint += weights[j].columns[a] * broadcast(at(sum, a));
      }
      for (const auto position : c10::irange(begin, end)) {
        const int64_t e = graph.edge(position), row = k * graph.edges + e;
        const Vector r = edge_vec[e], g = grad_sigma[row];
        Vector of_edge = adjoint;
        for (int a = 0; a < 3; ++a) {
          of_edge += broadcast(at(r, a)) * virial.rows[a];
          to_edge_vec[position - graph.start[i]] += broadcast(at(g, a)) * virial.columns[a];
        }
        store(stored(of_edge), out.grad_sigma + 3 * row);
      }
    });
  }
};

}  // namespace uqforce::force_variance
