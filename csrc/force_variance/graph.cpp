#include "force_variance/graph.h"

#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <numeric>

namespace uqforce::force_variance {
namespace {

// start[i] .. start[i + 1]: how many of `keys` are smaller than i, and than i + 1.
std::vector<int64_t> count(const int64_t* keys, int64_t size, int64_t atoms) {
  std::vector<int64_t> start(atoms + 1);
  for (const auto e : c10::irange(size)) {
    TORCH_CHECK_VALUE(keys[e] >= 0 && keys[e] < atoms, "edge_index holds atom ", keys[e], " at edge ", e,
                      ", but there are ", atoms, " atoms");
    ++start[keys[e] + 1];
  }
  std::partial_sum(start.begin(), start.end(), start.begin());
  return start;
}

}  // namespace

Graph::Graph(const int64_t* centre, const int64_t* neighbour, int64_t atoms, int64_t edges)
    : centre(centre),
      neighbour(neighbour),
      atoms(atoms),
      edges(edges),
      out_start(count(centre, edges, atoms)),
      in_start(count(neighbour, edges, atoms)),
      in(edges) {
  if (!std::is_sorted(centre, centre + edges)) {
    out.resize(edges);
    auto next = out_start;
    for (const auto e : c10::irange(edges)) out[next[centre[e]]++] = e;
  }
  auto next = in_start;
  for (const auto position : c10::irange(edges)) {
    const int64_t e = out_edge(position);
    in[next[neighbour[e]]++] = e;
  }
}

}  // namespace uqforce::force_variance
