// CUDA kernels of force_variance: the CPU's passes (cpu_pass.h). A warp walks over an atom's edges, once as
// their centre and once as their neighbour, and sums them for all members; a thread turns an atom's sums into
// results, or into adjoints; threads hand these out to the edges.
#include <algorithm>
#include <cmath>

#include "common/cuda.h"
#include "common/cuda_groups.h"
#include "common/cuda_layout.h"
#include "force_variance/body.h"
#include "force_variance/cuda.h"

namespace uqforce::force_variance {
namespace {

// Of S = T or Dual<T>: the plain number, the accumulator of virials, and how inputs are read.
template <typename S>
struct Types {
  using Plain = S;
  using Wide = double;
  static constexpr int numbers = 1;
};
template <typename T>
struct Types<Dual<T>> {
  using Plain = T;
  using Wide = Dual<double>;
  static constexpr int numbers = 2;
};

template <typename S>
struct Input {
  using T = typename Types<S>::Plain;
  const T *values, *slopes;

  __device__ S operator[](int64_t i) const {
    if constexpr (Types<S>::numbers == 2) {
      return {values[i], slopes[i]};
    } else {
      return values[i];
    }
  }
};

template <typename S>
struct Arrays {
  using T = typename Types<S>::Plain;
  using Wide = typename Types<S>::Wide;

  Graph graph;
  Input<S> edge_vec, grad_energy, grad_sigma;
  int64_t rows, members, sigma_members;  // rows of grad_energy, of which members are the first
  bool local;
  T ddof;
  S *force, *sigma;  // [atoms, rows, 3] and [atoms, sigma_members, 3]: sums, then their adjoints
  S* pairs;          // [atoms, 6]: local, the blocks of the ordered pairs that end at the atom
  S* virial_rows;    // [atoms, virials(), 9]: -r x g of the edges of a centre
  S* sigma_virial;   // [atoms, sigma_members, 9]: local, the same of grad_sigma
  Wide* virial;      // [structures, virials(), 9]: their sums, then the adjoints of the sums of r x g

