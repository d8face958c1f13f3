// CPU kernels of force_variance: every atom gathers from its own edges, members one after the other.
//
// Forward: one pass over the edges; an atom's K sums live in a few local numbers. Backward: one pass over the
// atoms repeats the sums and leaves the adjoints of each member's sums, a second one distributes them to the
// edges. Virials are summed in double over fixed runs of atoms, added up in order: no result depends on the
// number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "force_variance/body.h"
#include "force_variance/graph.h"
#include "force_variance/op.h"

namespace uqforce::force_variance {
namespace {

constexpr int64_t kChunk = 256;  // atoms whose virials are summed before they are added to the structure's

template <typename T>
struct ResultPointers {
  T *forces, *aleatoric, *epistemic, *virial, *virial_variance;
};
template <typename T>
struct CotangentPointers {
  const T *forces, *aleatoric, *epistemic, *virial, *virial_variance;
};
template <typename T>
struct GradientPointers {
  T *edge_vec, *grad_energy, *grad_sigma;
};

template <typename S>
class Pass {
  using T = typename Types<S>::Plain;
  using Wide = typename Types<S>::Wide;
  using View = typename Types<S>::View;
  using Matrix = std::array<Wide, 9>;

 public:
  View edge_vec, grad_energy, grad_sigma;
  const int64_t* batch;
  int64_t members, sigma_members, structures;
  bool local;
  T ddof;
  const Graph& graph;

  void forward(const ResultPointers<T>& out) const {
    const T mean = T(1) / T(members), sigma_mean = T(1) / T(std::max<int64_t>(sigma_members, 1));
    const T spread = T(1) / (T(members) - ddof);
    const auto virials = chunked([&](int64_t i, S* force, S* sigma, Matrix* virial) {
      sum_edges(i, force, sigma, virial);
      subtract_mean(force, &force[3 * members]);
      S epistemic[6] = {}, aleatoric[6] = {};
      for (const auto k : c10::irange(members)) add_outer(epistemic, spread, force + 3 * k);
      for (const auto k : c10::irange(sigma_members)) add_outer(aleatoric, sigma_mean, sigma + 3 * k);
      if (local) {
        pair_sums(i, [&](int64_t, int64_t, int64_t, const S* a) { add_outer(aleatoric, sigma_mean, a); });
      }
      for (const auto a : c10::irange(3)) out.forces[3 * i + a] = stored(force[3 * members + a]);
      for (const auto a : c10::irange(6)) {
        out.aleatoric[6 * i + a] = stored(aleatoric[a]);
        out.epistemic[6 * i + a] = stored(epistemic[a]);
      }
    });
    for (const auto b : c10::irange(structures)) {
      for (const auto c : c10::irange(9)) {
        Wide sum(0), variance(0);
        for (const auto k : c10::irange(members)) sum += virials[b * members + k][c];
        const Wide average = double(mean) * sum;
        for (const auto k : c10::irange(members)) {
          const Wide deviation = virials[b * members + k][c] - average;
          variance += double(spread) * (deviation * deviation);
        }
        out.virial[9 * b + c] = T(stored(average));
        out.virial_variance[9 * b + c] = T(stored(variance));
      }
    }
  }

  void backward(const CotangentPointers<T>& c, const GradientPointers<T>& out) const {
    const T mean = T(1) / T(members), sigma_mean = T(1) / T(std::max<int64_t>(sigma_members, 1));
    const T spread = T(1) / (T(members) - ddof);
    // Adjoints of each member's sums, [N, members, 3].
    std::vector<S> force_adjoint(3 * members * graph.atoms), sigma_adjoint(3 * sigma_members * graph.atoms);
    auto virials = chunked([&](int64_t i, S* force, S* sigma, Matrix* virial) {
      sum_edges(i, force, sigma, virial);
      S average[3];
      subtract_mean(force, average);
      for (const auto k : c10::irange(members)) {
        S* adjoint = &force_adjoint[3 * (i * members + k)];
        for (const auto a : c10::irange(3)) adjoint[a] = S(mean * c.forces[3 * i + a]);
        // The deviations sum to zero, so the mean inside them adds nothing.
        add_outer_adjoint(adjoint, spread, c.epistemic + 6 * i, force + 3 * k);
      }
      for (const auto k : c10::irange(sigma_members)) {
        S* adjoint = &sigma_adjoint[3 * (i * sigma_members + k)];
        std::fill_n(adjoint, 3, S(0));
        add_outer_adjoint(adjoint, sigma_mean, c.aleatoric + 6 * i, sigma + 3 * k);
      }
      if (local) {
        pair_sums(i, [&](int64_t k, int64_t first, int64_t last, const S* a) {
          S adjoint[3] = {S(0), S(0), S(0)};
          add_outer_adjoint(adjoint, sigma_mean, c.aleatoric + 6 * i, a);
          for (const auto position : c10::irange(first, last)) {
            T* row = out.grad_sigma + 3 * (k * graph.edges + graph.in[position]);
            for (const auto b : c10::irange(3)) row[b] = stored(adjoint[b]);
          }
        });
      }
    });
    virial_adjoints(c, mean, spread, virials);
    at::parallel_for(0, graph.atoms, kChunk, [&](int64_t begin, int64_t end) {
      for (const auto i : c10::irange(begin, end)) {
        for (const auto position : c10::irange(graph.out_start[i], graph.out_start[i + 1])) {
          distribute(graph.out_edge(position), virials, force_adjoint, sigma_adjoint, out);
        }
      }
    });
  }

