"""The `total` form: one process of all of a structure's coordinates."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.graph import Graph, own_types, sum_over_processes
from uqforce.model.noise.terms import DTYPES, Head, HeadNoise, NoiseTerms, positive
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

    def forward(self, features: Tensor, graph: Graph) -> Tensor:
        """[M,B] of structures."""
        log_gamma = self.log_gamma.unsqueeze(1).expand(-1, graph.num_structures)
        if self.head is not None:
            values = self.head(features, own_types(graph))
            total = total_of(values, graph)
            log_gamma = log_gamma + total / total_of(torch.ones_like(values), graph).clamp(min=1.0)
        return torch.exp(log_gamma)


def total_of(values: Tensor, graph: Graph) -> Tensor:
    """values [M,n] of atoms -> sums [M,B] over the whole structures."""
    return sum_over_processes(sum_of_members(values, graph.batch, graph.num_structures), graph)


class TotalNoise(HeadNoise):
    """Coherent noise of structures of like size (Jorgensen et al., arXiv:2312.04174).

    The energy's variance is s = sum_j s_j, s_j = softplus of a perceptron of the last features; with
    sigma = sqrt(s) the covariance of all forces is grad sigma grad sigma^T + gamma^2 s I, and that with the
    energy -1/2 grad s. gamma^2 s grows with the structure: for large or unlike structures take `local`.
    """

    project: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__(config, num_features, members)
        self.project = config.project_net_force
        dims = [num_features, num_features, 1]
        self.head = Head(members, dims, len(config.type_names), DTYPES[config.dtype])
        self.gamma = LengthScale(config, num_features, members)
        self.log_gamma_strain = nn.Parameter(torch.zeros(members, dtype=torch.float64))

    def terms_of(self, u: Tensor, features: Tensor, graph: Graph) -> NoiseTerms:
        variances = positive(u)
        variance = total_of(variances, graph)
        sigma = torch.sqrt(variance)
        noise = self.gamma(features, graph).square() * variance
        if self.project:  # a noise of the net force is no noise of forces that sum to zero
            count = total_of(torch.ones_like(variances), graph)
            noise = noise * (1.0 - 1.0 / count.clamp(min=1.0))
        strain = torch.exp(2.0 * self.log_gamma_strain).unsqueeze(1) * variance
        return NoiseTerms(variances, variance, noise[:, graph.batch], strain, sigma, sigma.sum(1))

    def scalar_gradients(self, u: Tensor, terms: NoiseTerms, graph: Graph) -> Tensor:
        return torch.sigmoid(u) * (0.5 / terms.sigmas)[:, graph.batch]
