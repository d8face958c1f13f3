// Where keys ascend, a search finds where each begins. Else counts, their running sums, places claimed by
// counting again, and at last each group's items put in order: what the claims' order leaves to chance, the
// ranks take away. Kernels of the second way return at once where the first does: the host need not know.
// Ranks would cost the square of a group's size: large groups, those of a structure's atoms, are sorted.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/cuda.h"
#include "common/cuda_groups.h"
#include "common/cuda_sort.h"

namespace uqforce {
namespace {

constexpr int64_t kChunk = 1024;  // atoms whose rows are summed by a block

template <typename Key>
__device__ int64_t key_of(const Key* keys, int64_t item, int64_t groups, int* bad) {
  const int64_t key = keys ? keys[item] : Key(0);
  if (key >= 0 && key < groups) return key;
  if (bad) *bad = 1;  // whoever writes, writes the same
  return 0;
}

template <typename Key>
__global__ void look(const Key* keys, const int* names, Groups g, int* bad) {
  const int64_t item = global_thread();
  if (item >= g.items) return;
  const int64_t key = key_of(keys, item, g.groups, bad);
  if (item > 0 && key_of(keys, item - 1, g.groups, nullptr) > key) *g.unsorted = 1;
  g.order[item] = names ? names[item] : int(item);
}

template <typename Key>
__global__ void count(const Key* keys, Groups g) {
  const int64_t item = global_thread();
  if (item < g.items && *g.unsorted) atomicAdd(g.counts + key_of(keys, item, g.groups, nullptr), 1);
}

template <typename Key>
__global__ void find_begin(const Key* keys, Groups g) {
  const int64_t group = global_thread();
  if (group > g.groups) return;
  int64_t low = 0, high = *g.unsorted ? 0 : g.items;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    key_of(keys, middle, g.groups, nullptr) < group ? low = middle + 1 : high = middle;
  }
  g.begin[group] = *g.unsorted ? g.counts[group] : int(low);
}

template <typename Key>
__global__ void claim(const Key* keys, Groups g) {
  const int64_t item = global_thread();
  if (item >= g.items || !*g.unsorted) return;
  g.places[atomicAdd(g.counts + key_of(keys, item, g.groups, nullptr), 1)] = int(item);
}

template <typename Key>
__global__ void put_in_order(const Key* keys, const int* names, Groups g, const int* bad) {
  const int64_t place = global_thread();
  if (place >= g.items || !*g.unsorted) return;
  const int item = g.places[place];
  const int64_t key = key_of(keys, item, g.groups, nullptr);
  const int first = g.begin[key], end = bad && *bad ? first : g.begin[key + 1];
  int rank = bad && *bad ? int(place) - first : 0;
  for (int other = first; other < end; ++other) rank += g.places[other] < item;
  g.order[first + rank] = names ? names[item] : item;
}

template <typename Key>
__global__ void list_keys(const Key* keys, const int* names, Groups g, int* bad) {
  const int64_t item = global_thread();
  if (item >= g.items) return;
  g.keys[item] = int(key_of(keys, item, g.groups, bad));
  g.places[item] = names ? names[item] : int(item);
}

template <typename Key>
void group_by(const Key* keys, const int* names, const Groups& g, int* bad, void* stream) {
  const char* const name = "group";
  check_cuda(cudaMemsetAsync(g.unsorted, 0, sizeof(int), cudaStream_t(stream)), name);
  if (g.keys) {
    const auto bits = [](int* numbers) { return reinterpret_cast<uint32_t*>(numbers); };
    launch(name, list_keys<Key>, blocks_of(g.items), kThreads, 0, stream, keys, names, g, bad);
    sort_by_key(bits(g.keys), bits(g.ascending), bits(g.places), bits(g.order), g.items,
                bits_of(uint64_t(g.groups - 1)), g.sort, stream);
    launch(name, find_begin<int>, blocks_of(g.groups + 1), kThreads, 0, stream, g.ascending, g);
    return;
  }
  check_cuda(cudaMemsetAsync(g.counts, 0, (g.groups + 1) * sizeof(int), cudaStream_t(stream)), name);
  launch(name, look<Key>, blocks_of(g.items), kThreads, 0, stream, keys, names, g, bad);
  launch(name, count<Key>, blocks_of(g.items), kThreads, 0, stream, keys, g);
  exclusive_sum(g.counts, g.groups + 1, g.sums, stream);
  launch(name, find_begin<Key>, blocks_of(g.groups + 1), kThreads, 0, stream, keys, g);
  launch(name, claim<Key>, blocks_of(g.items), kThreads, 0, stream, keys, g);
  launch(name, put_in_order<Key>, blocks_of(g.items), kThreads, 0, stream, keys, names, g, bad);
}

__global__ void look_up(const int64_t* neighbours, EdgeLists lists) {
  const int64_t place = global_thread();
  if (place >= lists.edges) return;
  lists.neighbour[place] = int(key_of(neighbours, lists.by_centre.order[place], lists.nodes, lists.bad));
}

// The first chunk of structure b, if the chunks of all stand side by side.
__device__ int64_t first_chunk(const Graph& graph, int64_t b) {
  return graph.by_structure.begin[b] / kChunk + b;
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
  const int64_t begin = graph.by_structure.begin[b] + (chunk - first_chunk(graph, b)) * kChunk;
  const int64_t end = min(begin + kChunk, int64_t(graph.by_structure.begin[b + 1]));
  if (begin >= end) return;
  sum_rows(
      end - begin, columns,
      [=](int64_t row, int64_t column) {
        return double(rows[graph.by_structure.order[begin + row] * columns + column]);
      },
      chunks + chunk * columns);
}

__global__ void __launch_bounds__(kThreads)
    sum_structures(Graph graph, const double* chunks, int64_t columns, double* out) {
  const int64_t b = blockIdx.x, atoms = graph.by_structure.begin[b + 1] - graph.by_structure.begin[b];
  const double* const its = chunks + first_chunk(graph, b) * columns;
  sum_rows((atoms + kChunk - 1) / kChunk, columns,
           [=](int64_t row, int64_t column) { return its[row * columns + column]; }, out + b * columns);
}

}  // namespace

