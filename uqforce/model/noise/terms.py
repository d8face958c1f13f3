"""What every form of noise gives, and the parts that forms share."""

import math
from itertools import pairwise
from typing import Final, NamedTuple, Optional

import torch
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.linear import silu_slope
from uqforce.model.prediction import sum_of_members, sums_by_atom

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class NoiseTerms(NamedTuple):
    """Noise of a batch, M members, before derivatives. A form without a term gives it no rows."""

    variances: Tensor  # [M,N] eV^2, atoms' shares of `variance`
    variance: Tensor  # [M,B] eV^2, of the structures' energies
    diagonal: Tensor  # [M,N] (eV/A)^2, of a force component's own noise: gamma^2 s
    strain: Tensor  # [M,B] eV^2, of the virial's own noise
    sigmas: Tensor  # [M,B] or [M,N] eV, the standard deviations whose slopes make the force covariance
    roots: Tensor  # [K] eV, what is differentiated by the edges; of `explicit` none


class OwnInference(nn.Module):
    """A form that is its own inference form, and whose slopes are those of whole structures."""

    def own_trace(
        self, slopes: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int,
        numbers: Optional[Tensor],
    ) -> Tensor:  # fmt: skip
        return trace_of_sums(slopes, edge_index, atom_types.shape[0], num_owned)

    @torch.jit.unused
    def inference(self, cutoffs: Tensor) -> nn.Module:
        return self


class NoNoise(OwnInference):
    """The form of a model that says nothing of its labels' errors."""

    local: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
        self.local = False

    def forward(
        self, features: Tensor, edges: Edges, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int,
    ) -> NoiseTerms:  # fmt: skip
        return no_terms(features, batch, num_structures)

    def explicit(
        self, features: Tensor, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int, many_ranks: bool, numbers: Optional[Tensor],
    ) -> tuple[NoiseTerms, Tensor, Tensor]:  # fmt: skip
        terms = no_terms(features, batch, num_structures)
        return terms, features.new_zeros([0] + list(features.shape)), edge_vec[None][:0]

    def split(
        self, gradients: Tensor, terms: NoiseTerms, edge_index: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return gradients, gradients

    def own_trace(
        self, slopes: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int,
        numbers: Optional[Tensor],
    ) -> Tensor:  # fmt: skip
        return slopes.new_zeros(0)


def no_terms(features: Tensor, batch: Tensor, num_structures: int) -> NoiseTerms:
    of_atoms = torch.zeros(0, batch.shape[0], dtype=torch.float64, device=features.device)
    of_structures = torch.zeros(0, num_structures, dtype=torch.float64, device=features.device)
    return NoiseTerms(of_atoms, of_structures, of_atoms, of_structures, of_structures, of_atoms.flatten())


class MemberLinear(nn.Module):
    """x [N,in] or [M,N,in] -> x W_m gain / sqrt(in), [M,N,out]; as `ScalarLinear`, one matrix per member."""

    def __init__(self, members: int, dim_in: int, dim_out: int, gain: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.alpha = gain / math.sqrt(dim_in)
        weight = torch.empty(members, dim_in, dim_out, dtype=dtype)
        self.weight = nn.Parameter(weight.uniform_(-math.sqrt(3), math.sqrt(3)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight * self.alpha)


class Head(nn.Module):
    """One number of every atom and member: a perceptron of the atom's scalars and a constant of its type.

    Args:
        dims: widths from the scalars D to 1.
    """

    def __init__(self, members: int, dims: list[int], num_types: int, dtype: torch.dtype) -> None:
        super().__init__()
        layers = [
            MemberLinear(members, dim_in, dim_out, 1.0 if i == 0 else math.sqrt(2.0), dtype)
            for i, (dim_in, dim_out) in enumerate(pairwise(dims))
        ]
        self.inner = nn.ModuleList(layers[:-1])
        self.last = layers[-1]
        self.shift = nn.Parameter(torch.zeros(members, num_types, dtype=torch.float64))

    def forward(self, x: Tensor, atom_types: Tensor) -> Tensor:
        """x [N,D] -> [M,N] float64."""
        for layer in self.inner:
            x = torch.nn.functional.silu(layer(x))
        return self.last(x).squeeze(2).to(torch.float64) + self.shift[:, atom_types]

    def with_slope(self, x: Tensor, atom_types: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its derivative by the atom's own scalars [M,N,D]."""
        slopes: list[Tensor] = []
        weights: list[Tensor] = []
        for layer in self.inner:
            x = layer(x)
            slopes.append(silu_slope(x))
            weights.append((layer.weight * layer.alpha).transpose(1, 2))
            x = torch.nn.functional.silu(x)
        value = self.last(x).squeeze(2).to(torch.float64) + self.shift[:, atom_types]
        slope = (self.last.weight * self.last.alpha).transpose(1, 2).expand(-1, x.shape[-2], -1)
        for k in range(len(weights) - 1, -1, -1):
            slope = torch.matmul(slope * slopes[k], weights[k])
        return value, slope


class AtomProcesses(nn.Module):
    """The terms of processes of single atoms, gamma one number per member and type."""

    def __init__(self, config: ModelConfig, members: int) -> None:
        super().__init__()
        start = math.log(1.0 if config.gamma is None else config.gamma)
        log_gamma = torch.full((members, len(config.type_names)), start, dtype=torch.float64)
        self.log_gamma = nn.Parameter(log_gamma, requires_grad=config.gamma_kind == "learned")
        self.log_gamma_strain = nn.Parameter(torch.zeros(members, dtype=torch.float64))

    def forward(
        self, u: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int, many_ranks: bool
    ) -> NoiseTerms:
        """Perceptron's numbers u [M,N] of the atoms -> terms; the roots are sums of the atoms' sigmas."""
        variances = positive(u)
        variance = over_ranks(sum_of_members(variances, batch, num_structures), many_ranks)
        strain = torch.exp(2.0 * self.log_gamma_strain).unsqueeze(1) * variance
        diagonal = torch.exp(2.0 * self.log_gamma[:, atom_types]) * variances
        sigmas = torch.sqrt(variances)
        return NoiseTerms(variances, variance, diagonal, strain, sigmas, sigmas.sum(1))


def positive(u: Tensor) -> Tensor:
    """Variance, eV^2, of a perceptron's number."""
    return torch.nn.functional.softplus(u) + 1e-10


def trace_of_sums(slopes: Tensor, edge_index: Tensor, num_atoms: int, num_owned: int) -> Tensor:
    """slopes [K,E,3] of standard deviations of whole structures -> mean_k |d sigma_k / d r_i|^2, [n].

    Every process of a parallel engine has slopes by its own edges; those of ghosts go to their owners.
    """
    rows = sums_by_atom(slopes, edge_index, num_atoms)
    rows = torch.ops.uqforce.ghost_exchange_vjp(rows.unsqueeze(0), num_owned).squeeze(0)
    return rows.square().sum(1) / slopes.shape[0]


def over_ranks(values: Tensor, many_ranks: bool) -> Tensor:
    """The sum over the processes of a parallel engine."""
    return torch.ops.uqforce.sum_over_ranks(values) if many_ranks else values