  // Virials of each structure: of the rows, and, unless it is local, of grad_sigma.
  __host__ __device__ int64_t virials() const { return rows + (local ? 0 : sigma_members); }
  __device__ T mean() const { return T(1) / T(members); }
  __device__ T sigma_mean() const { return T(1) / T(max(sigma_members, int64_t(1))); }
  __device__ T spread() const { return T(1) / (T(members) - ddof); }
  // NaN where the graph is bad.
  __device__ T checked(S x) const { return *graph.bad ? T(NAN) : stored(x); }
};

template <typename S>
__device__ void load(const Input<S>& input, int64_t row, S (&x)[3]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) x[c] = input[3 * row + c];
}

// The images of an ordered pair stand together among the edges of a neighbour: from `begin` on, whether an
// edge is the first of them, and behind the last.
__device__ bool is_first_image(const Graph& graph, int64_t begin, int64_t row_begin) {
  return begin == row_begin ||
         graph.centre[graph.by_neighbour.order[begin]] != graph.centre[graph.by_neighbour.order[begin - 1]];
}
__device__ int64_t last_image(const Graph& graph, int64_t begin, int64_t row_end) {
  const int64_t centre = graph.centre[graph.by_neighbour.order[begin]];
  int64_t end = begin + 1;
  while (end < row_end && graph.centre[graph.by_neighbour.order[end]] == centre) ++end;
  return end;
}

// The sum of member k's grad_sigma over a pair's images.
template <typename S>
__device__ void sum_images(const Arrays<S>& a, int64_t k, int64_t begin, int64_t end, S (&sum)[3]) {
  for (int c = 0; c < 3; ++c) sum[c] = S(0);
  for (int64_t p = begin; p < end; ++p) {
    S x[3];
    load(a.grad_sigma, k * a.graph.edges + a.graph.by_neighbour.order[p], x);
    for (int c = 0; c < 3; ++c) sum[c] += x[c];
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads, sizeof(S) > 4 ? 2 : 4) collect(Arrays<S> a, bool with_pairs) {
  const int64_t i = global_thread() / kWarp;
  if (i >= a.graph.atoms) return;
  const Graph& graph = a.graph;
  const int lane = threadIdx.x % kWarp;
  S* const shared = shared_memory<S>() + threadIdx.x / kWarp * warp_sum_size(12);
  const int64_t begin = graph.lists.by_centre.begin[i] + lane, end = graph.lists.by_centre.begin[i + 1];
  const int64_t others = graph.by_neighbour.begin[i], others_end = graph.by_neighbour.begin[i + 1];
  for (int64_t k = 0; k < a.rows; ++k) {
    S sum[12] = {};  // force, virial
    for (int64_t p = begin; p < end; p += kWarp) {
      const int64_t e = graph.lists.by_centre.order[p];
      S g[3], r[3];
      load(a.grad_energy, k * graph.edges + e, g);
      load(a.edge_vec, e, r);
      for (int c = 0; c < 3; ++c) {
        sum[c] += g[c];
        for (int row = 0; row < 3; ++row) sum[3 + 3 * row + c] -= r[row] * g[c];
      }
    }
    for (int64_t p = others + lane; p < others_end; p += kWarp) {
      S g[3];
      load(a.grad_energy, k * graph.edges + graph.by_neighbour.order[p], g);
      for (int c = 0; c < 3; ++c) sum[c] -= g[c];
    }
    const S total = warp_sum(sum, shared);
    if (lane < 3) a.force[(i * a.rows + k) * 3 + lane] = total;
    if (3 <= lane && lane < 12) a.virial_rows[(i * a.virials() + k) * 9 + lane - 3] = total;
  }
  S block[6] = {};
  for (int64_t k = 0; k < a.sigma_members; ++k) {
    S sum[12] = {};  // slope, virial
    for (int64_t p = begin; p < end; p += kWarp) {
      const int64_t e = graph.lists.by_centre.order[p];
      S x[3], r[3];
      load(a.grad_sigma, k * graph.edges + e, x);
      load(a.edge_vec, e, r);
      const bool counts = !a.local || graph.neighbour[e] != i;
      for (int c = 0; c < 3; ++c) {
        if (counts) sum[c] += x[c];
        for (int row = 0; row < 3; ++row) sum[3 + 3 * row + c] -= r[row] * x[c];
      }
    }
    for (int64_t p = others + lane; p < others_end; p += kWarp) {
      S x[3];
      if (!a.local) {
        load(a.grad_sigma, k * graph.edges + graph.by_neighbour.order[p], x);
        for (int c = 0; c < 3; ++c) sum[c] -= x[c];
      } else if (with_pairs && is_first_image(graph, p, others) &&
                 graph.centre[graph.by_neighbour.order[p]] != i) {
        sum_images(a, k, p, last_image(graph, p, others_end), x);
        add_outer(block, a.sigma_mean(), x);
      }
    }
    const S total = warp_sum(sum, shared);
    if (lane < 3) a.sigma[(i * a.sigma_members + k) * 3 + lane] = total;
    S* const virial = a.local ? a.sigma_virial + (i * a.sigma_members + k) * 9
                              : a.virial_rows + (i * a.virials() + a.rows + k) * 9;
    if (3 <= lane && lane < 12) virial[lane - 3] = total;
  }
  if (!a.local || !with_pairs) return;
  const S total = warp_sum(block, shared);
  if (lane < 6) a.pairs[6 * i + lane] = total;
}

// The mean over the members' forces on an atom.
template <typename S>
__device__ void average_of(const Arrays<S>& a, const S* force, S (&average)[3]) {
  for (int c = 0; c < 3; ++c) {
    S sum(0);
    for (int64_t k = 0; k < a.members; ++k) sum += force[3 * k + c];
    average[c] = a.mean() * sum;
  }
}

template <typename S>
__global__ void write_atoms(Arrays<S> a, ResultPointers<typename Types<S>::Plain> out) {
  using T = typename Types<S>::Plain;
  const int64_t i = global_thread();
  if (i >= a.graph.atoms) return;
  const S *force = a.force + i * a.rows * 3, *sigma = a.sigma + i * a.sigma_members * 3;
  for (int64_t k = 0; k < a.rows; ++k) {
    T* const own = out.member_forces + (k * a.graph.atoms + i) * 3;
    for (int c = 0; c < 3; ++c) own[c] = a.checked(force[3 * k + c]);
  }
  for (int64_t k = 0; a.local && k < a.sigma_members; ++k) {
    T* const own = out.sigma_virials + (k * a.graph.atoms + i) * 9;
    for (int c = 0; c < 9; ++c) own[c] = a.checked(a.sigma_virial[(i * a.sigma_members + k) * 9 + c]);
  }
  S average[3], epistemic[6] = {}, aleatoric[6] = {}, x[3];
  average_of(a, force, average);
  for (int64_t k = 0; k < a.members; ++k) {
    for (int c = 0; c < 3; ++c) x[c] = force[3 * k + c] - average[c];
    add_outer(epistemic, a.spread(), x);
  }
  for (int64_t k = 0; k < a.sigma_members; ++k) {
    for (int c = 0; c < 3; ++c) x[c] = sigma[3 * k + c];
    add_outer(aleatoric, a.sigma_mean(), x);
  }
  for (int c = 0; c < 3; ++c) out.forces[3 * i + c] = a.checked(average[c]);
  for (int c = 0; c < 6; ++c) {
    if (a.local) aleatoric[c] += a.pairs[6 * i + c];
    out.aleatoric[6 * i + c] = a.checked(aleatoric[c]);
    out.epistemic[6 * i + c] = a.checked(epistemic[c]);
  }
}

// The mean of the members' entry of a structure's virial; thread 9 b + c.
template <typename S>
__device__ typename Types<S>::Wide mean_virial(const Arrays<S>& a, int64_t b, int64_t c) {
  typename Types<S>::Wide sum(0);
  for (int64_t k = 0; k < a.members; ++k) sum += a.virial[(b * a.virials() + k) * 9 + c];
  return (1 / double(a.members)) * sum;
}

template <typename S>
__global__ void write_virials(Arrays<S> a, ResultPointers<typename Types<S>::Plain> out) {
  using Wide = typename Types<S>::Wide;
  const int64_t thread = global_thread(), b = thread / 9, c = thread % 9;
  if (b >= a.graph.structures) return;
  const Wide average = mean_virial(a, b, c);
  Wide variance(0);
  for (int64_t k = 0; k < a.virials(); ++k) {
    typename Types<S>::Plain* const own =
        k < a.rows ? out.member_virials + (k * a.graph.structures + b) * 9
                   : out.sigma_virials + ((k - a.rows) * a.graph.structures + b) * 9;
    own[c] = a.checked(S(a.virial[(b * a.virials() + k) * 9 + c]));
  }
  for (int64_t k = 0; k < a.members; ++k) {
    const Wide deviation = a.virial[(b * a.virials() + k) * 9 + c] - average;
    variance += double(a.spread()) * (deviation * deviation);
  }
  out.virial[thread] = a.checked(S(average));
  out.virial_variance[thread] = a.checked(S(variance));
}

// In place: sums become their adjoints.
template <typename S>
__global__ void adjoin_atoms(Arrays<S> a, CotangentPointers<typename Types<S>::Plain> cotangents) {
  const int64_t i = global_thread();
  if (i >= a.graph.atoms) return;
  S *force = a.force + i * a.rows * 3, *sigma = a.sigma + i * a.sigma_members * 3;
  S average[3], x[3], adjoint[3];
  average_of(a, force, average);
  for (int64_t k = 0; k < a.rows; ++k) {
    const auto* own = cotangents.member_forces + (k * a.graph.atoms + i) * 3;
    for (int c = 0; c < 3; ++c) adjoint[c] = S(own[c]);
    if (k < a.members) {
      for (int c = 0; c < 3; ++c) {
        x[c] = force[3 * k + c] - average[c];
        adjoint[c] += S(a.mean() * cotangents.forces[3 * i + c]);
      }
      // The deviations sum to zero, so the mean inside them adds nothing.
      add_outer_adjoint(adjoint, a.spread(), cotangents.epistemic + 6 * i, x);
    }
    for (int c = 0; c < 3; ++c) force[3 * k + c] = adjoint[c];
  }
  for (int64_t k = 0; k < a.sigma_members; ++k) {
    for (int c = 0; c < 3; ++c) {
      x[c] = sigma[3 * k + c];
      adjoint[c] = S(0);
    }
    add_outer_adjoint(adjoint, a.sigma_mean(), cotangents.aleatoric + 6 * i, x);
    for (int c = 0; c < 3; ++c) sigma[3 * k + c] = adjoint[c];
  }
}

template <typename S>
__global__ void adjoin_virials(Arrays<S> a, CotangentPointers<typename Types<S>::Plain> cotangents) {
  using Wide = typename Types<S>::Wide;
  const int64_t thread = global_thread(), b = thread / 9, c = thread % 9;
  if (b >= a.graph.structures) return;
  const Wide average = mean_virial(a, b, c);
  for (int64_t k = 0; k < a.virials(); ++k) {
    Wide& virial = a.virial[(b * a.virials() + k) * 9 + c];
    const Wide deviation = virial - average;
    const auto* own = k < a.rows ? cotangents.member_virials + (k * a.graph.structures + b) * 9
                                 : cotangents.sigma_virials + ((k - a.rows) * a.graph.structures + b) * 9;
    virial = Wide(-double(own[c]));
    if (k < a.members) {
      virial += Wide(-double(a.mean()) * double(cotangents.virial[thread])) -
                (2.0 * double(a.spread()) * double(cotangents.virial_variance[thread])) * deviation;
    }
  }
}

// Rows of three numbers of a warp's threads, written so that neighbours write neighbouring numbers.
template <typename T>
__device__ void store_rows(T* staged, const T (&row)[3], int64_t first, int64_t rows, T* out) {
  const int lane = threadIdx.x % kWarp;
  __syncwarp();
  for (int c = 0; c < 3; ++c) staged[3 * lane + c] = row[c];
  __syncwarp();
  for (int k = lane; k < 3 * kWarp; k += kWarp) {
    if (3 * first + k < 3 * rows) out[3 * first + k] = staged[k];
  }
}

// Adds what an edge's r x g has to do with the adjoint [9] of its sum: to those of g and of r.
template <typename S, typename V>
__device__ void add_virial_adjoint(const V* virial, const S (&r)[3], const S (&g)[3], S (&of_g)[3],
                                   S (&of_r)[3]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) {
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      of_g[c] += r[d] * S(virial[3 * d + c]);
      of_r[c] += g[d] * S(virial[3 * c + d]);
    }
  }
}

