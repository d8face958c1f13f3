// What the CUDA kernels were compiled for; without them only library.cpp's answers "nothing".
#pragma once

#include <cstdint>

namespace uqforce {

// By nvcc's names, separated by spaces: "sm_80 sm_90 compute_90" is machine code for two architectures and
// PTX, which the driver of a newer card compiles.
const char* cuda_archs();

// Of a card: 90 for compute capability 9.0.
int64_t cuda_capability(int64_t device);

}  // namespace uqforce
