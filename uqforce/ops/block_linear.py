"""Equivariant linear maps of features, the same for all atoms or one per type of atom."""

from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor


class ColumnBlock(NamedTuple):
    """One irrep of a map: its components, its channels and first columns on both sides, and the first of its
    weights [mul_in, mul_out]."""

    components: int
    mul_in: int
    mul_out: int
    in_offset: int
    out_offset: int
    weight_offset: int


class BlockSpec:
    """The blocks of an equivariant linear map of features stored channels innermost.

    Args:
        irreps_in, irreps_out: every irrep at most once. Irreps of the output that the input lacks are zero.
        fan: weights are scaled by 1 / sqrt(mul_in * fan), so that the variance of the output is that of the
            input if all weights have unit variance; 0 for weights taken as they are.

    Attributes:
        blocks: list of `ColumnBlock` in the order of the output; weights are in the order of the input.
        dim_in, dim_out, weight_numel: columns of the input and the output, number of weights.
        covers_out: no column of the output is left zero.
        flat: the integers that ops read: these three, `fan`, and the blocks.

    Raises:
        ValueError: an irrep occurs twice on one side.
    """

    def __init__(self, irreps_in: Irreps | str, irreps_out: Irreps | str, fan: int = 1):
        irreps_in, irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        given = {ir: (mul, s.start) for (mul, ir), s in zip(irreps_in, irreps_in.slices())}
        wanted = {ir: (mul, s.start) for (mul, ir), s in zip(irreps_out, irreps_out.slices())}
        if len(given) < len(irreps_in) or len(wanted) < len(irreps_out):
            raise ValueError(f"irreps {irreps_in} -> {irreps_out} must be simplified: an irrep occurs twice")
        first, self.weight_numel = {}, 0
        for ir in given:
            if ir in wanted:
                first[ir] = self.weight_numel
                self.weight_numel += given[ir][0] * wanted[ir][0]
        self.blocks = [
            ColumnBlock(ir.dim, given[ir][0], mul, given[ir][1], start, first[ir])
            for ir, (mul, start) in wanted.items()
            if ir in given
        ]
        self.dim_in, self.dim_out, self.fan = irreps_in.dim, irreps_out.dim, fan
        self.covers_out = len(self.blocks) == len(wanted)
        self.flat: list[int] = self._flat(self.dim_in, self.dim_out, self.blocks)

    def _flat(self, dim_in: int, dim_out: int, blocks: list[ColumnBlock]) -> list[int]:
        return [dim_in, dim_out, self.weight_numel, self.fan, *(number for b in blocks for number in b)]

    def in_order_of_weights(self) -> list[ColumnBlock]:
        return sorted(self.blocks, key=lambda block: block.weight_offset)

    def transposed(self) -> list[int]:
        """`flat` of the map from the output to the input, whose weights are `transpose(weight)`."""
        blocks = [
            ColumnBlock(b.components, b.mul_out, b.mul_in, b.out_offset, b.in_offset, b.weight_offset)
            for b in self.blocks
        ]
        return self._flat(self.dim_out, self.dim_in, blocks)

    def transpose(self, weight: Tensor) -> Tensor:
        """weight [..., weight_numel] with each block's matrix transposed."""
        blocks = self.in_order_of_weights()
        parts = weight.split([b.mul_in * b.mul_out for b in blocks], dim=-1)
        matrices = [part.unflatten(-1, (b.mul_in, b.mul_out)) for b, part in zip(blocks, parts)]
        return torch.cat([matrix.transpose(-1, -2).flatten(-2) for matrix in matrices], dim=-1)


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
    [mul_in, mul_out]; columns that belong to no block are zero. A row's result depends neither on the other
    rows nor on the number of threads; the gradient of the weights is torch's matrix product, the same from
    run to run but not to the last bit for every number of threads. Differentiable any number of times in x
    and weight; scriptable.

    Args:
        x: [N, dim_in] features, channels innermost, float32 or float64.
        weight: [T, weight_numel].
        types: [N] int64, row of `weight` for each atom; None where there is one row.
        spec: `BlockSpec.flat`.
        transposed: multiply by the transposed matrices, [N, dim_out] -> [N, dim_in].

    Returns:
        [N, dim_out].

    Raises:
        ValueError: shapes do not fit the spec or each other, or blocks overlap.
        TypeError: x and weight are not both float32 or float64, or types is not int64.
        IndexError: a type without a row of weights; on CUDA results are NaN then.
    """
    return torch.ops.uqforce.block_linear(x, weight, types, spec, transposed)
