#include <algorithm>

#include "common/cuda.h"
#include "common/cuda_graph.h"
#include "common/cuda_layout.h"
#include "common/cuda_sort.h"

namespace uqforce {
namespace {

constexpr int64_t kChunk = 1024;  // atoms whose rows are summed by a block

// keys[k] = of[order[k]], or `size` if that is no index below it; order absent: as they are, and written.
__global__ void take_keys(const int64_t* of, const uint32_t* order, uint32_t* identity, int64_t count,
                          int64_t size, uint32_t* keys, int* bad) {
  const int64_t k = global_thread();
  if (k >= count) return;
  const int64_t index = of == nullptr ? 0 : of[order == nullptr ? k : order[k]];
  const bool good = 0 <= index && index < size;
  keys[k] = uint32_t(good ? index : size);
  if (order == nullptr) identity[k] = uint32_t(k);
  if (!good) *bad = 1;  // whoever writes, writes the same
}

// start[i] = the number of keys below i
__global__ void find_starts(const uint32_t* keys, int64_t count, int64_t size, int64_t* start) {
  const int64_t i = global_thread();
  if (i > size) return;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    keys[middle] < i ? low = middle + 1 : high = middle;
  }
  start[i] = low;
}

// The first chunk of structure b, if the chunks of all stand side by side.
__device__ int64_t first_chunk(const Graph& graph, int64_t b) {
  return graph.structure_start[b] / kChunk + b;
}

// out[column] = the sum of value(row, column) over the rows, by a block; in a fixed order.
template <typename Value>
__device__ void sum_rows(int64_t rows, int64_t columns, Value value, double* out) {
  double* const sums = shared_memory<double>();
  for (int64_t first = 0; first < columns; first += kThreads) {
    const int width = int(min(columns - first, int64_t(kThreads))), abreast = kThreads / width;
    const int column = threadIdx.x % width, begin = threadIdx.x / width;
    double sum = 0;
    if (begin < abreast) {
      for (int64_t row = begin; row < rows; row += abreast) sum += value(row, first + column);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (begin == 0) {
      for (int other = 1; other < abreast; ++other) sum += sums[other * width + column];
      out[first + column] = sum;
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(Graph graph, const T* rows, int64_t columns, double* chunks) {
  const int64_t chunk = blockIdx.x;
  int64_t b = 0, above = graph.structures;  // the last structure that begins at this chunk or before
  while (above - b > 1) {
    const int64_t middle = (b + above) / 2;
    first_chunk(graph, middle) <= chunk ? b = middle : above = middle;
  }
  const int64_t begin = graph.structure_start[b] + (chunk - first_chunk(graph, b)) * kChunk;
  const int64_t end = min(begin + kChunk, graph.structure_start[b + 1]);
  if (begin >= end) return;
  sum_rows(
      end - begin, columns,
      [=](int64_t row, int64_t column) {
        return double(rows[graph.by_structure[begin + row] * columns + column]);
      },
      chunks + chunk * columns);
}

__global__ void __launch_bounds__(kThreads)
    sum_structures(Graph graph, const double* chunks, int64_t columns, double* out) {
  const int64_t b = blockIdx.x, atoms = graph.structure_start[b + 1] - graph.structure_start[b];
  const double* const its = chunks + first_chunk(graph, b) * columns;
  sum_rows((atoms + kChunk - 1) / kChunk, columns,
           [=](int64_t row, int64_t column) { return its[row * columns + column]; }, out + b * columns);
}

// What is needed while a graph is made.
struct Temporary {
  uint32_t *keys, *sorted, *identity;
  void* workspace;
};

Graph lay_out(Layout& layout, int64_t atoms, int64_t edges, int64_t structures, Temporary& temporary) {
  const int64_t largest = std::max(atoms, edges);
  Graph graph{};
  graph.atoms = atoms;
  graph.edges = edges;
  graph.structures = structures;
  graph.by_centre = layout.take<uint32_t>(edges);
  graph.by_neighbour = layout.take<uint32_t>(edges);
  graph.by_structure = layout.take<uint32_t>(atoms);
  graph.centre_start = layout.take<int64_t>(atoms + 1);
  graph.neighbour_start = layout.take<int64_t>(atoms + 1);
  graph.structure_start = layout.take<int64_t>(structures + 1);
  graph.bad = layout.take<int>(1);
  temporary.keys = layout.take<uint32_t>(largest);
  temporary.sorted = layout.take<uint32_t>(largest);
  temporary.identity = layout.take<uint32_t>(largest);
  temporary.workspace = layout.take<char>(sort_bytes(largest));
  return graph;
}

}  // namespace

int64_t graph_bytes(int64_t atoms, int64_t edges, int64_t structures) {
  if (std::max(atoms, std::max(edges, structures)) >= int64_t(1) << 31) {
    throw std::runtime_error("a graph on CUDA has at most 2147483647 atoms and edges, got " +
                             std::to_string(atoms) + " and " + std::to_string(edges));
  }
  Layout layout(nullptr);
  Temporary temporary;
  lay_out(layout, atoms, edges, structures, temporary);
  return layout.bytes();
}

Graph make_graph(void* memory, const int64_t* centre, const int64_t* neighbour, const int64_t* batch,
                 int64_t atoms, int64_t edges, int64_t structures, void* stream) {
  Layout layout(memory);
  Temporary t;
  Graph graph = lay_out(layout, atoms, edges, structures, t);
  graph.centre = centre;
  graph.neighbour = neighbour;
  graph.batch = batch;
  check_cuda(cudaMemsetAsync(graph.bad, 0, sizeof(int), static_cast<cudaStream_t>(stream)), "make_graph");
  const auto sort = [&](const int64_t* of, const uint32_t* order, int64_t count, int64_t size,
                        uint32_t* sorted_order, int64_t* start) {
    launch("make_graph", take_keys, blocks_of(count), kThreads, 0, stream, of, order, t.identity, count, size,
           t.keys, graph.bad);
    sort_by_key(t.keys, t.sorted, order == nullptr ? t.identity : order, sorted_order, count,
                bits_of(uint64_t(size)), t.workspace, stream);
    launch("make_graph", find_starts, blocks_of(size + 1), kThreads, 0, stream, t.sorted, count, size, start);
  };
  sort(centre, nullptr, edges, atoms, graph.by_centre, graph.centre_start);
  sort(neighbour, graph.by_centre, edges, atoms, graph.by_neighbour, graph.neighbour_start);
  sort(batch, nullptr, atoms, structures, graph.by_structure, graph.structure_start);
  return graph;
}

int64_t sum_rows_size(int64_t atoms, int64_t structures, int64_t columns) {
  return (atoms / kChunk + structures) * columns;
}

template <typename T>
void sum_by_structure(const Graph& graph, const T* rows, int64_t columns, double* workspace, double* out,
                      void* stream) {
  const size_t shared = kThreads * sizeof(double);
  if (graph.structures == 0) return;
  launch("sum_by_structure", sum_chunks<T>, graph.atoms / kChunk + graph.structures, kThreads, shared, stream,
         graph, rows, columns, workspace);
  launch("sum_by_structure", sum_structures, graph.structures, kThreads, shared, stream, graph, workspace,
         columns, out);
}

template void sum_by_structure(const Graph&, const float*, int64_t, double*, double*, void*);
template void sum_by_structure(const Graph&, const double*, int64_t, double*, double*, void*);

}  // namespace uqforce
