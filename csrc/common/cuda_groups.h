// Items grouped by an integer key on the device, in a fixed order and without a look at the values: what lets
// every sum be formed by one warp or block, and without atomics.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cuda_layout.h"

namespace uqforce {

// Those of group g are order[begin[g]], ..., order[begin[g + 1] - 1], ascending. Fewer than 2^31 items. The
// work is that of a few passes where the keys ascend already, else grows with the square of the groups'
// sizes: right for groups as small as an atom's edges. Large groups are sorted, whether they need it or not.
struct Groups {
  int64_t items = 0, groups = 0;
  int *begin = nullptr, *order = nullptr;  // [groups + 1], [items]
  int *counts, *places, *unsorted;         // workspace: [groups + 1], [items], [1]
  void* sums;
  int *keys = nullptr, *ascending;  // workspace of the sort: [items] each; null where there is none
  void* sort;

  Groups() = default;
  // At least one group.
  Groups(Layout& layout, int64_t items, int64_t groups, bool large = false);
};

// Groups items by their keys (null: all 0). A key outside 0..groups-1 sets *bad, if bad is given, and counts
// as 0. With names [items] these stand in `order` in place of the items' numbers. Where *bad is set, now or
// before, groups are in no particular order: what is made of them is not a number anyway, and all of them may
// be one.
void group(const int64_t* keys, const int* names, const Groups& result, int* bad, void* stream);
void group(const int* keys, const int* names, const Groups& result, int* bad, void* stream);

// Edges by centre, and the neighbours beside them: edge by_centre.order[k] leads to neighbour[k].
struct EdgeLists {
  int64_t nodes = 0, edges = 0;
  Groups by_centre;
  int* neighbour = nullptr;
  int* bad = nullptr;  // 1 where an edge names a node that is none: then 0 stands for it

  EdgeLists() = default;
  EdgeLists(Layout& layout, int64_t nodes, int64_t edges)
      : nodes(nodes),
        edges(edges),
        by_centre(layout, edges, nodes),
        neighbour(layout.take<int>(edges)),
        bad(layout.take<int>(1)) {}
};

void list_edges(const int64_t* centre, const int64_t* neighbour, const EdgeLists& lists, void* stream);

// Edges by both ends, atoms by structure.
struct Graph {
  int64_t atoms = 0, edges = 0, structures = 0;
  const int64_t *centre, *neighbour;  // [edges]
  const int64_t* batch;               // [atoms], or null: one structure
  EdgeLists lists;
  Groups by_neighbour;  // of edges, in the order of their centres
  Groups by_structure;
  // Not 0 if an edge names an atom, or an atom a structure, that does not exist: results are NaN then, since
  // to look at the values would make the host wait.
  int* bad;

  Graph(Layout& layout, int64_t atoms, int64_t edges, int64_t structures);
};

void make_graph(Graph& graph, const int64_t* centre, const int64_t* neighbour, const int64_t* batch,
                void* stream);

// out [structures, columns] = sums of rows [atoms, columns] over the structure's atoms. `workspace` holds
// sum_rows_size() numbers.
int64_t sum_rows_size(int64_t atoms, int64_t structures, int64_t columns);
template <typename T>
void sum_by_structure(const Graph& graph, const T* rows, int64_t columns, double* workspace, double* out,
                      void* stream);

}  // namespace uqforce
