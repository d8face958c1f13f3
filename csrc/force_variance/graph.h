// Edges of each atom as a centre and as a neighbour, by counting sorts: what lets every atom gather its own
// sums, without atomics and in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

namespace uqforce::force_variance {

struct Graph {
  const int64_t* centre;
  const int64_t* neighbour;
  int64_t atoms;
  int64_t edges;
  // Edges with centre i are out[out_start[i]] ... out[out_start[i + 1] - 1], those with neighbour i likewise
  // in `in`, ordered by centre: the images of one ordered pair stand together. `out` is empty where the edges
  // are sorted by centre already.
  std::vector<int64_t> out_start, in_start, out, in;

  // ValueError for an index outside [0, atoms).
  Graph(const int64_t* centre, const int64_t* neighbour, int64_t atoms, int64_t edges);

  int64_t out_edge(int64_t position) const { return out.empty() ? position : out[position]; }
};

}  // namespace uqforce::force_variance
