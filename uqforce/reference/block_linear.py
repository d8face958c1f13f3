"""Definition of `uqforce.ops.block_linear` in plain torch."""

import torch
from torch import Tensor


def block_linear(
    x: Tensor, weight: Tensor, types: Tensor | None, spec: list[int], transposed: bool = False
) -> Tensor:
    """x [N, dim_in] -> [N, dim_out]; `transposed` [N, dim_out] -> [N, dim_in]; weight [T, weight_numel]."""
    dim_in, dim_out, _, fan, *blocks = spec
    of_atom = weight.expand(len(x), -1) if types is None else weight[types]
    columns = dict.fromkeys(range(dim_in if transposed else dim_out), x.new_zeros(len(x)))
    for k in range(0, len(blocks), 6):
        components, mul_in, mul_out, in_offset, out_offset, weight_offset = blocks[k : k + 6]
        scale = (mul_in * fan) ** -0.5 if fan else 1.0
        matrix = of_atom[:, weight_offset : weight_offset + mul_in * mul_out].reshape(-1, mul_in, mul_out)
        for m in range(components):
            start_in, start_out = in_offset + m * mul_in, out_offset + m * mul_out
            if transposed:
                values = scale * torch.einsum("nw,nuw->nu", x[:, start_out : start_out + mul_out], matrix)
            else:
                values = scale * torch.einsum("nu,nuw->nw", x[:, start_in : start_in + mul_in], matrix)
            start = start_in if transposed else start_out
            columns.update({start + i: value for i, value in enumerate(values.T)})
    return torch.stack(list(columns.values()), dim=1)
