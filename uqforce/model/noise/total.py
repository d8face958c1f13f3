"""The `total` form: one process of all of a structure's coordinates."""

import math
from typing import Final, Optional

import torch
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.noise.terms import DTYPES, Head, NoiseTerms, OwnInference, over_ranks, positive
from uqforce.model.prediction import sum_of_members


class LengthScale(nn.Module):
    """gamma, 1/A, the inverse length over which the noise's process changes.

    Kinds: "constant" and "learned", one number per member; "output", an invariant of the structure, the
    exponential of a mean over its atoms.
    """

    output: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
        num_types = len(config.type_names)
        start = math.log(1.0 if config.gamma is None else config.gamma)
        self.log_gamma = nn.Parameter(
            torch.full((members,), start, dtype=torch.float64), requires_grad=config.gamma_kind != "constant"
        )
        self.output = config.gamma_kind == "output"
        self.head = None
        if self.output:
            dims = [num_features, max(num_features // 2, 1), 1]
            self.head = Head(members, dims, num_types, DTYPES[config.dtype])

    def forward(
        self, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int, many_ranks: bool
    ) -> Tensor:
        """[M,B] of structures."""
        log_gamma = self.log_gamma.unsqueeze(1).expand(-1, num_structures)
        if self.head is not None:
            values = self.head(features, atom_types)
            total = over_ranks(sum_of_members(values, batch, num_structures), many_ranks)
            count = over_ranks(sum_of_members(torch.ones_like(values), batch, num_structures), many_ranks)
            log_gamma = log_gamma + total / count.clamp(min=1.0)
        return torch.exp(log_gamma)


class TotalNoise(OwnInference):
    """Coherent noise of structures of like size (Jorgensen et al., arXiv:2312.04174).

    The energy's variance is s = sum_j s_j, s_j = softplus of a perceptron of the last features; with
    sigma = sqrt(s) the covariance of all forces is grad sigma grad sigma^T + gamma^2 s I, and that with the
    energy -1/2 grad s. gamma^2 s grows with the structure: for large or unlike structures take `local`.
    """

    local: Final[bool]
    project: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
        self.local, self.project = False, config.project_net_force
        dims = [num_features, num_features, 1]
        self.head = Head(members, dims, len(config.type_names), DTYPES[config.dtype])
        self.gamma = LengthScale(config, num_features, members)
        self.log_gamma_strain = nn.Parameter(torch.zeros(members, dtype=torch.float64))

    def forward(
        self, features: Tensor, edges: Edges, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int,
    ) -> NoiseTerms:  # fmt: skip
        u = self.head(features, atom_types)
        return self.terms(u, features, atom_types, batch, num_structures, False)

    def terms(
        self, u: Tensor, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        many_ranks: bool,
    ) -> NoiseTerms:  # fmt: skip
        variances = positive(u)
        variance = over_ranks(sum_of_members(variances, batch, num_structures), many_ranks)
        sigma = torch.sqrt(variance)
        gamma = self.gamma(features, atom_types, batch, num_structures, many_ranks)
        noise = gamma.square() * variance
        if self.project:  # a noise of the net force is no noise of forces that sum to zero
            ones = torch.ones_like(variances)
            count = over_ranks(sum_of_members(ones, batch, num_structures), many_ranks)
            noise = noise * (1.0 - 1.0 / count.clamp(min=1.0))
        strain = torch.exp(2.0 * self.log_gamma_strain).unsqueeze(1) * variance
        return NoiseTerms(variances, variance, noise[:, batch], strain, sigma, sigma.sum(1))

    def explicit(
        self, features: Tensor, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int, many_ranks: bool, numbers: Optional[Tensor],
    ) -> tuple[NoiseTerms, Tensor, Tensor]:  # fmt: skip
        atom_types = atom_types[: features.shape[0]]  # ghosts follow
        u, slope = self.head.with_slope(features, atom_types)
        terms = self.terms(u, features, atom_types, batch, num_structures, many_ranks)
        of_u = torch.sigmoid(u) * (0.5 / terms.sigmas)[:, batch]
        return terms, slope * of_u.to(slope.dtype).unsqueeze(2), edge_vec[None][:0]

    def split(
        self, gradients: Tensor, terms: NoiseTerms, edge_index: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return gradients, gradients * terms.sigmas[:, batch[edge_index[0]]].unsqueeze(2)
