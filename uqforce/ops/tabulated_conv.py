"""The convolution at inference: weights from a table of the radial network, linear map applied at once."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import make_lsq_spline
from torch import Tensor

from uqforce.ops.tensor_product_conv import TensorProductSpec


def radial_table(
    radial: Callable[[Tensor], Tensor], spec: TensorProductSpec, intervals: int
) -> tuple[Tensor, float]:
    """The table of `tabulated_conv` for radial weights that vanish at the cutoff with their first and second
    derivatives.

    Args:
        radial: scaled lengths (length / cutoff) [P, 1] float64 in (0, 1) -> weights [P, weight_numel].
        spec: the convolution's.
        intervals: number of equal parts of 0..1.

    Returns:
        The table [(intervals + 5) * weight_numel] float64: least squares at eight points per interval of the
        weights over (1 - x)^3, and the largest error of a weight halfway between the points, over the root
        mean square of all weights.
    """

    def wanted(points: np.ndarray) -> np.ndarray:
        return radial(torch.from_numpy(points)[:, None]).detach().numpy()

    at, between = (
        (np.arange(8 * intervals) + 0.5) / (8 * intervals),
        np.arange(1, 8 * intervals) / (8 * intervals),
    )
    knots = np.arange(-5, intervals + 6) / intervals
    spline = make_lsq_spline(at, wanted(at) / (1 - at[:, None]) ** 3, knots, k=5)
    expected = wanted(between)
    difference = np.abs((1 - between[:, None]) ** 3 * spline(between) - expected).max()
    error = difference / max(np.sqrt(np.square(expected).mean()), 1e-300)
    coefficients = torch.from_numpy(spline.c)
    paths = [coefficients[:, p.weight_offset : p.weight_offset + p.mul].flatten() for p in spec.paths]
    return torch.cat(paths), float(error)


def tabulated_conv(
    x: Tensor,
    edge_vec: Tensor,
    edge_index: Tensor,
    atom_types: Tensor,
    cutoffs: Tensor,
    table: Tensor,
    linear: Tensor,
    conv_spec: list[int],
    linear_spec: list[int],
) -> Tensor:
    """`linear(tensor_product_conv(x, Y(edge_vec), W(edge_vec), edge_index))`, for inference.

    Spherical harmonics Y and weights W are made inside, W from a table: `W_u(r) = (1 - s)^3 sum_k B_k(s)
    table_u[k]` with s = |r| / cutoff, quintic B-splines B_k on equal parts of 0..1, and W = 0 for s >= 1.
    Neither they nor the convolution's rows are ever arrays. Differentiable once, in x and edge_vec.

    Args:
        x: [N, dim_in], channels innermost.
        edge_vec: [E, 3] from centre to neighbour, A, in x's dtype.
        edge_index: [2, E] int64, row 0 the centre, row 1 the neighbour. Sorted by centre is fastest.
        atom_types: [N] int64.
        cutoffs: [T, T] by the types of centre and neighbour, A.
        table: [(intervals + 5) * weight_numel], of `radial_table`: path by path [intervals + 5, mul].
        linear: weights of the linear map, its blocks [mul_in, mul_out].
        conv_spec, linear_spec: `TensorProductSpec.flat` and `BlockSpec.flat` with fan 0.

    Returns:
        [N, BlockSpec.dim_out].

    Raises:
        ValueError: shapes do not fit the specs or each other, or the devices differ.
        TypeError: dtypes differ, or are not float32 or float64, or of indices not int64.
        IndexError: an index or a type is out of range; on CUDA results are NaN then.
    """
    return torch.ops.uqforce.tabulated_conv(
        x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec, linear_spec
    )


def tabulated_conv_vjp(
    cotangents: Tensor,
    x: Tensor,
    edge_vec: Tensor,
    edge_index: Tensor,
    atom_types: Tensor,
    cutoffs: Tensor,
    table: Tensor,
    linear_transposed: Tensor,
    conv_spec: list[int],
    linear_spec: list[int],
    needs_x: bool = True,
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian products of `tabulated_conv` for K cotangents [K, N, BlockSpec.dim_out] at once.

    `linear_transposed` is `BlockSpec.transpose(linear)`; everything else as in `tabulated_conv`.

    Returns:
        Gradients of x [K, N, dim_in], or [0, N, dim_in] without `needs_x`, and of edge_vec [K, E, 3].
    """
    return torch.ops.uqforce.tabulated_conv_vjp(
        cotangents, x, edge_vec, edge_index, atom_types, cutoffs, table, linear_transposed, conv_spec,
        linear_spec, needs_x,
    )  # fmt: skip
