// Launchers of cuda.cu, called by cuda_op.cpp; the arrays of cpu_kernels.h's Edges on the device.
#pragma once

#include "edge_embedding/cpu_kernels.h"

namespace uqforce::embedding {

template <typename T>
void evaluate(const Edges<T>& edges, int l_max, Order order, void* stream);

}  // namespace uqforce::embedding
