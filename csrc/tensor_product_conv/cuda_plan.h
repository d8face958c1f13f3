// What the CUDA ops launch for a spec.
#pragma once

#include <vector>

#include "tensor_product_conv/cuda.h"
#include "tensor_product_conv/op.h"

namespace uqforce::conv {

struct CudaPlan {
  std::vector<CudaUnits> launches;  // in this order
  CudaDegrees degrees{};            // of the units
  bool zero_rows;                   // rows of dx begin as zero, and all units add to them

  // Units of at most `channels` channels. Remembered for the process.
  static const CudaPlan& of(const ConvSpec& spec, int channels);
};

}  // namespace uqforce::conv