 private:
  // force[k] = sum of grad_energy[k] over the edges of centre i minus that over those of neighbour i, and
  // virial[k]
  // += -r x g. sigma[k]: the same sum of grad_sigma; `local`: over the edges of centre i to other atoms.
  void sum_edges(int64_t i, S* force, S* sigma, Matrix* virial) const {
    for (const auto k : c10::irange(members)) {
      S f[3] = {}, w[9] = {};
      for (const auto position : c10::irange(graph.out_start[i], graph.out_start[i + 1])) {
        const int64_t e = graph.out_edge(position), row = 3 * (k * graph.edges + e);
        for (const auto b : c10::irange(3)) {
          const S g = grad_energy[row + b];
          f[b] += g;
          for (const auto a : c10::irange(3)) w[3 * a + b] -= edge_vec[3 * e + a] * g;
        }
      }
      for (const auto position : c10::irange(graph.in_start[i], graph.in_start[i + 1])) {
        const int64_t row = 3 * (k * graph.edges + graph.in[position]);
        for (const auto b : c10::irange(3)) f[b] -= grad_energy[row + b];
      }
      std::copy_n(f, 3, force + 3 * k);
      for (const auto a : c10::irange(9)) virial[k][a] += Wide(w[a]);
    }
    for (const auto k : c10::irange(sigma_members)) {
      S s[3] = {};
      for (const auto position : c10::irange(graph.out_start[i], graph.out_start[i + 1])) {
        const int64_t e = graph.out_edge(position), row = 3 * (k * graph.edges + e);
        if (local && graph.neighbour[e] == i) continue;
        for (const auto b : c10::irange(3)) s[b] += grad_sigma[row + b];
      }
      if (!local) {
        for (const auto position : c10::irange(graph.in_start[i], graph.in_start[i + 1])) {
          const int64_t row = 3 * (k * graph.edges + graph.in[position]);
          for (const auto b : c10::irange(3)) s[b] -= grad_sigma[row + b];
        }
      }
      std::copy_n(s, 3, sigma + 3 * k);
    }
  }

  // Calls use(member, first, last, sum of grad_sigma) for the edges in[first..last) from each other atom to
  // atom i: all images of one ordered pair.
  template <typename Use>
  void pair_sums(int64_t i, Use use) const {
    for (int64_t first = graph.in_start[i], last; first < graph.in_start[i + 1]; first = last) {
      const int64_t centre = graph.centre[graph.in[first]];
      last = first + 1;
      while (last < graph.in_start[i + 1] && graph.centre[graph.in[last]] == centre) ++last;
      if (centre == i) continue;
      for (const auto k : c10::irange(sigma_members)) {
        S a[3] = {S(0), S(0), S(0)};
        for (const auto position : c10::irange(first, last)) {
          const int64_t row = 3 * (k * graph.edges + graph.in[position]);
          for (const auto b : c10::irange(3)) a[b] += grad_sigma[row + b];
        }
        use(k, first, last, a);
      }
    }
  }

  void subtract_mean(S* force, S* average) const {
    std::fill_n(average, 3, S(0));
    for (const auto k : c10::irange(members)) {
      for (const auto a : c10::irange(3)) average[a] += force[3 * k + a];
    }
    for (const auto a : c10::irange(3)) average[a] = (T(1) / T(members)) * average[a];
    for (const auto k : c10::irange(members)) {
      for (const auto a : c10::irange(3)) force[3 * k + a] -= average[a];
    }
  }

