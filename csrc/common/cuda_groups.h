// Items grouped by an integer key on the device, in a fixed order and without a look at the values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace uqforce {

// Those of group g are order[begin[g]], ..., order[begin[g + 1] - 1], ascending. A key outside 0..groups-1
// sets *bad, if bad is given, and counts as 0. At least one group; fewer than 2^31 items.
struct Groups {
  int64_t items, groups;
  int* begin;      // [groups + 1]
  int* order;      // [items]
  int* workspace;  // [items + groups]
};

void group(const int64_t* keys, const Groups& result, int* bad, void* stream);
void group(const int* keys, const Groups& result, int* bad, void* stream);

// Numbers of int that the edges of a graph need.
inline int64_t edge_list_size(int64_t nodes, int64_t edges) { return 3 * edges + 2 * nodes + 2; }

// Edges by centre: those of centre i are edge[begin[i]], ..., edge[begin[i + 1] - 1], ascending, and lead to
// the neighbours beside them.
struct EdgeLists {
  int64_t nodes, edges;
  int *begin, *edge, *neighbour, *workspace;
  int* bad;  // 1 where edge_index names a node that is none: then 0 stands for it

  EdgeLists(int64_t nodes, int64_t edges, int* memory)
      : nodes(nodes),
        edges(edges),
        begin(memory + 1),
        edge(begin + nodes + 1),
        neighbour(edge + edges),
        workspace(neighbour + edges),
        bad(memory) {}
};

void list_edges(const int64_t* edge_index, const EdgeLists& lists, void* stream);

}  // namespace uqforce
