"""The `white` form: an energy's and every force's own standard deviation, with nothing between them."""

from typing import Final, Optional

import torch
from torch import Tensor

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.noise.terms import DTYPES, Head, NoiseTerms, OwnInference, over_ranks
from uqforce.model.prediction import sum_of_members


class WhiteNoise(OwnInference):
    """White noise, the baseline (Rensmeyer et al., arXiv:2304.03694).

    Perceptrons of the last features D -> D/2 -> D/4 -> 1 with an exponential at the end: one for a number e_i
    of every atom, whose mean, sum or root of the sum of squares is the standard deviation of the energy; one
    for the standard deviation of the atom's force, the same for its three components. It has no derivative,
    so the virial has no variance.
    """

    local: Final[bool]
    energy_is: Final[str]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
        self.local, self.energy_is = False, config.white_energy
        dims = [num_features, max(num_features // 2, 1), max(num_features // 4, 1), 1]
        dtype, num_types = DTYPES[config.dtype], len(config.type_names)
        self.of_energy = Head(members, dims, num_types, dtype)
        self.of_force = Head(members, dims, num_types, dtype)

    def forward(
        self, features: Tensor, edges: Edges, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int,
    ) -> NoiseTerms:  # fmt: skip
        return self.terms(features, atom_types, batch, num_structures, False)

    def terms(
        self, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int, many_ranks: bool
    ) -> NoiseTerms:
        e = torch.exp(self.of_energy(features, atom_types))
        if self.energy_is == "rss":
            e = e.square()
        sigma = over_ranks(sum_of_members(e, batch, num_structures), many_ranks)
        if self.energy_is == "rss":
            sigma = torch.sqrt(sigma)
        elif self.energy_is == "mean":
            ones = torch.ones_like(e)
            sigma = sigma / over_ranks(sum_of_members(ones, batch, num_structures), many_ranks).clamp(min=1.0)
        diagonal = torch.exp(2.0 * self.of_force(features, atom_types))
        return NoiseTerms(e[:0], sigma.square(), diagonal, sigma[:0], sigma[:0], sigma[:0, 0])

    def explicit(
        self, features: Tensor, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int, many_ranks: bool, numbers: Optional[Tensor],
    ) -> tuple[NoiseTerms, Tensor, Tensor]:  # fmt: skip
        types = atom_types[: batch.shape[0]]  # ghosts follow
        terms = self.terms(features, types, batch, num_structures, many_ranks)
        return terms, features.unsqueeze(0)[:0], edge_vec.unsqueeze(0)[:0]

    def split(
        self, gradients: Tensor, terms: NoiseTerms, edge_index: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return gradients, gradients

    def own_trace(
        self, slopes: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int,
        numbers: Optional[Tensor],
    ) -> Tensor:  # fmt: skip
        return slopes.new_zeros(num_owned)