// The adjoint of the sum of r x a over the edges of centre i: local, of member k's grad_sigma.
template <typename S, typename T>
__device__ void sigma_virial_adjoint(const Arrays<S>& a, const T* cotangents, int64_t k, int64_t i,
                                     T (&virial)[9]) {
  for (int c = 0; c < 9; ++c) virial[c] = *a.graph.bad ? T(0) : -cotangents[(k * a.graph.atoms + i) * 9 + c];
}

// A thread for each edge: the gradients of edge_vec and grad_energy, and of grad_sigma unless it is local.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    distribute(Arrays<S> a, const typename Types<S>::Plain* c_sigma_virials,
               GradientPointers<typename Types<S>::Plain> out) {
  using T = typename Types<S>::Plain;
  const Graph& graph = a.graph;
  const int64_t e = global_thread(), first = e / kWarp * kWarp, edges = graph.edges;
  if (first >= edges) return;
  T* const staged = shared_memory<T>() + threadIdx.x / kWarp * 3 * kWarp;
  const bool good = e < edges && !*graph.bad;
  const int64_t i = good ? graph.centre[e] : 0, j = good ? graph.neighbour[e] : 0;
  const int64_t b = good && graph.batch != nullptr ? graph.batch[i] : 0;
  S r[3] = {}, to_edge_vec[3] = {};
  T row[3] = {T(NAN), T(NAN), T(NAN)};
  if (good) load(a.edge_vec, e, r);
  for (int64_t k = 0; k < a.rows; ++k) {
    if (good) {
      const S *of_centre = a.force + (i * a.rows + k) * 3, *of_neighbour = a.force + (j * a.rows + k) * 3;
      S g[3], adjoint[3];
      load(a.grad_energy, k * edges + e, g);
      for (int c = 0; c < 3; ++c) adjoint[c] = of_centre[c] - of_neighbour[c];
      add_virial_adjoint(a.virial + (b * a.virials() + k) * 9, r, g, adjoint, to_edge_vec);
      for (int c = 0; c < 3; ++c) row[c] = stored(adjoint[c]);
    }
    store_rows(staged, row, first, edges, out.grad_energy + 3 * k * edges);
  }
  for (int64_t k = 0; k < a.sigma_members; ++k) {
    if (good) {
      const S *of_centre = a.sigma + (i * a.sigma_members + k) * 3,
              *of_neighbour = a.sigma + (j * a.sigma_members + k) * 3;
      S g[3], adjoint[3];
      load(a.grad_sigma, k * edges + e, g);
      for (int c = 0; c < 3; ++c) adjoint[c] = of_centre[c] - of_neighbour[c];
      if (a.local) {
        T virial[9];
        sigma_virial_adjoint(a, c_sigma_virials, k, i, virial);
        add_virial_adjoint(virial, r, g, adjoint, to_edge_vec);
      } else {
        add_virial_adjoint(a.virial + (b * a.virials() + a.rows + k) * 9, r, g, adjoint, to_edge_vec);
      }
      for (int c = 0; c < 3; ++c) row[c] = stored(adjoint[c]);
    }
    // Local: distribute_pairs() writes them, unless the graph is bad.
    if (!a.local || *graph.bad) store_rows(staged, row, first, edges, out.grad_sigma + 3 * k * edges);
  }
  if (good) {
    for (int c = 0; c < 3; ++c) row[c] = stored(to_edge_vec[c]);
  }
  store_rows(staged, row, first, edges, out.edge_vec);
}

