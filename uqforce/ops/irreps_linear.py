"""Equivariant linear map of features stored channels innermost, for inference."""

from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor


class LinearBlock(NamedTuple):
    """One irrep of an equivariant linear map: its components, its columns and channels on both sides, and
    the first of its weights [mul_in, mul_out]."""

    dim: int
    in_offset: int
    mul_in: int
    out_offset: int
    mul_out: int
    weight_offset: int


class LinearSpec:
    """An equivariant linear map of features stored channels innermost.

    Args:
        irreps_in, irreps_out: every irrep at most once. Irreps of the output that the input lacks are zero.

    Attributes:
        blocks: list of `LinearBlock`, in the order of the output.
        dim_in, dim_out, weight_numel: columns of the input and the output, number of weights.
        flat: the integers that ops read: these three, the number of blocks, and the blocks.

    Raises:
        ValueError: an irrep occurs twice on one side.
    """

    def __init__(self, irreps_in: Irreps | str, irreps_out: Irreps | str):
        irreps_in, irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        sources = {ir: (mul, s.start) for (mul, ir), s in zip(irreps_in, irreps_in.slices())}
        if len(sources) < len(irreps_in) or len({ir for _, ir in irreps_out}) < len(irreps_out):
            raise ValueError(f"irreps {irreps_in} -> {irreps_out} must be simplified: an irrep occurs twice")
        self.dim_in, self.dim_out, self.weight_numel = irreps_in.dim, irreps_out.dim, 0
        self.blocks: list[LinearBlock] = []
        for (mul_out, ir), s in zip(irreps_out, irreps_out.slices()):
            if ir not in sources:
                continue
            mul_in, start = sources[ir]
            self.blocks.append(LinearBlock(ir.dim, start, mul_in, s.start, mul_out, self.weight_numel))
            self.weight_numel += mul_in * mul_out
        sizes = [self.dim_in, self.dim_out, self.weight_numel, len(self.blocks)]
        self.flat: list[int] = sizes + [number for block in self.blocks for number in block]

    def transposed(self) -> list[int]:
        """`flat` of the map from the output to the input, whose weights are `transpose(weight)`."""
        blocks = [
            (b.dim, b.out_offset, b.mul_out, b.in_offset, b.mul_in, b.weight_offset) for b in self.blocks
        ]
        sizes = [self.dim_out, self.dim_in, self.weight_numel, len(blocks)]
        return sizes + [number for block in blocks for number in block]

    def transpose(self, weight: Tensor) -> Tensor:
        """weight [..., weight_numel] with each block's matrix transposed."""
        blocks = [
            weight[..., b.weight_offset : b.weight_offset + b.mul_in * b.mul_out]
            .unflatten(-1, (b.mul_in, b.mul_out))
            .transpose(-1, -2)
            .flatten(-2)
            for b in self.blocks
        ]
        return torch.cat(blocks, dim=-1)


def irreps_linear(x: Tensor, weight: Tensor, types: Tensor | None, spec: list[int]) -> Tensor:
    """One matrix product per irrep: `out[n, m, o] = sum_i x[n, m, i] weight[types[n], i, o]`.

    Differentiable in x, any number of times: the derivative is the map `LinearSpec.transposed()` with weights
    `LinearSpec.transpose(weight)`. A row's result depends neither on the other rows nor on the threads.

    Args:
        x: [N, dim_in] or [K, N, dim_in], channels innermost, float32 or float64.
        weight: [T, weight_numel]: for each type the blocks [mul_in, mul_out] in turn; a constant.
        types: [N] int64 in 0..T-1, or None for T = 1.
        spec: `LinearSpec.flat`.

    Returns:
        [N, dim_out] or [K, N, dim_out]; zero where the input has no such irrep.

    Raises:
        ValueError: shapes do not fit the spec or each other, or the devices differ.
        TypeError: dtypes differ, are not float32 or float64, or types is not int64.
        IndexError: a type is out of range.
        RuntimeError: weight requires a gradient.
    """
    return torch.ops.uqforce.irreps_linear(x, weight, types, spec)
