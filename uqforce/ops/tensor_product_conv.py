"""Fused gather, tensor product with per-edge weights, and sum over neighbours: NequIP's convolution."""

from typing import NamedTuple

import torch
from e3nn.o3 import Irrep, Irreps
from torch import Tensor

MAX_DEGREE = 4


class Path(NamedTuple):
    """One coupling l1 x l2 -> l3 of `mul` channels; component m, channel u of its input is column
    `in_offset + m * in_stride + u` of `x`, likewise for its output; its weights start at `weight_offset`."""

    l1: int
    l2: int
    l3: int
    mul: int
    in_offset: int
    in_stride: int
    out_offset: int
    out_stride: int
    weight_offset: int


class TensorProductSpec:
    """The paths of a convolution, chosen and ordered as NequIP's interaction block does.

    For each irrep of `irreps_in`, each spherical harmonic l2 = 0..lmax and each irrep of their product that
    occurs in `irreps_out` (as an irrep: its multiplicity is the input's) there is one path, whose `mul`
    weights follow those of the path before it. The outputs are sorted as `e3nn.o3.Irreps.sort` does and
    simplified, so that all paths of one irrep stand side by side in its channels.

    Args:
        irreps_in: irreps of the node features, in order.
        lmax: highest degree of the edges' spherical harmonics 0e + 1o + 2e + ...
        irreps_out: irreps that the layer behind the convolution can use.

    Attributes:
        irreps_in, irreps_sh, irreps_out: of the input, the spherical harmonics and the actual output.
        paths: list of `Path`.
        dim_in, dim_out, weight_numel: columns of `x`, of the result and of `edge_weight`.
        flat: the integers that the op reads (docs/reference.md).

    Raises:
        ValueError: a degree is above 4, or no path leads from `irreps_in` to `irreps_out`.
    """

    def __init__(self, irreps_in: Irreps | str, lmax: int, irreps_out: Irreps | str):
        self.irreps_in = Irreps(irreps_in)
        self.irreps_sh = Irreps.spherical_harmonics(lmax)
        wanted = Irreps(irreps_out)
        highest = max([lmax, *self.irreps_in.ls, *wanted.ls])
        if highest > MAX_DEGREE:
            raise ValueError(
                f"degree l = {highest} is above {MAX_DEGREE}, the highest of the kernels: "
                f"irreps_in {self.irreps_in}, lmax {lmax}, irreps_out {wanted}"
            )
        couplings: list[tuple[int, int, Irrep]] = [
            (i, l2, ir_out)
            for i, (_, ir_in) in enumerate(self.irreps_in)
            for l2, (_, ir_sh) in enumerate(self.irreps_sh)
            for ir_out in ir_in * ir_sh
            if ir_out in wanted
        ]
        if not couplings:
            raise ValueError(
                f"no path from {self.irreps_in} with spherical harmonics {self.irreps_sh} to {wanted}"
            )
        products = Irreps([(self.irreps_in[i].mul, ir_out) for i, _, ir_out in couplings])
        sorted_products, position, _ = products.sort()
        self.irreps_out = sorted_products.simplify()
        self.paths = self._layout(couplings, sorted_products, position)

        self.dim_in = self.irreps_in.dim
        self.dim_out = self.irreps_out.dim
        self.weight_numel = sum(path.mul for path in self.paths)
        sizes = [self.dim_in, self.dim_out, self.irreps_sh.dim, self.weight_numel, len(self.paths)]
        self.flat: list[int] = sizes + [number for path in self.paths for number in path]

    def _layout(self, couplings, sorted_products: Irreps, position: tuple[int, ...]) -> list[Path]:
        block_start = {ir: block.start for block, (_, ir) in zip(self.irreps_out.slices(), self.irreps_out)}
        block_mul = {ir: mul for mul, ir in self.irreps_out}
        channel = []  # first output channel of each sorted product within its irrep
        filled = dict.fromkeys(block_mul, 0)
        for mul, ir in sorted_products:
            channel.append(filled[ir])
            filled[ir] += mul

        paths, weight_offset = [], 0
        in_slices = self.irreps_in.slices()
        for k, (i, l2, ir_out) in enumerate(couplings):
            mul, ir_in = self.irreps_in[i]
            out_offset = block_start[ir_out] + channel[position[k]]
            paths.append(
                Path(
                    *(ir_in.l, l2, ir_out.l, mul),
                    *(in_slices[i].start, mul, out_offset, block_mul[ir_out], weight_offset),
                )
            )
            weight_offset += mul
        return paths

    def __repr__(self) -> str:
        return (
            f"TensorProductSpec({self.irreps_in} x {self.irreps_sh} -> {self.irreps_out}, "
            f"{len(self.paths)} paths, {self.weight_numel} weights)"
        )


def tensor_product_conv(
    x: Tensor, edge_sh: Tensor, edge_weight: Tensor, edge_index: Tensor, spec: list[int]
) -> Tensor:
    """Sum over the neighbours of each node of their features times spherical harmonics times weights.

    `out[i, m3, u] = sum_e sum_{m1, m2} sqrt(2 l3 + 1) w3j[m1, m2, m3] x[j, m1, u] edge_sh[e, m2]
    edge_weight[e, u]` for every path, over the edges e with centre i and neighbour j. It is the convolution
    of NequIP (Batzner et al. 2022) with e3nn's "uvu" products, "component" normalisation. Differentiable
    twice in all floating-point arguments; scriptable; sums in a fixed order for any number of threads.

    Args:
        x: [N, dim_in] node features, channels innermost.
        edge_sh: [E, (lmax + 1)^2] spherical harmonics of the edges, "component" normalisation.
        edge_weight: [E, weight_numel].
        edge_index: [2, E] int64, row 0 the centre i, row 1 the neighbour j. Sorted by centre is fastest.
        spec: `TensorProductSpec.flat`.

    Returns:
        [N, dim_out], channels innermost, zero for nodes without neighbours.

    Raises:
        ValueError: shapes do not fit the spec or each other, or the devices differ.
        TypeError: x, edge_sh, edge_weight are not all float32 or all float64, or edge_index is not int64.
        IndexError: edge_index names a node outside 0..N-1; on CUDA results are NaN then.
    """
    return torch.ops.uqforce.tensor_product_conv(x, edge_sh, edge_weight, edge_index, spec)
