// Forces and their covariance blocks from edge derivatives: declarations shared by op.cpp, autograd.cpp and
// the kernels. K gradients of grad_energy, of which the first `members` are those of members: mean and
// covariance are taken over these, and any others only have forces and virials of their own. S gradients of
// grad_sigma, 0 where there is no noise model.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/api.h"

namespace uqforce::force_variance {

using at::Tensor;

// What all three ops begin with ...
#define UQFORCE_INPUTS                                                                                   \
  const Tensor &edge_index, const Tensor &edge_vec, const Tensor &grad_energy, const Tensor &grad_sigma, \
      const Tensor &batch, c10::SymInt num_structures, bool local, int64_t ddof, int64_t members
#define UQFORCE_INPUT_NAMES \
  edge_index, edge_vec, grad_energy, grad_sigma, batch, num_structures, local, ddof, members
// ... cotangents of the eight results ...
#define UQFORCE_COTANGENTS                                                                              \
  const Tensor &c_forces, const Tensor &c_aleatoric, const Tensor &c_epistemic, const Tensor &c_virial, \
      const Tensor &c_virial_variance, const Tensor &c_member_forces, const Tensor &c_member_virials,   \
      const Tensor &c_sigma_virials
#define UQFORCE_COTANGENT_NAMES                                                                       \
  c_forces, c_aleatoric, c_epistemic, c_virial, c_virial_variance, c_member_forces, c_member_virials, \
      c_sigma_virials
// ... and cotangents of the backward's results, which are directions in the space of the inputs.
#define UQFORCE_DIRECTIONS const Tensor &u_edge_vec, const Tensor &u_grad_energy, const Tensor &u_grad_sigma
#define UQFORCE_DIRECTION_NAMES u_edge_vec, u_grad_energy, u_grad_sigma

// forces [N,3], aleatoric [N,6] without the noise's diagonal, epistemic [N,6], virial [B,3,3] and its
// variance; forces [K,N,3] and virials [K,B,3,3] of every gradient, and those virials that grad_sigma makes:
// [S,B,3,3] of structures, or, of standard deviations of single atoms (local), [S,N,3,3].
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
// With respect to edge_vec, grad_energy, grad_sigma.
using Gradients = std::tuple<Tensor, Tensor, Tensor>;
// Derivative of the results, and of the gradients, along the directions.
using Directional =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// ValueError / TypeError unless the arguments fit together. Work on Meta tensors with symbolic sizes.
UQFORCE_API void check_inputs(UQFORCE_INPUTS);
UQFORCE_API void check_cotangents(UQFORCE_INPUTS, UQFORCE_COTANGENTS);
UQFORCE_API void check_directions(UQFORCE_INPUTS, UQFORCE_DIRECTIONS);

// Calls through the dispatcher.
Results call_forward(UQFORCE_INPUTS);
Gradients call_backward(UQFORCE_INPUTS, UQFORCE_COTANGENTS);
Directional call_double_backward(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS);

}  // namespace uqforce::force_variance
