// Counts, their running sums, places claimed by counting again, and at last each group's items put in order:
// what the claims' order leaves to chance, the ranks take away.
#include "common/cuda.h"
#include "common/cuda_groups.h"

namespace uqforce {
namespace {

constexpr int kScan = 1024;

template <typename Key>
__device__ int64_t key_of(const Key* keys, int64_t item, int64_t groups, int* bad) {
  const int64_t key = keys[item];
  if (key >= 0 && key < groups) return key;
  if (bad) *bad = 1;  // whoever writes, writes the same
  return 0;
}

template <typename Key>
__global__ void count(const Key* keys, Groups g, int* bad) {
  const int64_t item = global_thread();
  if (item < g.items) atomicAdd(g.workspace + g.items + key_of(keys, item, g.groups, bad), 1);
}

// One block: counts -> begin, and the place of each group's first item in the place of its count.
__global__ void __launch_bounds__(kScan) scan(Groups g) {
  __shared__ int sums[kWarp];
  int* const counts = g.workspace + g.items;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int before = 0;
  for (int64_t start = 0; start < g.groups; start += kScan) {
    const int64_t k = start + threadIdx.x;
    const int mine = k < g.groups ? counts[k] : 0;
    int sum = mine;
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kAll, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == kWarp - 1) sums[warp] = sum;
    __syncthreads();
    int below = 0, total = 0;
    for (int w = 0; w < kScan / kWarp; ++w) {
      below += w < warp ? sums[w] : 0;
      total += sums[w];
    }
    if (k < g.groups) {
      counts[k] = before + below + sum - mine;
      g.begin[k + 1] = before + below + sum;
    }
    before += total;
    __syncthreads();  // before the sums of the next round
  }
  if (threadIdx.x == 0) g.begin[0] = 0;
}

template <typename Key>
__global__ void claim(const Key* keys, Groups g) {
  const int64_t item = global_thread();
  if (item >= g.items) return;
  const int64_t key = key_of(keys, item, g.groups, nullptr);
  g.workspace[atomicAdd(g.workspace + g.items + key, 1)] = int(item);
}

template <typename Key>
__global__ void put_in_order(const Key* keys, Groups g) {
  const int64_t place = global_thread();
  if (place >= g.items) return;
  const int item = g.workspace[place];
  const int64_t key = key_of(keys, item, g.groups, nullptr);
  const int first = g.begin[key], end = g.begin[key + 1];
  int rank = 0;
  for (int other = first; other < end; ++other) rank += g.workspace[other] < item;
  g.order[first + rank] = item;
}

__global__ void look_up(const int64_t* neighbours, EdgeLists lists) {
  const int64_t place = global_thread();
  if (place >= lists.edges) return;
  lists.neighbour[place] = int(key_of(neighbours, lists.edge[place], lists.nodes, lists.bad));
}

template <typename Key>
void group_by(const Key* keys, const Groups& g, int* bad, void* stream) {
  check_cuda(cudaMemsetAsync(g.workspace + g.items, 0, g.groups * sizeof(int), cudaStream_t(stream)),
             "clearing counts");
  launch("group", count<Key>, blocks_of(g.items), kThreads, 0, stream, keys, g, bad);
  launch("group", scan, 1, kScan, 0, stream, g);
  launch("group", claim<Key>, blocks_of(g.items), kThreads, 0, stream, keys, g);
  launch("group", put_in_order<Key>, blocks_of(g.items), kThreads, 0, stream, keys, g);
}

}  // namespace

void group(const int64_t* keys, const Groups& result, int* bad, void* stream) {
  group_by(keys, result, bad, stream);
}

void group(const int* keys, const Groups& result, int* bad, void* stream) {
  group_by(keys, result, bad, stream);
}

void list_edges(const int64_t* edge_index, const EdgeLists& lists, void* stream) {
  check_cuda(cudaMemsetAsync(lists.bad, 0, sizeof(int), cudaStream_t(stream)), "clearing a flag");
  group(edge_index, {lists.edges, lists.nodes, lists.begin, lists.edge, lists.workspace}, lists.bad, stream);
  launch("list_edges", look_up, blocks_of(lists.edges), kThreads, 0, stream, edge_index + lists.edges, lists);
}

}  // namespace uqforce
