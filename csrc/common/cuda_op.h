// Where an op's CUDA kernels meet torch: `#include`d by cuda_op.cpp. No CUDA header.
#pragma once

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/stream.h"
#include "common/without_cuda.h"

// UQFORCE_CUDA_KERNELS(m) { m.impl("gmm_nll", nll_cuda); } registers them. Where the tests run CUDA kernels
// on the host (tests/emulation), they take the place of the CPU's.
#if defined(UQFORCE_EMULATION)
#define UQFORCE_HAS_CUDA
#define UQFORCE_CUDA_KERNELS(m) TORCH_LIBRARY_IMPL(uqforce, CPU, m)
#elif defined(UQFORCE_CUDA)
#define UQFORCE_HAS_CUDA
#define UQFORCE_CUDA_KERNELS(m) TORCH_LIBRARY_IMPL(uqforce, CUDA, m)
#endif
