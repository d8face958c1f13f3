"""Linear maps: of scalars (multilayer perceptrons) and of irreps (equivariant)."""

import math
from itertools import pairwise
from typing import Final

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.ops import BlockSpec


class ScalarLinear(nn.Module):
    """x [N, in] -> x W * gain / sqrt(in) [N, out]; no bias; weights uniform with unit variance.

    With `members` there is a matrix for each: x [N, in] or [M, N, in] -> [M, N, out].
    """

    def __init__(
        self, dim_in: int, dim_out: int, gain: float, dtype: torch.dtype, members: int | None = None
    ) -> None:
        super().__init__()
        self.alpha = gain / math.sqrt(dim_in)
        size = [dim_in, dim_out] if members is None else [members, dim_in, dim_out]
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight * self.alpha)


class ScalarMLP(nn.Module):
    """Perceptron without bias, initialised to preserve the forward variance.

    `dims` are the widths from input to output, `activation` ("silu", "mish", "gelu" or "none") stands between
    the layers; `hidden(x)` is the input of the last layer, `last`. With `members` there is one perceptron for
    each, on the same input.
    """

    activation: Final[str]

    def __init__(
        self, dims: list[int], dtype: torch.dtype, activation: str = "silu", members: int | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        # The gain of ReLU stands in for those of the smooth functions, as in NequIP.
        gain = 1.0 if activation == "none" else math.sqrt(2.0)
        layers = [
            ScalarLinear(dim_in, dim_out, 1.0 if i == 0 else gain, dtype, members)
            for i, (dim_in, dim_out) in enumerate(pairwise(dims))
        ]
        self.inner = nn.ModuleList(layers[:-1])
        self.last = layers[-1]

    def activate(self, x: Tensor) -> Tensor:
        if self.activation == "silu":
            return torch.nn.functional.silu(x)
        if self.activation == "mish":
            return torch.nn.functional.mish(x)
        if self.activation == "gelu":
            return torch.nn.functional.gelu(x)
        return x

    def activation_slope(self, x: Tensor) -> Tensor:
        """Derivative of `activate`."""
        if self.activation == "silu":
            return silu_slope(x)
        if self.activation == "mish":
            t = torch.tanh(torch.nn.functional.softplus(x))
            return t + x * torch.sigmoid(x) * (1.0 - t * t)
        if self.activation == "gelu":
            density = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
            return 0.5 * torch.erfc(-x / math.sqrt(2.0)) + x * density
        return torch.ones_like(x)

    def hidden(self, x: Tensor) -> Tensor:
        for layer in self.inner:
            x = self.activate(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))

    def with_slope(self, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and derivative by a variable of which x has the derivative `slope`, both [N, in]."""
        # One matrix product for both; `unbind`, unlike slices, has a gradient without zeros.
        rows = x.shape[0]
        both = torch.cat([x, slope])
        for layer in self.inner:
            x, slope = layer(both).view(2, rows, -1).unbind()
            both = torch.cat([self.activate(x), slope * self.activation_slope(x)])
        x, slope = self.last(both).view(2, rows, -1).unbind()
        return x, slope

    def hidden_vjp(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents of `hidden(x)` [K, N, width] -> of x [N, in], [K, N, in]."""
        weights: list[Tensor] = []
        slopes: list[Tensor] = []
        for layer in self.inner:
            x = layer(x)
            slopes.append(self.activation_slope(x))
            weights.append(layer.weight * layer.alpha)
            x = self.activate(x)
        for k in range(len(weights) - 1, -1, -1):
            cotangents = torch.matmul(cotangents * slopes[k], weights[k].transpose(-2, -1))
        return cotangents

    def vjp(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents of `forward(x)` [K, N, out] -> of x, [K, N, in]."""
        return self.hidden_vjp(
            x, torch.matmul(cotangents, (self.last.weight * self.last.alpha).transpose(-2, -1))
        )


def silu_slope(x: Tensor) -> Tensor:
    """Derivative of SiLU."""
    gate = torch.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


class IrrepsLinear(nn.Module):
    """Equivariant linear map, a matrix product per irrep and component; e3nn's weights, order, normalisation.

    Args:
        irreps_in, irreps_out: every irrep at most once, and each of the output's in the input. Features are
            channels innermost.
    """

    spec: list[int]

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        spec = BlockSpec(irreps_in, irreps_out)
        if not spec.covers_out:
            raise ModelError(f"irreps {irreps_out} of the output do not all occur in the input {irreps_in}")
        self.spec = spec.flat
        self.weight = nn.Parameter(torch.randn(spec.weight_numel, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, irreps_in.dim] -> [N, irreps_out.dim]."""
        return torch.ops.uqforce.block_linear(x, self.weight.unsqueeze(0), None, self.spec, False)
