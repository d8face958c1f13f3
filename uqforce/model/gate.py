"""Gated nonlinearity of NequIP as a module."""

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.ops.gate import GateSpec, second_moment_factor


class Gate(nn.Module):
    """`uqforce.ops.gate`: scalars through SiLU (even) or tanh (odd), others scaled by SiLU of their gates.

    Args:
        irreps_scalars: even and odd scalars of the output.
        irreps_gated: the other irreps of the output.

    `irreps_in` is what the preceding linear map must give; `irreps_out` = scalars then gated.
    """

    spec: list[int]

    def __init__(self, irreps_scalars: Irreps, irreps_gated: Irreps) -> None:
        super().__init__()
        spec = GateSpec(irreps_scalars, irreps_gated)
        self.irreps_in, self.irreps_out = spec.irreps_in, spec.irreps_out
        self.spec = spec.flat
        self.silu_factor = second_moment_factor("silu")
        self.tanh_factor = second_moment_factor("tanh")

    def forward(self, x: Tensor) -> Tensor:
        """x [N, irreps_in.dim] -> [N, irreps_out.dim]."""
        return torch.ops.uqforce.gate(x, self.spec, self.silu_factor, self.tanh_factor)

    def vjp(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents of `forward(x)` [K, N, irreps_out.dim] -> of x, [K, N, irreps_in.dim]."""
        return torch.ops.uqforce.gate_backward(cotangents, x, self.spec, self.silu_factor, self.tanh_factor)
