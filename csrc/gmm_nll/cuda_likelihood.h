// The running sum of a mixture's likelihoods, of all its CUDA kernels.
#pragma once

#include <limits>

#include "common/cuda.h"

namespace uqforce::gmm_nll {

// One more component in the running sum of likelihoods exp(log_p - top): r is its term, and what was summed
// before has to be multiplied by `scale`. One of the two is 1.
template <typename T>
__device__ void add_likelihood(T log_p, T& top, T& sum, T& r, T& scale) {
  const bool none = log_p == -std::numeric_limits<T>::infinity();  // a component of weight 0
  const T above = none ? log_p : log_p - top, other = exp(-abs(above));
  r = above > 0 ? T(1) : other;
  scale = above > 0 ? other : T(1);
  sum = sum * scale + r;
  if (above > 0) top = log_p;
}

}  // namespace uqforce::gmm_nll
