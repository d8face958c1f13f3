"""Gated nonlinearity of NequIP, channels innermost."""

from functools import lru_cache

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.linear import silu_slope


@lru_cache
def second_moment_factor(name: str) -> float:
    """e3nn's constant that gives an activation of a standard normal variable a second moment of one."""
    factor = normalize2mom({"silu": torch.nn.functional.silu, "tanh": torch.tanh}[name])
    return 1.0 if factor._is_id else float(factor.cst)


class Gate(nn.Module):
    """Scalars pass through SiLU (even) or tanh (odd); each other channel is scaled by SiLU of its own scalar.

    Args:
        irreps_scalars: even and odd scalars of the output.
        irreps_gated: the other irreps of the output.

    `irreps_in` is what the preceding linear map must give, in e3nn's sorted order: its even scalars are the
    output's even scalars followed by one gate per gated channel. `irreps_out` = scalars then gated.
    """

    gated: list[tuple[int, int, int, int]]

    def __init__(self, irreps_scalars: Irreps, irreps_gated: Irreps) -> None:
        super().__init__()
        irreps_scalars, irreps_gated = Irreps(irreps_scalars), Irreps(irreps_gated)
        gates = Irreps([(irreps_gated.num_irreps, (0, 1))] if len(irreps_gated) else [])
        self.irreps_in = (irreps_scalars + gates + irreps_gated).sort().irreps.simplify()
        self.irreps_out = irreps_scalars + irreps_gated
        self.num_even = irreps_scalars.count("0e")
        self.num_odd = irreps_scalars.count("0o")
        self.num_gates = gates.dim
        if irreps_scalars and str(irreps_scalars[0].ir) != "0e":
            raise ValueError(f"scalars {irreps_scalars} must begin with 0e")
        starts = {ir: s.start for (_, ir), s in zip(self.irreps_in, self.irreps_in.slices())}
        self.gated, gate = [], 0
        for mul, ir in irreps_gated:
            self.gated.append((starts[ir], ir.dim, mul, gate))
            gate += mul
        self.silu_factor = second_moment_factor("silu")
        self.tanh_factor = second_moment_factor("tanh")

    def forward(self, x: Tensor) -> Tensor:
        """x [N, irreps_in.dim] -> [N, irreps_out.dim]."""
        n = x.shape[0]
        even = torch.nn.functional.silu(x[:, : self.num_even + self.num_gates]) * self.silu_factor
        outputs = [even[:, : self.num_even]]
        if self.num_odd > 0:
            start = self.num_even + self.num_gates
            outputs.append(torch.tanh(x[:, start : start + self.num_odd]) * self.tanh_factor)
        for start, dim, mul, gate in self.gated:
            gates = even[:, self.num_even + gate : self.num_even + gate + mul].unsqueeze(1)
            block = x[:, start : start + dim * mul].reshape(n, dim, mul)
            outputs.append((block * gates).reshape(n, dim * mul))
        return torch.cat(outputs, dim=1)

    def vjp(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents of `forward(x)` [K, N, irreps_out.dim] -> of x, [K, N, irreps_in.dim]."""
        k, n = cotangents.shape[0], x.shape[0]
        num_even = self.num_even + self.num_gates
        even = x[:, :num_even]
        gates = torch.nn.functional.silu(even[:, self.num_even :]) * self.silu_factor
        out = x.new_empty(k, n, x.shape[1])
        out[:, :, : self.num_even] = cotangents[:, :, : self.num_even]
        column = self.num_even
        if self.num_odd > 0:
            slope = (1.0 - torch.tanh(x[:, num_even : num_even + self.num_odd]).square()) * self.tanh_factor
            odd = cotangents[:, :, column : column + self.num_odd]
            out[:, :, num_even : num_even + self.num_odd] = odd * slope
            column += self.num_odd
        for start, dim, mul, gate in self.gated:
            given = cotangents[:, :, column : column + dim * mul].reshape(k, n, dim, mul)
            block = x[:, start : start + dim * mul].reshape(n, dim, mul)
            of_block = given * gates[:, gate : gate + mul].unsqueeze(1)
            out[:, :, start : start + dim * mul] = of_block.reshape(k, n, dim * mul)
            first = self.num_even + gate
            out[:, :, first : first + mul] = (given * block).sum(2)
            column += dim * mul
        out[:, :, :num_even] *= silu_slope(even) * self.silu_factor
        return out
