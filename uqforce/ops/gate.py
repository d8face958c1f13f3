"""Gated nonlinearity of NequIP, channels innermost."""

from functools import lru_cache

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor


@lru_cache
def second_moment_factor(name: str) -> float:
    """e3nn's constant that gives an activation of a standard normal variable a second moment of one."""
    factor = normalize2mom({"silu": torch.nn.functional.silu, "tanh": torch.tanh}[name])
    return 1.0 if factor._is_id else float(factor.cst)


class GateSpec:
    """Where a gate finds its columns.

    Args:
        irreps_scalars: even and odd scalars of the result, 0e first.
        irreps_gated: the other irreps of the result, each once.

    Attributes:
        irreps_in: what the gate is given, in e3nn's sorted order (0o before 0e): its even scalars are the
            result's even scalars followed by one gate for each gated channel.
        irreps_out: scalars, then gated.
        flat: the integers given to the op (`csrc/gate/op.h`).
    """

    def __init__(self, irreps_scalars: Irreps, irreps_gated: Irreps) -> None:
        irreps_scalars, irreps_gated = Irreps(irreps_scalars), Irreps(irreps_gated)
        if irreps_scalars and str(irreps_scalars[0].ir) != "0e":
            raise ValueError(f"scalars {irreps_scalars} must begin with 0e")
        num_gates = irreps_gated.num_irreps
        gates = Irreps([(num_gates, (0, 1))] if num_gates else [])
        self.irreps_in = (irreps_scalars + gates + irreps_gated).sort().irreps.simplify()
        self.irreps_out = irreps_scalars + irreps_gated
        starts = {ir: s.start for (_, ir), s in zip(self.irreps_in, self.irreps_in.slices())}
        self.flat = [irreps_scalars.count("0o"), irreps_scalars.count("0e"), num_gates]
        for mul, ir in irreps_gated:
            self.flat += [starts[ir], ir.dim, mul]


def gate(x: Tensor, spec: list[int], silu_factor: float, tanh_factor: float) -> Tensor:
    """Scalars pass through a function of their own; each other channel is scaled by one of its own scalar.

    With f(z) = silu_factor z / (1 + exp(-z)) and h(z) = tanh_factor tanh(z), a row of x holds odd scalars
    o, even scalars s, gates g and blocks b [2l+1, mul], and the result f(s), h(o), b f(g).
    Differentiable twice with respect to x; scriptable; rows do not depend on each other.

    Args:
        x: [N, dim_in], float32 or float64.
        spec: `GateSpec.flat`.
        silu_factor, tanh_factor: `second_moment_factor("silu")` and `("tanh")`.

    Returns:
        [N, dim_out].

    Raises:
        ValueError: x does not have the spec's columns, or the spec does not cover a row.
        TypeError: x is neither float32 nor float64.

    Source: Weiler et al., NeurIPS 2018, arXiv:1807.02547; e3nn's `Gate`.
    """
    return torch.ops.uqforce.gate(x, spec, silu_factor, tanh_factor)
