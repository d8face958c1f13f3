"""Structures made for checks of a model."""

import torch
from torch import Tensor, nn

from uqforce.ops import neighbor_list


def sample_structure(potential: nn.Module, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Arguments of a model: two structures of 27 jittered atoms of all types, one periodic, one not."""
    device = next(potential.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    cutoff = potential.config.r_max
    spacing = 0.55 * min(min(row) for row in potential.config.cutoff_table())
    grid = torch.cartesian_prod(*[torch.arange(3, dtype=torch.float64)] * 3).repeat(2, 1)
    positions = spacing * (grid + 0.2 * torch.rand(54, 3, dtype=torch.float64, generator=generator))
    cell = 3 * spacing * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    pbc = torch.tensor([[True] * 3, [False] * 3])
    batch = torch.arange(2).repeat_interleave(27)
    neighbors = neighbor_list(positions, cell, pbc, cutoff, batch)
    atom_types = torch.arange(54) % len(potential.config.type_names)
    edges = (neighbors.edge_vec.to(device), neighbors.edge_index.to(device))
    return *edges, atom_types.to(device), batch.to(device), 2
