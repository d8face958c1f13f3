// The planning of passes, for the tests and the paper model to call by ctypes.
#include "tensor_product_conv/passes.h"

extern "C" {

int64_t edges_of_a_pass(int64_t edges, int64_t bytes_of_an_edge, int64_t free_bytes) {
  return uqforce::conv::plan_passes(edges, bytes_of_an_edge, free_bytes).step;
}

int64_t nodes_of_a_pass(int64_t edges, int64_t bytes_of_an_edge, int64_t free_bytes, int64_t nodes) {
  return uqforce::conv::plan_passes(edges, bytes_of_an_edge, free_bytes).nodes(nodes);
}
}
