"""The feature layout: channels innermost inside the package, e3nn's at the border."""

import torch
from e3nn.o3 import Irreps
from torch import Tensor


def from_e3nn(x: Tensor, irreps: Irreps | str) -> Tensor:
    """[..., dim] in e3nn's layout (blocks [mul, 2l+1]) to channels innermost (blocks [2l+1, mul])."""
    return _transpose_blocks(x, Irreps(irreps), to_e3nn=False)


def to_e3nn(x: Tensor, irreps: Irreps | str) -> Tensor:
    """[..., dim] with channels innermost (blocks [2l+1, mul]) to e3nn's layout (blocks [mul, 2l+1])."""
    return _transpose_blocks(x, Irreps(irreps), to_e3nn=True)


def _transpose_blocks(x: Tensor, irreps: Irreps, to_e3nn: bool) -> Tensor:
    if x.shape[-1] != irreps.dim:
        raise ValueError(f"x has {x.shape[-1]} columns but {irreps} has dimension {irreps.dim}")
    blocks = []
    for block, (mul, ir) in zip(irreps.slices(), irreps):
        shape = (ir.dim, mul) if to_e3nn else (mul, ir.dim)
        blocks.append(x[..., block].unflatten(-1, shape).transpose(-1, -2).flatten(-2))
    return torch.cat(blocks, dim=-1) if blocks else x