  // Calls use(atom, room for members + 1 vectors, room for sigma_members vectors, virials of the members) for
  // all atoms, in parallel over fixed chunks; returns the virials [structures * members].
  template <typename Use>
  std::vector<Matrix> chunked(Use use) const {
    const int64_t chunks = (graph.atoms + kChunk - 1) / kChunk;
    struct Run {  // consecutive atoms of one structure
      int64_t structure;
      std::vector<Matrix> virial;
    };
    std::vector<std::vector<Run>> runs(chunks);
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      std::vector<S> force(3 * (members + 1)), sigma(3 * sigma_members);
      for (const auto chunk : c10::irange(begin, end)) {
        for (const auto i : c10::irange(chunk * kChunk, std::min(graph.atoms, (chunk + 1) * kChunk))) {
          if (runs[chunk].empty() || runs[chunk].back().structure != batch[i]) {
            runs[chunk].push_back({batch[i], std::vector<Matrix>(members)});
          }
          use(i, force.data(), sigma.data(), runs[chunk].back().virial.data());
        }
      }
    });
    std::vector<Matrix> virials(structures * members);
    for (const auto& chunk : runs) {
      for (const auto& run : chunk) {
        for (const auto k : c10::irange(members)) {
          Matrix& total = virials[run.structure * members + k];
          for (const auto c : c10::irange(9)) total[c] += run.virial[k][c];
        }
      }
    }
    return virials;
  }

  // In place: the members' virials become the adjoints of their sums of r x g.
  void virial_adjoints(const CotangentPointers<T>& c, T mean, T spread, std::vector<Matrix>& virials) const {
    for (const auto b : c10::irange(structures)) {
      for (const auto a : c10::irange(9)) {
        Wide average(0);
        for (const auto k : c10::irange(members)) average += virials[b * members + k][a];
        average = (1.0 / double(members)) * average;
        for (const auto k : c10::irange(members)) {
          Wide& virial = virials[b * members + k][a];
          const Wide deviation = virial - average;
          virial = Wide(-double(mean) * double(c.virial[9 * b + a])) -
                   (2.0 * double(spread) * double(c.virial_variance[9 * b + a])) * deviation;
        }
      }
    }
  }

  void distribute(int64_t e, const std::vector<Matrix>& virial_adjoint, const std::vector<S>& force_adjoint,
                  const std::vector<S>& sigma_adjoint, const GradientPointers<T>& out) const {
    const int64_t i = graph.centre[e], j = graph.neighbour[e];
    S edge_vec_adjoint[3] = {S(0), S(0), S(0)};
    for (const auto k : c10::irange(members)) {
      const int64_t row = 3 * (k * graph.edges + e);
      const S* of_centre = &force_adjoint[3 * (i * members + k)];
      const S* of_neighbour = &force_adjoint[3 * (j * members + k)];
      const Matrix& w = virial_adjoint[batch[i] * members + k];
      for (const auto b : c10::irange(3)) {
        S adjoint = of_centre[b] - of_neighbour[b];
        for (const auto a : c10::irange(3)) {
          adjoint += S(w[3 * a + b]) * edge_vec[3 * e + a];
          edge_vec_adjoint[a] += S(w[3 * a + b]) * grad_energy[row + b];
        }
        out.grad_energy[row + b] = stored(adjoint);
      }
    }
    for (const auto a : c10::irange(3)) out.edge_vec[3 * e + a] = stored(edge_vec_adjoint[a]);
    for (const auto k : c10::irange(sigma_members)) {
      T* adjoint = out.grad_sigma + 3 * (k * graph.edges + e);
      const S* of_centre = &sigma_adjoint[3 * (i * sigma_members + k)];
      const S* of_neighbour = &sigma_adjoint[3 * (j * sigma_members + k)];
      for (const auto a : c10::irange(3)) {
        if (!local) {
          adjoint[a] = stored(of_centre[a] - of_neighbour[a]);
        } else if (i == j) {
          adjoint[a] = T(0);
        } else {
          adjoint[a] += stored(of_centre[a]);  // to what the pair's block has left there
        }
      }
    }
  }
};

struct Contiguous {
  Tensor edge_index, edge_vec, grad_energy, grad_sigma, batch;
  Graph graph;
  int64_t structures;

  explicit Contiguous(UQFORCE_INPUTS)
      : edge_index(edge_index.contiguous()),
        edge_vec(edge_vec.contiguous()),
        grad_energy(grad_energy.contiguous()),
        grad_sigma(grad_sigma.contiguous()),
        batch(batch.contiguous()),
        graph(this->edge_index.const_data_ptr<int64_t>(),
              this->edge_index.const_data_ptr<int64_t>() + edge_index.size(1), batch.size(0),
              edge_index.size(1)),
        structures(num_structures.expect_int()) {
    const int64_t* structure = this->batch.const_data_ptr<int64_t>();
    for (const auto i : c10::irange(graph.atoms)) {
      TORCH_CHECK_VALUE(structure[i] >= 0 && structure[i] < structures, "batch holds structure ",
                        structure[i], " at atom ", i, ", but num_structures is ", structures);
    }
  }

