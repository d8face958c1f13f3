"""Equivariant linear maps of features, the same for all atoms or one per type of atom."""

import torch
from torch import Tensor


def block_linear(
    x: Tensor,
    weight: Tensor,
    types: Tensor | None,
    spec: list[int],
    transposed: bool = False,
) -> Tensor:
    """Multiply each irrep's channels by a matrix, for all its components alike.

    `out[n, out_offset + m mul_out + w] = sum_u x[n, in_offset + m mul_in + u] W[u, w] / sqrt(mul_in fan)` for
    every block, with W = `weight[types[n], weight_offset : weight_offset + mul_in mul_out]` as a matrix
    [mul_in, mul_out]; columns that belong to no block are zero. The sums are those of torch's matrix
    products: the same from run to run, but not to the last bit for every number of threads. Differentiable
    any number of times in x and weight; scriptable.

    Args:
        x: [N, dim_in] features, channels innermost, float32 or float64.
        weight: [T, weight_numel].
        types: [N] int64, row of `weight` for each atom; None where there is one row.
        spec: `[dim_in, dim_out, weight_numel, fan]`, then per block `[components, mul_in, mul_out, in_offset,
            out_offset, weight_offset]` (`uqforce.model.linear.block_spec`).
        transposed: multiply by the transposed matrices, [N, dim_out] -> [N, dim_in].

    Returns:
        [N, dim_out].

    Raises:
        ValueError: shapes do not fit the spec or each other, or blocks overlap.
        TypeError: x and weight are not both float32 or float64, or types is not int64.
        IndexError: a type without a row of weights.
    """
    return torch.ops.uqforce.block_linear(x, weight, types, spec, transposed)
