"""Definition of `uqforce.ops.gate` in plain torch."""

import torch
from torch import Tensor


def gate(x: Tensor, spec: list[int], silu_factor: float, tanh_factor: float) -> Tensor:
    """x [N, dim_in] -> [N, dim_out]; spec = [odd scalars, even scalars, gates, then start, 2l+1, mul ...]."""
    odd, scalars, gates = spec[:3]
    even = silu_factor * torch.nn.functional.silu(x[:, odd : odd + scalars + gates])
    outputs = [even[:, :scalars], tanh_factor * torch.tanh(x[:, :odd])]
    gate = scalars
    for start, dim, mul in zip(spec[3::3], spec[4::3], spec[5::3]):
        block = x[:, start : start + dim * mul].reshape(-1, dim, mul)
        outputs.append((block * even[:, None, gate : gate + mul]).flatten(1))
        gate += mul
    return torch.cat(outputs, dim=1)
