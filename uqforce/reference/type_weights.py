"""Definition of `uqforce.ops.type_weights` in plain torch."""

import torch
from torch import Tensor


def type_weights(features: Tensor, weight: Tensor, spec: list[int]) -> Tensor:
    """features [T, V], weight [V * weight_numel] -> [T, weight_numel]."""
    v, numel, blocks = features.shape[1], spec[2], spec[4:]
    columns = [features.new_zeros(0)] * numel
    for k in range(0, len(blocks), 6):
        _, mul_in, mul_out, _, _, offset = blocks[k : k + 6]
        part = weight[v * offset : v * (offset + mul_in * mul_out)].reshape(mul_in, v, mul_out)
        product = torch.einsum("tv,uvw->tuw", features, part).flatten(1)
        columns[offset : offset + mul_in * mul_out] = product.unbind(1)
    return torch.stack(columns, dim=1)
