// What an op without a CUDA kernel says when it is given CUDA tensors.
#pragma once

#include <torch/library.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "common/api.h"

namespace uqforce {

// Registers, for each of `ops`, a CUDA kernel that raises NotImplementedError and says what to do.
UQFORCE_API void register_without_cuda(torch::Library& library, std::initializer_list<const char*> ops);

// The names of these ops.
std::vector<std::string> ops_without_cuda();

}  // namespace uqforce

// In op.cpp, once, with all ops of the folder that have no CUDA kernel in this build:
//   UQFORCE_WITHOUT_CUDA("gmm_nll", "gmm_nll_backward")
#define UQFORCE_WITHOUT_CUDA(...) \
  TORCH_LIBRARY_IMPL(uqforce, CUDA, m) { uqforce::register_without_cuda(m, {__VA_ARGS__}); }
