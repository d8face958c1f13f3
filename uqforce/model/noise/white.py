"""The `white` form: an energy's and every force's own standard deviation, with nothing between them."""

from typing import Final

import torch
from torch import Tensor

from uqforce.model.config import ModelConfig
from uqforce.model.graph import Graph, own_types, sum_over_processes
from uqforce.model.noise.terms import DTYPES, Head, Noise, NoiseTerms
from uqforce.model.prediction import sum_of_members


class WhiteNoise(Noise):
    """White noise, the baseline (Rensmeyer et al., arXiv:2304.03694).

    Perceptrons of the last features D -> D/2 -> D/4 -> 1 with an exponential at the end: one for a number e_i
    of every atom, whose mean, sum or root of the sum of squares is the standard deviation of the energy; one
    for the standard deviation of the atom's force, the same for its three components. It has no derivative,
    so the virial has no variance.
    """

    energy_is: Final[str]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__(config, num_features, members)
        self.energy_is = config.white_energy
        dims = [num_features, max(num_features // 2, 1), max(num_features // 4, 1), 1]
        dtype, num_types = DTYPES[config.dtype], len(config.type_names)
        self.of_energy = Head(members, dims, num_types, dtype)
        self.of_force = Head(members, dims, num_types, dtype)

    def terms(self, features: Tensor, graph: Graph) -> NoiseTerms:
        types, batch, num_structures = own_types(graph), graph.batch, graph.num_structures
        e = torch.exp(self.of_energy(features, types))
        if self.energy_is == "rss":
            e = e.square()
        sigma = sum_over_processes(sum_of_members(e, batch, num_structures), graph)
        if self.energy_is == "rss":
            sigma = torch.sqrt(sigma)
        elif self.energy_is == "mean":
            count = sum_of_members(torch.ones_like(e), batch, num_structures)
            sigma = sigma / sum_over_processes(count, graph).clamp(min=1.0)
        diagonal = torch.exp(2.0 * self.of_force(features, types))
        return NoiseTerms(e[:0], sigma.square(), diagonal, sigma[:0], sigma[:0], sigma[:0, 0])