// Local: those of grad_sigma on the edges that end at atom j, by a warp.
template <typename S>
__global__ void __launch_bounds__(kThreads, sizeof(S) > 4 ? 2 : 4)
    distribute_pairs(Arrays<S> a, const typename Types<S>::Plain* c_aleatoric,
                     const typename Types<S>::Plain* c_sigma_virials, typename Types<S>::Plain* out) {
  using T = typename Types<S>::Plain;
  const Graph& graph = a.graph;
  const int64_t j = global_thread() / kWarp, edges = graph.edges;
  if (j >= graph.atoms) return;
  const int64_t row_begin = graph.by_neighbour.begin[j], row_end = graph.by_neighbour.begin[j + 1];
  for (int64_t p = row_begin + threadIdx.x % kWarp; p < row_end; p += kWarp) {
    if (!is_first_image(graph, p, row_begin)) continue;
    const int64_t i = graph.centre[graph.by_neighbour.order[p]], end = last_image(graph, p, row_end);
    for (int64_t k = 0; k < a.sigma_members; ++k) {
      S adjoint[3] = {};
      if (i != j && !*graph.bad) {
        S sum[3];
        sum_images(a, k, p, end, sum);
        for (int c = 0; c < 3; ++c) adjoint[c] = a.sigma[(i * a.sigma_members + k) * 3 + c];
        add_outer_adjoint(adjoint, a.sigma_mean(), c_aleatoric + 6 * j, sum);
      }
      T virial[9];
      sigma_virial_adjoint(a, c_sigma_virials, k, i, virial);
      for (int64_t q = p; q < end; ++q) {
        const int64_t e = graph.by_neighbour.order[q];
        S r[3], of_edge[3];
        load(a.edge_vec, e, r);
        for (int c = 0; c < 3; ++c) {
          of_edge[c] = adjoint[c];
          for (int d = 0; d < 3; ++d) of_edge[c] += r[d] * S(virial[3 * d + c]);
          out[3 * (k * edges + e) + c] = a.checked(of_edge[c]);
        }
      }
    }
  }
}

