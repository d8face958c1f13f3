"""The Gaussian prior of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from uqforce.errors import InputError


class GaussianPrior:
    """p(theta) = N(theta | centre, scale^2 I) of some parameters; mean field as in Rensmeyer et al.,
    arXiv:2304.03694.

    Args:
        parameters: the weights.
        scale: standard deviation; the networks' weights are made with variance 1.
        centres: one tensor per parameter, of its shape.
    """

    def __init__(self, parameters: Sequence[Tensor], scale: float, centres: Sequence[Tensor]) -> None:
        if not scale > 0:
            raise InputError(f"scale must be positive, got {scale}")
        self.parameters, self.centres = list(parameters), list(centres)
        self.precision = 1.0 / scale**2

    @torch.no_grad()
    def add_gradient_(self, num_data: int) -> None:
        """Add -grad log p / num_data to the gradients; parameters that have none get this one alone."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters]
        factor = self.precision / num_data
        torch._foreach_add_(gradients, self.parameters, alpha=factor)
        torch._foreach_sub_(gradients, self.centres, alpha=factor)

    @torch.no_grad()
    def energy(self) -> float:
        """-log p, up to the constant of the normalisation."""
        apart = torch._foreach_sub(self.parameters, self.centres)
        return 0.5 * self.precision * sum(x.square().sum(dtype=torch.float64).item() for x in apart)
