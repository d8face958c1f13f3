// The arrays of force_variance's results, their cotangents and the gradients, for the CPU and CUDA.
#pragma once

namespace uqforce::force_variance {

template <typename T>
struct ResultPointers {
  T *forces, *aleatoric, *epistemic, *virial, *virial_variance, *member_forces, *member_virials,
      *sigma_virials;
};
template <typename T>
struct CotangentPointers {
  const T *forces, *aleatoric, *epistemic, *virial, *virial_variance, *member_forces, *member_virials,
      *sigma_virials;
};
template <typename T>
struct GradientPointers {
  T *edge_vec, *grad_energy, *grad_sigma;
};

}  // namespace uqforce::force_variance
