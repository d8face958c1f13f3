// What edges leave behind until it is summed would fill the memory: they go in passes. Plain arithmetic of
// the host, which the tests call too.
#pragma once

#include <algorithm>
#include <cstdint>

namespace uqforce::conv {

#ifdef UQFORCE_EMULATION
constexpr int64_t kLeastWorkspace = int64_t(1) << 15;  // small, so that the tests have several passes
#else
constexpr int64_t kLeastWorkspace = int64_t(1) << 29;  // bytes
#endif
constexpr int64_t kMostPasses = 8;                    // where memory is left for that
constexpr int64_t kMostPassEdges = int64_t(1) << 26;  // with 25 columns an int still counts their numbers

struct Passes {
  int64_t edges, step;  // in all, of a pass

  // About as many of the nodes as a pass has: an eighth more than on average. A kernel that finds more in its
  // pass goes on with them.
  int64_t nodes(int64_t all) const {
    if (step >= edges) return all;
    const int64_t mean = (all * step + edges - 1) / edges;
    return std::min(all, mean + mean / 8 + 1);
  }
};

// Every pass costs a look at all nodes, so their number must not grow with the edges: the workspace does, but
// only to a quarter of the memory that is free. Each edge leaves `bytes_of_an_edge` behind; where that is
// nothing, one pass does.
inline Passes plan_passes(int64_t edges, int64_t bytes_of_an_edge, int64_t free_bytes) {
  if (bytes_of_an_edge == 0) return {edges, std::max<int64_t>(edges, 1)};
  const int64_t each = bytes_of_an_edge;
  const int64_t wanted = std::max<int64_t>((edges + kMostPasses - 1) / kMostPasses, 1);
  const int64_t allowed = std::max(kLeastWorkspace, free_bytes / 4) / each;
  const int64_t most =
      std::clamp<int64_t>(std::min(std::max(wanted, kLeastWorkspace / each), allowed), 1, kMostPassEdges);
  const int64_t passes = std::max<int64_t>((edges + most - 1) / most, 1);
  return {edges, std::max<int64_t>((edges + passes - 1) / passes, 1)};
}

}  // namespace uqforce::conv
