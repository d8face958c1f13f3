// Launcher of cuda.cu, called by cuda_op.cpp; the arrays of body.h on the device.
#pragma once

#include "gate/body.h"

namespace uqforce::gating {

template <typename T>
void evaluate(Order order, const Arrays<T>& arrays, const Layout& layout, void* stream);

}  // namespace uqforce::gating
