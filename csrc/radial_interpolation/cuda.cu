// CUDA kernels of the radial interpolation.
//
// Edges are sorted by their first node. A block takes some of them, one after another, and columns, one
// vector of them in each thread; the table's rows stay in registers as long as the node does, so that the
// table is read once for all its edges and the edges' rows, which are most of the memory, once.
#include <algorithm>
#include <cmath>

#include "common/cuda.h"
#include "common/cuda_layout.h"
#include "common/cuda_sort.h"
#include "radial_interpolation/cuda.h"

namespace uqforce::radial {
namespace {

constexpr int kColumns = 128;    // vectors of columns, threads of a block
constexpr int kEdges = 32;       // edges of a block
constexpr int kTogether = 8;     // whose products with rows are summed over the lanes at once
constexpr int64_t kPart = 1024;  // edges of one node that a block sums

template <typename T, int n>
struct alignas(n * sizeof(T)) Vector {
  T v[n];
};

// Threads e: the first node. NaN goes anywhere.
template <typename T>
__global__ void find_nodes(const T* x, int64_t edges, int64_t rows, uint32_t* node, uint32_t* edge) {
  const int64_t e = global_thread();
  if (e >= edges) return;
  const double intervals = double(rows - 1), at = double(x[e]) * intervals;
  const int64_t starts = rows - kWidth + 1;
  // The edge in the middle of its nodes where the table allows.
  node[e] = uint32_t(at >= kWidth / 2 ? min(int64_t(fmin(at, intervals)) - (kWidth / 2 - 1), starts - 1) : 0);
  edge[e] = uint32_t(e);
}

// The Lagrange polynomials at the edge in each place, and their derivatives by x.
template <typename T>
__global__ void find_coefficients(Places<T> a, const T* x) {
  const int64_t p = global_thread();
  if (p >= a.edges) return;
  const T at = x[a.edge[p]];
  const double intervals = double(a.rows - 1);
  const T tau = T(double(at) * intervals - double(a.node[p]));
  const T inside = at >= T(1) ? T(0) : at < T(0) ? T(NAN) : T(1);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    T value = 1, slope = 0, norm = 1;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      if (j == k) continue;
      const T d = tau - T(j);
      slope = slope * d + value;
      value *= d;
      norm *= T(k - j);
    }
    a.value[p * kWidth + k] = value * (inside / norm);
    a.slope[p * kWidth + k] = slope * (inside * T(intervals) / norm);
  }
}

// start[node] = the number of places of lower nodes
__global__ void find_starts(const uint32_t* nodes, int64_t edges, int64_t count, int64_t* start) {
  const int64_t node = global_thread();
  if (node > count) return;
  int64_t low = 0, high = edges;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    nodes[middle] < node ? low = middle + 1 : high = middle;
  }
  start[node] = low;
}

template <typename T, int kTerms>
struct Terms {
  Term<T> term[kTerms];
};

// The edges of a block, in shared memory: coefficients times the terms' factors.
template <typename T, int kTerms>
struct Staged {
  T coefficient[kEdges][kTerms][kWidth];
  T dot[kColumns / kWarp][kEdges], summed[kColumns / kWarp][warp_sum_size(kTogether)];
  uint32_t edge[kEdges], node[kEdges];

  __device__ void load(const Places<T>& a, const T* coefficients, const Terms<T, kTerms>& terms,
                       int64_t first, int count) {
    for (int p = threadIdx.x; p < count; p += kColumns) {
      edge[p] = a.edge[first + p];
      node[p] = a.node[first + p];
    }
    for (int i = threadIdx.x; i < count * kWidth; i += kColumns) {
      const int p = i / kWidth;
      for (int t = 0; t < kTerms; ++t) {
        const T* factor = terms.term[t].factor;
        coefficient[p][t][i % kWidth] =
            coefficients[first * kWidth + i] * (factor == nullptr ? T(1) : factor[a.edge[first + p]]);
      }
    }
  }
};

// The tables' rows at one vector of columns.
template <typename T, int n, int kTerms>
struct Rows {
  Vector<T, n> row[kTerms][kWidth];

