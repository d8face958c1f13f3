"""Spherical harmonics of the edges' directions, and their lengths over the cutoff."""

import torch
from torch import Tensor


def edge_embedding(edge_vec: Tensor, inverse_cutoff: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """Real spherical harmonics Y_lm of edge_vec / |edge_vec| and |edge_vec| * inverse_cutoff.

    e3nn's `SphericalHarmonics(normalize=True, normalization="component")`: l = 0 .. l_max one after another,
    sum_m Y_lm^2 = 2l + 1, Y_1 = sqrt(3) (x, y, z). An edge of length zero has Y_00 = 1, zeros for l > 0, and
    no gradient. Differentiable twice with respect to edge_vec; scriptable; edges do not depend on each other.

    Args:
        edge_vec: [E,3] A, float32 or float64.
        inverse_cutoff: [E] or, one for all edges, [1]; 1/A; a constant.
        l_max: highest degree, 0 to 4.

    Returns:
        edge_sh [E, (l_max + 1)^2], scaled length [E,1].

    Raises:
        ValueError: shapes or devices do not fit, or l_max is not 0 to 4.
        TypeError: dtypes other than float32 or float64, or not the same.
    """
    return torch.ops.uqforce.edge_embedding(edge_vec, inverse_cutoff, l_max)
