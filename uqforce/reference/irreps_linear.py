"""The equivariant linear map in plain torch: the definition of the op."""

import torch
from torch import Tensor


def irreps_linear(x: Tensor, weight: Tensor, types: Tensor | None, spec: list[int]) -> Tensor:
    """See `uqforce.ops.irreps_linear`; `spec` is `LinearSpec.flat`."""
    if types is None:
        types = torch.zeros(x.shape[-2], dtype=torch.int64, device=x.device)
    out = x.new_zeros(*x.shape[:-1], spec[1])
    for k in range(spec[3]):
        dim, in_offset, mul_in, out_offset, mul_out, weight_offset = spec[4 + 6 * k : 10 + 6 * k]
        matrices = weight[:, weight_offset : weight_offset + mul_in * mul_out].unflatten(1, (mul_in, mul_out))
        block = x[..., in_offset : in_offset + dim * mul_in].unflatten(-1, (dim, mul_in))
        columns = torch.arange(out_offset, out_offset + dim * mul_out, device=x.device)
        out = out.index_add(
            -1, columns, torch.einsum("...ndi,nio->...ndo", block, matrices[types]).flatten(-2)
        )
    return out
