"""Negative log-likelihood of atomic features under a Gaussian mixture."""

import torch
from torch import Tensor


def gmm_nll(features: Tensor, means: Tensor, precisions_cholesky: Tensor, log_weights: Tensor) -> Tensor:
    """Negative log-likelihood of each atom's features: the higher, the less the model knows the atom.

    With scikit-learn's conventions (`GaussianMixture(covariance_type="full")`), P_m = precisions_cholesky[m]:

        nll(x) = -log sum_m exp( log w_m + sum log diag P_m - 1/2 (D log 2 pi + |(x - mu_m) P_m|^2) )

    Differentiable twice with respect to `features` (gradient and Hessian-vector product in closed form); the
    parameters are constants. No [N,M,D] array is made. An atom's value depends neither on the other atoms nor
    on the number of threads. The gradient is computed along with the value when `features` requires one: pass
    `features.detach()` where only the value is wanted.

    Args:
        features: [N,D], float32 or float64, contiguous or not. Dimensionless.
        means: [M,D].
        precisions_cholesky: [M,D,D], upper triangular; entries below the diagonal are not read.
        log_weights: [M], logarithms of the weights.

    Returns:
        [N], in the dtype of `features`.

    Raises:
        ValueError: shapes or devices that do not fit, no component, parameters that are not finite (CPU).
        TypeError: dtypes other than float32 or float64, or not all the same.
        RuntimeError: a parameter requires a gradient.

    Source: Zhu, Batzner, Musaelian, Kozinsky, J. Chem. Phys. 158, 164111 (2023), Eqs. 5-8.
    """
    return torch.ops.uqforce.gmm_nll(features, means, precisions_cholesky, log_weights)
