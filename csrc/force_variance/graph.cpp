#include "force_variance/graph.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>

namespace uqforce::force_variance {
namespace {

constexpr int64_t kGrain = 16384;  // edges
constexpr int64_t kStride = 8;     // edges of one centre that are skipped at once

void check_atoms(const int64_t* atom, int64_t edges, int64_t atoms) {
  for (const auto e : c10::irange(edges)) {
    TORCH_CHECK_VALUE(atom[e] >= 0 && atom[e] < atoms, "edge_index holds atom ", atom[e], " at edge ", e,
                      ", but there are ", atoms, " atoms");
  }
}

bool is_sorted(const int64_t* centre, const int64_t* neighbour, int64_t edges, bool by_pair) {
  std::atomic<bool> sorted = true;
  at::parallel_for(1, std::max<int64_t>(edges, 1), kGrain, [&](int64_t begin, int64_t end) {
    int64_t descends = 0;  // negative where an edge belongs before the last one
    for (int64_t e = begin; e < end; ++e) {
      const int64_t step = centre[e] - centre[e - 1];
      descends |= step;
      if (by_pair) descends |= (step - 1) & (neighbour[e] - neighbour[e - 1]);
    }
    if (descends < 0) sorted = false;
  });
  return sorted;
}

// `order` by ascending keys; edges with equal keys stay in order.
void sort_by(const int64_t* keys, int64_t atoms, std::vector<int64_t>& order) {
  std::vector<int64_t> next(atoms + 1), sorted(order.size());
  for (const int64_t e : order) ++next[keys[e] + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (const int64_t e : order) sorted[next[keys[e]]++] = e;
  order = std::move(sorted);
}

}  // namespace

Graph::Graph(const int64_t* centre, const int64_t* neighbour, int64_t atoms, int64_t edges, bool by_pair)
    : centre(centre), neighbour(neighbour), atoms(atoms), edges(edges), start(atoms + 1, edges) {
  if (!is_sorted(centre, neighbour, edges, by_pair)) {
    check_atoms(centre, edges, atoms);
    check_atoms(neighbour, edges, atoms);
    order.resize(edges);
    std::iota(order.begin(), order.end(), 0);
    if (by_pair) sort_by(neighbour, atoms, order);
    sort_by(centre, atoms, order);
  } else if (edges > 0 && (centre[0] < 0 || centre[edges - 1] >= atoms)) {
    check_atoms(centre, edges, atoms);
  }
  at::parallel_for(0, edges, kGrain, [&](int64_t begin, int64_t end) {
    int64_t last = begin == 0 ? -1 : centre[edge(begin - 1)];
    for (int64_t position = begin; position < end;) {
      const int64_t i = centre[edge(position)];
      while (last < i) start[++last] = position;
      ++position;
      while (position + kStride < end && centre[edge(position + kStride)] == i) position += kStride;
    }
  });

  const int64_t blocks = (atoms + kBlock - 1) / kBlock;
  lowest_.resize(blocks);
  highest_.resize(blocks);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (const auto block : c10::irange(begin, end)) {
      int64_t low = std::numeric_limits<int64_t>::max(), high = -1;
      const int64_t last = start[std::min(atoms, (block + 1) * kBlock)];
      for (int64_t position = start[block * kBlock]; position < last; ++position) {
        low = std::min(low, neighbour[edge(position)]);
        high = std::max(high, neighbour[edge(position)]);
      }
      if (low < 0 || high >= atoms) check_atoms(neighbour, edges, atoms);
      lowest_[block] = low;
      highest_[block] = high;
    }
  });
}

}  // namespace uqforce::force_variance