// Lays the arrays out; the graph is made later.
template <typename S>
struct Workspace {
  using T = typename Types<S>::Plain;
  Layout layout;
  Arrays<S> arrays;
  double* chunks;
  int64_t columns, bytes;  // numbers of a row of virials

  Workspace(const Problem<T>& p, void* memory)
      : layout(memory), arrays{Graph(layout, p.atoms, p.edges, p.structures)} {
    arrays.edge_vec = {p.edge_vec, p.u_edge_vec};
    arrays.grad_energy = {p.grad_energy, p.u_grad_energy};
    arrays.grad_sigma = {p.grad_sigma, p.u_grad_sigma};
    arrays.rows = p.rows;
    arrays.members = p.members;
    arrays.sigma_members = p.sigma_members;
    arrays.local = p.local && p.sigma_members > 0;
    arrays.ddof = T(p.ddof);
    columns = 9 * arrays.virials() * Types<S>::numbers;
    arrays.force = layout.take<S>(p.atoms * p.rows * 3);
    arrays.sigma = layout.take<S>(p.atoms * p.sigma_members * 3);
    arrays.pairs = layout.take<S>(arrays.local ? p.atoms * 6 : 0);
    arrays.virial_rows = layout.take<S>(p.atoms * arrays.virials() * 9);
    arrays.sigma_virial = layout.take<S>(arrays.local ? p.atoms * p.sigma_members * 9 : 0);
    arrays.virial = layout.take<typename Types<S>::Wide>(p.structures * arrays.virials() * 9);
    chunks = layout.take<double>(sum_rows_size(p.atoms, p.structures, columns));
    bytes = layout.bytes();
  }
};

