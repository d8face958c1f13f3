"""The `local-deep` form: every atom its own process, its standard deviation of the last features."""

from typing import Final

import torch
from torch import Tensor

from uqforce.model.config import ModelConfig
from uqforce.model.graph import Graph
from uqforce.model.noise.terms import DTYPES, AtomProcesses, Head, HeadNoise, NoiseTerms


class DeepNoise(HeadNoise):
    """Coherent noise of any structure, for reports: sigma_j depends on all that the network sees of atom j.

    Blocks sum_j d_i sigma_j d_i sigma_j^T are estimated by P random-sign probes v = grad sum_j z_j sigma_j,
    z_j = +-1, as the mean of v_i v_i^T: unbiased, the relative standard deviation of an entry of the diagonal
    at most sqrt(2/P) at any size. Inside a likelihood the estimate would be biased, so in training mode there
    is the energy's variance alone; gamma is fitted afterwards (`uqforce.uncertainty.gamma_fit.fit_gamma`).

    The signs are a hash of the atoms' numbers, so every process of a parallel engine finds the same ones.
    """

    probes: Final[int]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__(config, num_features, members)
        self.probes = config.noise_probes
        dims = [num_features, num_features, 1]
        self.head = Head(members, dims, len(config.type_names), DTYPES[config.dtype])
        self.process = AtomProcesses(config, members)

    def terms_of(self, u: Tensor, features: Tensor, graph: Graph) -> NoiseTerms:
        terms = self.process(u, graph)
        diagonal, scalars = terms.diagonal[:0], terms.scalars[:0]
        if not self.training:
            probed = (self.signs_of_atoms(graph).unsqueeze(1) * terms.sigmas).sum(2).flatten()
            scalars = torch.cat([probed, 0.5 * terms.variances.sum(1)])
            diagonal = terms.diagonal
        return NoiseTerms(terms.variances, terms.variance, diagonal, terms.strain, terms.sigmas, scalars)

    def signs_of_atoms(self, graph: Graph) -> Tensor:
        """z_j of every probe and own atom, [P,n]."""
        numbers = graph.numbers
        if numbers is not None:
            return signs(numbers[: graph.batch.shape[0]], self.probes)
        if graph.parallel:
            raise RuntimeError("noise local-deep in a parallel engine needs `numbers` of the atoms")
        return signs(numbers_in_structure(graph.batch, graph.num_structures), self.probes)

    def scalar_gradients(self, u: Tensor, terms: NoiseTerms, graph: Graph) -> Tensor:
        z = self.signs_of_atoms(graph).unsqueeze(1)
        of_variances = 0.5 * torch.sigmoid(u)
        return torch.cat([(z * (of_variances / terms.sigmas)).flatten(0, 1), of_variances])

    def split(self, gradients: Tensor, terms: NoiseTerms, graph: Graph) -> tuple[Tensor, Tensor]:
        """The halves have scalars of their own."""
        probes = gradients.shape[0] // (self.probes + 1) * self.probes
        return gradients[:probes], gradients[probes:]


def numbers_in_structure(batch: Tensor, num_structures: int) -> Tensor:
    """batch [N], ascending -> number of every atom within its structure [N]."""
    structures = torch.arange(num_structures, device=batch.device)
    first = torch.searchsorted(batch, structures)
    return torch.arange(batch.shape[0], device=batch.device) - first[batch]


def signs(numbers: Tensor, probes: int) -> Tensor:
    """numbers [N] of atoms -> +-1 [probes, N] float64: a bit of the hash SplitMix64 of number and probe."""
    probe = torch.arange(1, probes + 1, device=numbers.device).unsqueeze(1)
    x = numbers.unsqueeze(0) * 0x1E3779B97F4A7C15 + probe * 0x3C6EF372FE94F82B
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    return 1.0 - 2.0 * (x & 1).to(torch.float64)
