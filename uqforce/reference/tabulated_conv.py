"""The convolution's inference form in plain torch: slow and obvious, the definition of the op."""

import torch
from torch import Tensor

from uqforce.reference.block_linear import block_linear
from uqforce.reference.tensor_product_conv import tensor_product_conv
from uqforce.reference.wigner_3j import wigner_3j


def b_splines(x: Tensor, intervals: int) -> Tensor:
    """Quintic B-splines on `intervals` equal parts of [0, 1] at x [E] -> [E, intervals + 5]."""
    t = x[:, None] * intervals - torch.arange(-5, intervals, dtype=x.dtype, device=x.device)
    # Cox and de Boor's recursion for uniform knots; t is the distance from a spline's first knot.
    functions = [((t - k >= 0) & (t - k < 1)).to(x) for k in range(6)]
    for degree in range(1, 6):
        functions = [
            ((t - k) * functions[k] + (degree + 1 - t + k) * functions[k + 1]) / degree
            for k in range(6 - degree)
        ]
    return functions[0]


def radial_weights(scaled_length: Tensor, table: Tensor, spec: list[int]) -> Tensor:
    """Weights of edges of length / cutoff [E] from a table of coefficients -> [E, weight_numel]."""
    intervals = table.shape[0] // spec[3] - 5
    x = scaled_length.clamp(max=1 - 1e-12)
    splines = b_splines(x, intervals) * ((1 - scaled_length).clamp(min=0) ** 3)[:, None]
    weights, start = [], 0
    for p in range(spec[4]):
        mul = spec[5 + 9 * p + 3]
        size = (intervals + 5) * mul
        weights.append(splines @ table[start : start + size].view(intervals + 5, mul))
        start += size
    return torch.cat(weights, dim=1)


def spherical_harmonics(direction: Tensor, l_max: int) -> Tensor:
    """e3nn's, "component" normalisation, of unit vectors [E,3] -> [E, (l_max+1)^2]."""
    blocks = [torch.ones_like(direction[:, :1]), 3**0.5 * direction]
    for l in range(2, l_max + 1):
        product = torch.einsum(
            "abc,ea,eb->ec", wigner_3j(1, l - 1, l).to(direction), blocks[1], blocks[l - 1]
        )
        blocks.append((2 * l + 1) / (3 * l) ** 0.5 * product)
    return torch.cat(blocks[: l_max + 1], dim=1)


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
    """See `uqforce.ops.tabulated_conv`."""
    length = torch.linalg.vector_norm(edge_vec, dim=1)
    cutoff = cutoffs[atom_types[edge_index[0]], atom_types[edge_index[1]]]
    direction = edge_vec / length.clamp(min=1e-30)[:, None]
    edge_sh = spherical_harmonics(direction, round(conv_spec[2] ** 0.5) - 1)
    weights = radial_weights(length / cutoff, table, conv_spec)
    rows = tensor_product_conv(x, edge_sh, weights, edge_index, conv_spec)
    return block_linear(rows, linear[None], None, linear_spec)
