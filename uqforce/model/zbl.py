"""Ziegler-Biersack-Littmark screened nuclear repulsion."""

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from uqforce.model.embedding import polynomial_cutoff, polynomial_cutoff_slope

COULOMB = 14.399645  # e^2 / (4 pi epsilon_0), eV A
SCREENING_LENGTH = 0.46850  # A
SCREENING_EXPONENT = 0.23
# Amplitudes and decay constants of the universal screening function (LAMMPS, pair_style zbl).
AMPLITUDES = (0.02817, 0.28022, 0.50986, 0.18175)
DECAYS = (0.20162, 0.40290, 0.94229, 3.19980)


class ZBL(nn.Module):
    """Per-atom ZBL energies with the polynomial cutoff; half of a pair's energy goes to each atom."""

    def __init__(self, type_names: list[str], polynomial_cutoff_p: float = 6.0) -> None:
        super().__init__()
        charges = torch.tensor([atomic_numbers[name] for name in type_names], dtype=torch.float64)
        self.register_buffer("charges", charges)
        self.p = polynomial_cutoff_p
        self.coulomb, self.length, self.exponent = COULOMB, SCREENING_LENGTH, SCREENING_EXPONENT
        self.amplitudes = list(AMPLITUDES)
        self.decays = list(DECAYS)

    def gradient(
        self, edge_vec: Tensor, scaled_length: Tensor, edge_index: Tensor, atom_types: Tensor
    ) -> Tensor:
        """Derivative of the sum of `forward` by edge_vec, [E,3], eV/A."""
        charges = self.charges[atom_types]
        z_i, z_j = charges[edge_index[0]], charges[edge_index[1]]
        edge_vec, scaled = edge_vec.to(torch.float64), scaled_length.squeeze(1).to(torch.float64)
        r = torch.linalg.vector_norm(edge_vec, dim=1)
        inverse_length = (z_i.pow(self.exponent) + z_j.pow(self.exponent)) / self.length
        screening, slope = torch.zeros_like(r), torch.zeros_like(r)
        for amplitude, decay in zip(self.amplitudes, self.decays):
            term = amplitude * torch.exp(-decay * r * inverse_length)
            screening, slope = screening + term, slope - decay * inverse_length * term
        cutoff = polynomial_cutoff(scaled, self.p)
        cutoff_slope = polynomial_cutoff_slope(scaled, self.p) * scaled / r
        pair = 0.5 * self.coulomb * z_i * z_j / r
        along = pair * (slope * cutoff + screening * (cutoff_slope - cutoff / r))
        return (along / r).unsqueeze(1) * edge_vec

    def forward(
        self, edge_vec: Tensor, scaled_length: Tensor, edge_index: Tensor, atom_types: Tensor
    ) -> Tensor:
        """edge_vec [E,3], scaled_length [E,1], edge_index [2,E], atom_types [N] -> energies [N], eV."""
        charges = self.charges[atom_types]
        z_i, z_j = charges[edge_index[0]], charges[edge_index[1]]
        r = torch.linalg.vector_norm(edge_vec.to(torch.float64), dim=1)
        x = r * (z_i.pow(self.exponent) + z_j.pow(self.exponent)) / self.length
        screening = torch.zeros_like(x)
        for amplitude, decay in zip(self.amplitudes, self.decays):
            screening = screening + amplitude * torch.exp(-decay * x)
        pair = 0.5 * self.coulomb * z_i * z_j / r * screening
        pair = pair * polynomial_cutoff(scaled_length.squeeze(1).to(torch.float64), self.p)
        return torch.zeros_like(charges).index_add(0, edge_index[0], pair)