  template <typename S>
  Pass<S> pass(typename Types<S>::View r, typename Types<S>::View g, typename Types<S>::View s, bool local,
               int64_t ddof) const {
    using T = typename Types<S>::Plain;
    return {r,
            g,
            s,
            batch.const_data_ptr<int64_t>(),
            grad_energy.size(0),
            grad_sigma.size(0),
            structures,
            local,
            T(ddof),
            graph};
  }

  template <typename T>
  Pass<T> pass(bool local, int64_t ddof) const {
    return pass<T>({edge_vec.const_data_ptr<T>()}, {grad_energy.const_data_ptr<T>()},
                   {grad_sigma.const_data_ptr<T>()}, local, ddof);
  }
};

Results empty_results(const Tensor& like, int64_t atoms, int64_t structures) {
  return {like.new_empty({atoms, 3}), like.new_empty({atoms, 6}), like.new_empty({atoms, 6}),
          like.new_empty({structures, 3, 3}), like.new_empty({structures, 3, 3})};
}

Gradients empty_gradients(const Contiguous& in) {
  return {at::empty_like(in.edge_vec), at::empty_like(in.grad_energy), at::empty_like(in.grad_sigma)};
}

template <typename T>
ResultPointers<T> pointers(const Results& r) {
  return std::apply([](auto&... t) { return ResultPointers<T>{t.template mutable_data_ptr<T>()...}; }, r);
}

template <typename T>
GradientPointers<T> pointers(const Gradients& r) {
  return std::apply([](auto&... t) { return GradientPointers<T>{t.template mutable_data_ptr<T>()...}; }, r);
}

// Calls use(T{}) with T of `tensor`.
template <typename Use>
void with_type(const Tensor& tensor, Use use) {
  tensor.scalar_type() == at::kFloat ? use(float{}) : use(double{});
}

Results forward_cpu(UQFORCE_INPUTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  Results results = empty_results(grad_energy, in.graph.atoms, in.structures);
  with_type(grad_energy, [&]<typename T>(T) { in.pass<T>(local, ddof).forward(pointers<T>(results)); });
  return results;
}

Gradients backward_cpu(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  const Tensor c[] = {c_forces.contiguous(), c_aleatoric.contiguous(), c_epistemic.contiguous(),
                      c_virial.contiguous(), c_virial_variance.contiguous()};
  Gradients gradients = empty_gradients(in);
  with_type(grad_energy, [&]<typename T>(T) {
    in.pass<T>(local, ddof)
        .backward({c[0].const_data_ptr<T>(), c[1].const_data_ptr<T>(), c[2].const_data_ptr<T>(),
                   c[3].const_data_ptr<T>(), c[4].const_data_ptr<T>()},
                  pointers<T>(gradients));
  });
  return gradients;
}

Directional double_backward_cpu(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  check_directions(UQFORCE_INPUT_NAMES, UQFORCE_DIRECTION_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  const Tensor c[] = {c_forces.contiguous(), c_aleatoric.contiguous(), c_epistemic.contiguous(),
                      c_virial.contiguous(), c_virial_variance.contiguous()};
  const Tensor u[] = {u_edge_vec.contiguous(), u_grad_energy.contiguous(), u_grad_sigma.contiguous()};
  Results results = empty_results(grad_energy, in.graph.atoms, in.structures);
  Gradients gradients = empty_gradients(in);
  with_type(grad_energy, [&]<typename T>(T) {
    const auto pass =
        in.pass<Dual<T>>({in.edge_vec.const_data_ptr<T>(), u[0].const_data_ptr<T>()},
                         {in.grad_energy.const_data_ptr<T>(), u[1].const_data_ptr<T>()},
                         {in.grad_sigma.const_data_ptr<T>(), u[2].const_data_ptr<T>()}, local, ddof);
    pass.forward(pointers<T>(results));
    pass.backward({c[0].const_data_ptr<T>(), c[1].const_data_ptr<T>(), c[2].const_data_ptr<T>(),
                   c[3].const_data_ptr<T>(), c[4].const_data_ptr<T>()},
                  pointers<T>(gradients));
  });
  return std::tuple_cat(results, gradients);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("force_variance", forward_cpu);
  m.impl("force_variance_backward", backward_cpu);
  m.impl("force_variance_double_backward", double_backward_cpu);
}

}  // namespace uqforce::force_variance