template <typename S>
void evaluate_as(const Problem<typename Types<S>::Plain>& p,
                 const ResultPointers<typename Types<S>::Plain>& results,
                 const CotangentPointers<typename Types<S>::Plain>& cotangents,
                 const GradientPointers<typename Types<S>::Plain>& gradients, void* workspace, void* stream) {
  using T = typename Types<S>::Plain;
  const char* name = "force_variance";
  Workspace<S> w(p, workspace);
  Arrays<S>& a = w.arrays;
  make_graph(a.graph, p.centre, p.neighbour, p.batch, stream);

  launch(name, collect<S>, blocks_of(p.atoms * kWarp), kThreads,
         kThreads / kWarp * warp_sum_size(12) * sizeof(S), stream, a, p.results);
  sum_by_structure(a.graph, reinterpret_cast<const T*>(a.virial_rows), w.columns, w.chunks,
                   reinterpret_cast<double*>(a.virial), stream);
  if (p.results) {
    launch(name, write_atoms<S>, blocks_of(p.atoms), kThreads, 0, stream, a, results);
    launch(name, write_virials<S>, blocks_of(9 * p.structures), kThreads, 0, stream, a, results);
  }
  if (!p.gradients) return;
  launch(name, adjoin_atoms<S>, blocks_of(p.atoms), kThreads, 0, stream, a, cotangents);
  launch(name, adjoin_virials<S>, blocks_of(9 * p.structures), kThreads, 0, stream, a, cotangents);
  launch(name, distribute<S>, blocks_of(p.edges), kThreads, 3 * kThreads * sizeof(T), stream, a,
         cotangents.sigma_virials, gradients);
  if (!a.local) return;
  launch(name, distribute_pairs<S>, blocks_of(p.atoms * kWarp), kThreads, 0, stream, a, cotangents.aleatoric,
         cotangents.sigma_virials, gradients.grad_sigma);
}

}  // namespace

template <typename T>
int64_t workspace_bytes(const Problem<T>& problem) {
  return !problem.directional ? Workspace<T>(problem, nullptr).bytes
                              : Workspace<Dual<T>>(problem, nullptr).bytes;
}

template <typename T>
void evaluate(const Problem<T>& problem, const ResultPointers<T>& results,
              const CotangentPointers<T>& cotangents, const GradientPointers<T>& gradients, void* workspace,
              void* stream) {
  !problem.directional ? evaluate_as<T>(problem, results, cotangents, gradients, workspace, stream)
                       : evaluate_as<Dual<T>>(problem, results, cotangents, gradients, workspace, stream);
}

#define UQFORCE_INSTANTIATE(T)                                                                     \
  template int64_t workspace_bytes(const Problem<T>&);                                             \
  template void evaluate(const Problem<T>&, const ResultPointers<T>&, const CotangentPointers<T>&, \
                         const GradientPointers<T>&, void*, void*);
UQFORCE_INSTANTIATE(float)
UQFORCE_INSTANTIATE(double)

}  // namespace uqforce::force_variance