Groups::Groups(Layout& layout, int64_t items, int64_t groups, bool large)
    : items(items),
      groups(std::max<int64_t>(groups, 1)),
      begin(layout.take<int>(this->groups + 1)),
      order(layout.take<int>(items)),
      counts(layout.take<int>(this->groups + 1)),
      places(layout.take<int>(items)),
      unsorted(layout.take<int>(1)),
      sums(layout.take<char>(sum_bytes(this->groups + 1))) {
  if (large) {
    keys = layout.take<int>(items);
    ascending = layout.take<int>(items);
    sort = layout.take<char>(sort_bytes(items));
  }
  if (std::max(items, groups) >= int64_t(1) << 31) {
    throw std::runtime_error("at most 2147483647 edges, atoms and structures on CUDA, got " +
                             std::to_string(items) + " in " + std::to_string(groups) + " groups");
  }
}

void group(const int64_t* keys, const int* names, const Groups& result, int* bad, void* stream) {
  group_by(keys, names, result, bad, stream);
}

void group(const int* keys, const int* names, const Groups& result, int* bad, void* stream) {
  group_by(keys, names, result, bad, stream);
}

void list_edges(const int64_t* centre, const int64_t* neighbour, const EdgeLists& lists, void* stream) {
  check_cuda(cudaMemsetAsync(lists.bad, 0, sizeof(int), cudaStream_t(stream)), "list_edges");
  group(centre, nullptr, lists.by_centre, lists.bad, stream);
  launch("list_edges", look_up, blocks_of(lists.edges), kThreads, 0, stream, neighbour, lists);
}

Graph::Graph(Layout& layout, int64_t atoms, int64_t edges, int64_t structures)
    : atoms(atoms),
      edges(edges),
      structures(structures),
      lists(layout, atoms, edges),
      by_neighbour(layout, edges, atoms),
      by_structure(layout, atoms, structures, structures > 1),  // the atoms of one are in order
      bad(lists.bad) {}

void make_graph(Graph& graph, const int64_t* centre, const int64_t* neighbour, const int64_t* batch,
                void* stream) {
  graph.centre = centre, graph.neighbour = neighbour, graph.batch = batch;
  list_edges(centre, neighbour, graph.lists, stream);
  group(graph.lists.neighbour, graph.lists.by_centre.order, graph.by_neighbour, graph.bad, stream);
  group(batch, nullptr, graph.by_structure, graph.bad, stream);
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
