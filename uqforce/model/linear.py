"""Linear maps: of scalars (multilayer perceptrons) and of irreps (equivariant)."""

import math
from itertools import pairwise

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn


class ScalarLinear(nn.Module):
    """x [N, in] -> x W * gain / sqrt(in) [N, out]; no bias; weights uniform with unit variance."""

    def __init__(self, dim_in: int, dim_out: int, gain: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.alpha = gain / math.sqrt(dim_in)
        self.weight = nn.Parameter(
            torch.empty(dim_in, dim_out, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.weight * self.alpha)


class ScalarMLP(nn.Module):
    """Perceptron with SiLU between its layers and no bias, initialised to preserve the forward variance.

    `dims` are the widths from input to output; `hidden(x)` is the input of the last layer, `last`.
    """

    def __init__(self, dims: list[int], dtype: torch.dtype) -> None:
        super().__init__()
        layers = [
            # The gain of ReLU stands in for SiLU's, as in NequIP.
            ScalarLinear(dim_in, dim_out, 1.0 if i == 0 else math.sqrt(2.0), dtype)
            for i, (dim_in, dim_out) in enumerate(pairwise(dims))
        ]
        self.inner = nn.ModuleList(layers[:-1])
        self.last = layers[-1]

    def hidden(self, x: Tensor) -> Tensor:
        for layer in self.inner:
            x = torch.nn.functional.silu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class IrrepsLinear(nn.Module):
    """Equivariant linear map, one matrix product per irrep; e3nn's weights, order and normalisation.

    Args:
        irreps_in, irreps_out: every irrep at most once. Features are channels innermost, so that the
            product of one irrep is [N * (2l+1), mul_in] @ [mul_in, mul_out].
    """

    blocks: list[tuple[int, int, int, int, int]]

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.blocks = matching_blocks(irreps_in, irreps_out)
        numel = sum(mul_in * mul_out for _, _, mul_in, mul_out, _ in self.blocks)
        self.weight = nn.Parameter(torch.randn(numel, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return blockwise_product(x, self.weight, self.blocks)


def matching_blocks(irreps_in: Irreps, irreps_out: Irreps) -> list[tuple[int, int, int, int, int]]:
    """(input offset, 2l+1, mul_in, mul_out, weight offset) of each output irrep, in the output's order.

    The weight offset follows e3nn's instruction order, the input's. Raises ValueError when an irrep occurs
    twice or one of the output is missing from the input.
    """
    irreps_in, irreps_out = Irreps(irreps_in), Irreps(irreps_out)
    if len({ir for _, ir in irreps_in}) < len(irreps_in) or len({ir for _, ir in irreps_out}) < len(
        irreps_out
    ):
        raise ValueError(f"irreps {irreps_in} -> {irreps_out} must be simplified: an irrep occurs twice")
    offsets, weight_offset = {}, 0
    for i, (mul_in, ir) in enumerate(irreps_in):
        for mul_out, ir_out in irreps_out:
            if ir == ir_out:
                offsets[ir] = (irreps_in.slices()[i].start, ir.dim, mul_in, mul_out, weight_offset)
                weight_offset += mul_in * mul_out
    missing = [str(ir) for _, ir in irreps_out if ir not in offsets]
    if missing:
        raise ValueError(f"irreps {missing} of the output do not occur in the input {irreps_in}")
    return [offsets[ir] for _, ir in irreps_out]


def blockwise_product(x: Tensor, weight: Tensor, blocks: list[tuple[int, int, int, int, int]]) -> Tensor:
    """Concatenation over blocks of x_block [N, 2l+1, mul_in] @ W_block [mul_in, mul_out] / sqrt(mul_in)."""
    outputs: list[Tensor] = []
    n = x.shape[0]
    for offset, dim, mul_in, mul_out, start in blocks:
        w = weight[start : start + mul_in * mul_out].view(mul_in, mul_out) * (1.0 / math.sqrt(mul_in))
        rows = x[:, offset : offset + dim * mul_in].reshape(n * dim, mul_in)
        outputs.append(torch.mm(rows, w).view(n, dim * mul_out))
    return torch.cat(outputs, dim=1)
