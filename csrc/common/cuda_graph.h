// Edges by their centres and by their neighbours, atoms by their structures: what lets every sum be formed by
// one warp or block, in a fixed order and without atomics.
#pragma once

#include <cstdint>

namespace uqforce {

struct Graph {
  int64_t atoms, edges, structures;
  const int64_t *centre, *neighbour;  // [edges]
  const int64_t* batch;               // [atoms], or null: one structure
  // The edges of centre i are by_centre[k], k from centre_start[i] to centre_start[i + 1], ascending; those
  // of neighbour i likewise, in the order of their centres.
  uint32_t *by_centre, *by_neighbour;       // [edges]
  int64_t *centre_start, *neighbour_start;  // [atoms + 1]
  // The atoms of each structure.
  uint32_t* by_structure;    // [atoms]
  int64_t* structure_start;  // [structures + 1]
  // Not 0 if an edge names an atom, or an atom a structure, that does not exist: results are NaN then, since
  // to look at the values would make the host wait.
  int* bad;
};

// Bytes of the memory that a graph stands in.
int64_t graph_bytes(int64_t atoms, int64_t edges, int64_t structures);

Graph make_graph(void* memory, const int64_t* centre, const int64_t* neighbour, const int64_t* batch,
                 int64_t atoms, int64_t edges, int64_t structures, void* stream);

// out [structures, columns] = sums of rows [atoms, columns] over the structure's atoms. `workspace` holds
// sum_rows_size() numbers.
int64_t sum_rows_size(int64_t atoms, int64_t structures, int64_t columns);
template <typename T>
void sum_by_structure(const Graph& graph, const T* rows, int64_t columns, double* workspace, double* out,
                      void* stream);

}  // namespace uqforce
