"""Embedding of edges: spherical harmonics of the direction, Bessel functions of the length, smooth cutoff."""

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn


def polynomial_cutoff(x: Tensor, p: float) -> Tensor:
    """Envelope, 1 at x = 0 and 0 with two zero derivatives at x >= 1 (Gasteiger, arXiv:2003.03123, eq. 8)."""
    envelope = (
        1.0
        - ((p + 1.0) * (p + 2.0) / 2.0) * torch.pow(x, p)
        + p * (p + 2.0) * torch.pow(x, p + 1.0)
        - (p * (p + 1.0) / 2.0) * torch.pow(x, p + 2.0)
    )
    return envelope * (x < 1.0)


def polynomial_cutoff_slope(x: Tensor, p: float) -> Tensor:
    """Derivative of `polynomial_cutoff` by x."""
    factor = p * (p + 1.0) * (p + 2.0) / 2.0
    return -factor * torch.pow(x, p - 1.0) * (1.0 - x).square() * (x < 1.0)


class Edges(NamedTuple):
    """Edges as a network sees them. With `slope`, `basis` and `slope` are those of evenly spaced nodes."""

    vec: Tensor  # [E,3] A
    sh: Tensor  # [E, (l_max+1)^2], spherical harmonics
    scaled_length: Tensor  # [E,1], length / cutoff
    basis: Tensor  # [E, num_bessels] or [nodes, num_bessels], radial basis
    slope: Optional[Tensor]  # [nodes, num_bessels], its derivative


class EdgeEmbedding(nn.Module):
    """Geometry of the edges as the network sees it.

    Args:
        cutoffs: [T][T] cutoff by centre and neighbour type, A.
        r_max: the largest cutoff, A.
    """

    def __init__(
        self,
        l_max: int,
        cutoffs: list[list[float]],
        r_max: float,
        num_bessels: int,
        bessel_trainable: bool,
        polynomial_cutoff_p: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.l_max = l_max
        self.num_types = len(cutoffs)
        table = torch.tensor(cutoffs, dtype=torch.float64)
        self.register_buffer("inverse_cutoff", table.reciprocal().view(-1))
        self.single_cutoff = all(cutoff == r_max for row in cutoffs for cutoff in row)
        self.frequencies = nn.Parameter(
            torch.arange(1, num_bessels + 1, dtype=dtype).view(1, -1), requires_grad=bessel_trainable
        )
        self.p = polynomial_cutoff_p
        # Not the normalisation of the Bessel functions, sqrt(2/r_max), but NequIP's, so that its weights fit.
        self.factor = 2.0 * math.pi / (r_max * r_max)

    def basis(self, x: Tensor) -> Tensor:
        """Radial basis [E, num_bessels] at scaled lengths x [E,1], in the network's precision."""
        # In float64, since the cutoff is a small difference of large terms where x is near 1.
        exact = x.to(torch.float64)
        bessel = torch.sinc(exact * self.frequencies) * self.frequencies
        return (bessel * polynomial_cutoff(exact, self.p) * self.factor).to(self.frequencies.dtype)

    def node_basis(self, nodes: int) -> tuple[Tensor, Tensor]:
        """Radial basis and its derivative by the scaled length, [nodes, num_bessels], evenly from 0 to 1."""
        # In float64, since the derivative is a difference of large terms where x is small.
        x = torch.linspace(0.0, 1.0, nodes, dtype=torch.float64, device=self.frequencies.device).unsqueeze(1)
        frequencies = self.frequencies.to(torch.float64)
        bessel = torch.sinc(x * frequencies) * frequencies
        bessel_slope = (frequencies * torch.cos(math.pi * x * frequencies) - bessel) / x.clamp(min=1e-3)
        cutoff, cutoff_slope = polynomial_cutoff(x, self.p), polynomial_cutoff_slope(x, self.p)
        basis = self.factor * bessel * cutoff
        slope = self.factor * (bessel_slope * cutoff + bessel * cutoff_slope)
        return basis.to(self.frequencies.dtype), slope.to(self.frequencies.dtype)

    def geometry(self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor) -> tuple[Tensor, Tensor]:
        """edge_vec [E,3] A -> spherical harmonics [E, (l_max+1)^2], scaled length [E,1], of its type."""
        if self.single_cutoff:
            inverse_cutoff = self.inverse_cutoff[:1]
        else:
            pair = atom_types[edge_index[0]] * self.num_types + atom_types[edge_index[1]]
            inverse_cutoff = self.inverse_cutoff[pair]
        return torch.ops.uqforce.edge_embedding(edge_vec, inverse_cutoff.to(edge_vec.dtype), self.l_max)

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed the edges.

        edge_vec [E,3] A -> spherical harmonics [E, (l_max+1)^2] and radial basis [E, num_bessels] in the
        network's precision, scaled length [E,1].
        """
        edge_sh, x = self.geometry(edge_vec, edge_index, atom_types)
        return edge_sh.to(self.frequencies.dtype), self.basis(x), x
