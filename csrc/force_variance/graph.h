// Edges in the order of their centres: what lets threads share out the atoms, so that every sum is formed by
// one thread and in a fixed order, without atomics.
#pragma once

#include <cstdint>
#include <vector>

namespace uqforce::force_variance {

struct Graph {
  // Centres of a block, whose edges are skipped together by threads that own none of the atoms there.
  static constexpr int64_t kBlock = 64;

  const int64_t* centre;
  const int64_t* neighbour;
  int64_t atoms;
  int64_t edges;
  // The edges of centre i stand at positions start[i] to start[i + 1]. order[position] is the edge there,
  // absent where the edges are in order already.
  std::vector<int64_t> start, order;

  // `by_pair`: the edges of a centre in the order of their neighbours too, so that the images of one ordered
  // pair stand together. ValueError for an index outside [0, atoms).
  Graph(const int64_t* centre, const int64_t* neighbour, int64_t atoms, int64_t edges, bool by_pair);

  int64_t edge(int64_t position) const { return order.empty() ? position : order[position]; }

  // Whether the block may have neighbours in [first, last).
  bool has_neighbours(int64_t block, int64_t first, int64_t last) const {
    return lowest_[block] < last && highest_[block] >= first;
  }

 private:
  std::vector<int64_t> lowest_, highest_;  // neighbour of each block
};

}  // namespace uqforce::force_variance
