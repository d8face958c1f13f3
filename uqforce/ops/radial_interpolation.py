"""Values of functions of the edge length from a table of them."""

import torch
from torch import Tensor


def radial_interpolation(table: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """Interpolate W functions on [0, 1], known with their slopes at R evenly spaced nodes, at E positions.

    `out[e] = sum_k c_k(x_e) table[s_e + k]` with the Lagrange polynomials c_k of the 8 nodes around x_e: the
    polynomial of degree 7 through them, its error proportional to (R - 1)^-8. Zero where x >= 1, beyond the
    cutoff. The derivative by x is taken to be the slopes interpolated in the same way: it equals the
    derivative of the values up to the same error, but not the rounding of differences between close nodes.
    Differentiable twice; scriptable; sums in a fixed order for any number of threads.

    A network of the edge length is evaluated at R nodes instead of at E edges in this way; its weights get
    their gradients through table and slope.

    Args:
        table: [R,W], float32 or float64; row k belongs to x = k / (R - 1); R >= 8.
        slope: [R,W], derivative of the table by x.
        x: [E,1], edge lengths over their cutoffs, not negative.

    Returns:
        [E,W].

    Raises:
        ValueError: shapes or devices that do not fit, fewer than 8 nodes, a negative x.
        TypeError: dtypes other than float32 or float64, or not the same.
    """
    return torch.ops.uqforce.radial_interpolation(table, slope, x)