  __device__ void load(const Terms<T, kTerms>& terms, int64_t node, int64_t columns, int64_t column) {
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        row[t][k] =
            *reinterpret_cast<const Vector<T, n>*>(terms.term[t].table + (node + k) * columns + column);
      }
    }
  }
  __device__ Vector<T, n> at(const T (&coefficient)[kTerms][kWidth]) const {
    Vector<T, n> value{};
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
#pragma unroll
        for (int i = 0; i < n; ++i) value.v[i] += coefficient[t][k] * row[t][k].v[i];
      }
    }
    return value;
  }
};

template <typename T, int n, int kTerms>
__global__ void __launch_bounds__(kColumns) expand_kernel(Places<T> a, Terms<T, kTerms> terms, T* out) {
  auto& staged = *shared_memory<Staged<T, kTerms>>();
  const int64_t tiles = (a.columns + n * kColumns - 1) / (n * kColumns);
  const int64_t first = blockIdx.x / tiles * kEdges;
  const int64_t column = (blockIdx.x % tiles * kColumns + threadIdx.x) * n;
  const int count = int(min(a.edges - first, int64_t(kEdges)));
  staged.load(a, a.value, terms, first, count);
  __syncthreads();
  if (column >= a.columns) return;
  Rows<T, n, kTerms> rows;
  for (int p = 0; p < count; ++p) {
    if (p == 0 || staged.node[p] != staged.node[p - 1]) rows.load(terms, staged.node[p], a.columns, column);
    *reinterpret_cast<Vector<T, n>*>(out + int64_t(staged.edge[p]) * a.columns + column) =
        rows.at(staged.coefficient[p]);
  }
}

template <typename T, int n, int kTerms>
__global__ void __launch_bounds__(kColumns)
    dot_kernel(Places<T> a, Terms<T, kTerms> terms, const T* coefficients, const T* from, T* out) {
  auto& staged = *shared_memory<Staged<T, kTerms>>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = int64_t(blockIdx.x) * kEdges;
  const int count = int(min(a.edges - first, int64_t(kEdges)));
  staged.load(a, coefficients, terms, first, count);
  for (int p = lane; p < count; p += kWarp) staged.dot[warp][p] = 0;
  __syncthreads();
  for (int64_t tile = 0; tile < a.columns; tile += n * kColumns) {
    const int64_t column = tile + threadIdx.x * n;
    Rows<T, n, kTerms> rows;
    for (int begin = 0; begin < count; begin += kTogether) {
      T sums[kTogether] = {};
#pragma unroll
      for (int q = 0; q < kTogether; ++q) {
        const int p = begin + q;
        if (p >= count || column >= a.columns) continue;
        if (p == 0 || staged.node[p] != staged.node[p - 1]) {
          rows.load(terms, staged.node[p], a.columns, column);
        }
        const T* const row = from + int64_t(staged.edge[p]) * a.columns + column;
        const Vector<T, n> other = *reinterpret_cast<const Vector<T, n>*>(row);
        const Vector<T, n> value = rows.at(staged.coefficient[p]);
#pragma unroll
        for (int i = 0; i < n; ++i) sums[q] += value.v[i] * other.v[i];
      }
      const T sum = warp_sum(sums, staged.summed[warp]);
      if (lane < kTogether && begin + lane < count) staged.dot[warp][begin + lane] += sum;
    }
  }
  __syncthreads();
  for (int p = threadIdx.x; p < count; p += kColumns) {
    T sum = 0;
    for (const auto& of_warp : staged.dot) sum += of_warp[p];
    out[staged.edge[p]] = sum;
  }
}

// Parts of the nodes' edges stand side by side.
template <typename T>
__host__ __device__ int64_t starts_of(const Places<T>& a) {
  return a.rows - kWidth + 1;
}
template <typename T>
__device__ int64_t first_part(const Places<T>& a, int64_t node) {
  return a.start[node] / kPart + node;
}

template <typename T, int n>
__global__ void __launch_bounds__(kColumns) sum_parts(Places<T> a, const T* factor, const T* from) {
  const int64_t tiles = (a.columns + n * kColumns - 1) / (n * kColumns), part = blockIdx.x / tiles;
  const int64_t column = (blockIdx.x % tiles * kColumns + threadIdx.x) * n;
  int64_t node = 0, above = starts_of(a);  // the last node that begins at this part or before
  while (above - node > 1) {
    const int64_t middle = (node + above) / 2;
    first_part(a, middle) <= part ? node = middle : above = middle;
  }
  const int64_t begin = a.start[node] + (part - first_part(a, node)) * kPart;
  const int64_t end = min(begin + kPart, a.start[node + 1]);
  if (begin >= end || column >= a.columns) return;
  Vector<T, n> sum[kWidth] = {};
#pragma unroll 2
  for (int64_t p = begin; p < end; ++p) {
    const int64_t e = a.edge[p];
    const T scale = factor == nullptr ? T(1) : factor[e];
    const auto row = *reinterpret_cast<const Vector<T, n>*>(from + e * a.columns + column);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const T coefficient = scale * a.value[p * kWidth + k];
#pragma unroll
      for (int i = 0; i < n; ++i) sum[k].v[i] += coefficient * row.v[i];
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    *reinterpret_cast<Vector<T, n>*>(a.parts + (part * kWidth + k) * a.columns + column) = sum[k];
  }
}

// Adds up what the parts have for each row of the table.
template <typename T>
__global__ void sum_rows(Places<T> a, T* out) {
  const int64_t i = global_thread();
  if (i >= a.rows * a.columns) return;
  const int64_t row = i / a.columns, column = i % a.columns;
  T sum = 0;
  for (int64_t node = max(row - kWidth + 1, int64_t(0)); node <= min(row, starts_of(a) - 1); ++node) {
    const int64_t parts = (a.start[node + 1] - a.start[node] + kPart - 1) / kPart,
                  first = first_part(a, node);
    for (int64_t part = first; part < first + parts; ++part) {
      sum += a.parts[(part * kWidth + row - node) * a.columns + column];
    }
  }
  out[i] = sum;
}

// Whether rows of `columns` numbers consist of 16-byte vectors.
template <typename T, typename... Pointers>
bool by_vectors(int64_t columns, Pointers... rows) {
  return columns * sizeof(T) % 16 == 0 && ((reinterpret_cast<uintptr_t>(rows) % 16 == 0) && ...);
}

// Calls use.operator()<n>() with the numbers that a thread takes at once.
template <typename T, typename Use>
void with_lanes(bool vectors, Use use) {
  vectors ? use(std::integral_constant<int, 16 / sizeof(T)>()) : use(std::integral_constant<int, 1>());
}

// Calls use(lanes, terms) with the terms that there are.
template <typename T, typename Use, typename... Pointers>
void with_terms(const Places<T>& a, Term<T> first, Term<T> second, Use use, Pointers... rows) {
  if (first.table == nullptr) std::swap(first, second);
  with_lanes<T>(by_vectors<T>(a.columns, first.table, second.table, rows...), [&](auto lanes) {
    second.table == nullptr ? use(lanes, Terms<T, 1>{{first}}) : use(lanes, Terms<T, 2>{{first, second}});
  });
}

int64_t tiles_of(int64_t columns, int lanes) { return blocks_of(columns, int64_t(lanes) * kColumns); }

// What is needed while places are found.
struct Temporary {
  uint32_t *keys, *identity;
  void* workspace;
};

template <typename T>
Places<T> lay_out(Layout& layout, int64_t edges, int64_t rows, int64_t columns, bool reduces,
                  Temporary& temporary) {
  Places<T> a{};
  a.edges = edges;
  a.rows = rows;
  a.columns = columns;
  a.edge = layout.take<uint32_t>(edges);
  a.node = layout.take<uint32_t>(edges);
  a.start = layout.take<int64_t>(starts_of(a) + 1);
  a.value = layout.take<T>(edges * kWidth);
  a.slope = layout.take<T>(edges * kWidth);
  a.parts = layout.take<T>(reduces ? (edges / kPart + starts_of(a)) * kWidth * columns : 0);
  temporary.keys = layout.take<uint32_t>(edges);
  temporary.identity = layout.take<uint32_t>(edges);
  temporary.workspace = layout.take<char>(sort_bytes(edges));
  return a;
}

}  // namespace

template <typename T>
int64_t places_bytes(int64_t edges, int64_t rows, int64_t columns, bool reduces) {
  if (std::max(edges, rows) >= int64_t(1) << 31) {
    throw std::runtime_error("radial_interpolation on CUDA has at most 2147483647 edges and nodes, got " +
                             std::to_string(edges) + " and " + std::to_string(rows));
  }
  Layout layout(nullptr);
  Temporary temporary;
  lay_out<T>(layout, edges, rows, columns, reduces, temporary);
  return layout.bytes();
}

template <typename T>
Places<T> find_places(void* memory, const T* x, int64_t edges, int64_t rows, int64_t columns, bool reduces,
                      void* stream) {
  Layout layout(memory);
  Temporary t;
  const Places<T> a = lay_out<T>(layout, edges, rows, columns, reduces, t);
  const char* name = "radial_interpolation";
  const int64_t starts = starts_of(a);
  launch(name, find_nodes<T>, blocks_of(edges), kThreads, 0, stream, x, edges, rows, t.keys, t.identity);
  sort_by_key(t.keys, a.node, t.identity, a.edge, edges, bits_of(uint64_t(starts)), t.workspace, stream);
  launch(name, find_starts, blocks_of(starts + 1), kThreads, 0, stream, a.node, edges, starts, a.start);
  launch(name, find_coefficients<T>, blocks_of(edges), kThreads, 0, stream, a, x);
  return a;
}

template <typename T>
void expand(const Places<T>& a, Term<T> first, Term<T> second, T* out, void* stream) {
  with_terms(
      a, first, second,
      [&](auto lanes, const auto& terms) {
        constexpr int n = lanes, kTerms = sizeof(terms) / sizeof(Term<T>);
        launch("radial_interpolation", expand_kernel<T, n, kTerms>,
               blocks_of(a.edges, kEdges) * tiles_of(a.columns, n), kColumns, sizeof(Staged<T, kTerms>),
               stream, a, terms, out);
      },
      out);
}

template <typename T>
void dot(const Places<T>& a, Term<T> first, Term<T> second, bool slopes, const T* rows, T* out,
         void* stream) {
  with_terms(
      a, first, second,
      [&](auto lanes, const auto& terms) {
        constexpr int n = lanes, kTerms = sizeof(terms) / sizeof(Term<T>);
        launch("radial_interpolation", dot_kernel<T, n, kTerms>, blocks_of(a.edges, kEdges), kColumns,
               sizeof(Staged<T, kTerms>), stream, a, terms, slopes ? a.slope : a.value, rows, out);
      },
      rows);
}

template <typename T>
void reduce(const Places<T>& a, const T* factor, const T* rows, T* out, void* stream) {
  with_lanes<T>(by_vectors<T>(a.columns, rows), [&](auto lanes) {
    constexpr int n = lanes;
    launch("radial_interpolation", sum_parts<T, n>, (a.edges / kPart + starts_of(a)) * tiles_of(a.columns, n),
           kColumns, 0, stream, a, factor, rows);
  });
  launch("radial_interpolation", sum_rows<T>, blocks_of(a.rows * a.columns), kThreads, 0, stream, a, out);
}

#define UQFORCE_INSTANTIATE(T)                                                             \
  template int64_t places_bytes<T>(int64_t, int64_t, int64_t, bool);                       \
  template Places<T> find_places(void*, const T*, int64_t, int64_t, int64_t, bool, void*); \
  template void expand(const Places<T>&, Term<T>, Term<T>, T*, void*);                     \
  template void dot(const Places<T>&, Term<T>, Term<T>, bool, const T*, T*, void*);        \
  template void reduce(const Places<T>&, const T*, const T*, T*, void*);
UQFORCE_INSTANTIATE(float)
UQFORCE_INSTANTIATE(double)

}  // namespace uqforce::radial
