"""Structures side by side as tensors: what a model and a loss read."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """B structures with N atoms and E edges in all; eV, A. A label that is missing is 0 and its mask False.

    Edge vectors are not kept: `uqforce.ops.edge_vectors(positions, cell, edge_index, cell_shift, batch)`.
    """

    positions: Tensor  # [N,3] float64
    cell: Tensor  # [B,3,3] float64, rows are lattice vectors, zeros without periodic directions
    pbc: Tensor  # [B,3] bool
    atom_types: Tensor  # [N] int64, index into the type names
    batch: Tensor  # [N] int64, structure of each atom, ascending
    num_structures: int  # B
    edge_index: Tensor  # [2,E] int64, centre and neighbour, sorted by centre
    cell_shift: Tensor  # [E,3] int64
    energy: Tensor  # [B] float64
    forces: Tensor  # [N,3] float64
    stress: Tensor  # [B,3,3] float64, tension positive
    has_energy: Tensor  # [B] bool
    has_forces: Tensor  # [B] bool
    has_stress: Tensor  # [B] bool

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Batch":
        """The batch on a device, its floating point tensors in `dtype` (both unchanged where None)."""
        return Batch(
            *(
                value
                if isinstance(value, int)
                else value.to(device=device, dtype=dtype if value.is_floating_point() else None)
                for value in self
            )
        )


def collate(batches: Sequence[Batch]) -> Batch:
    """One batch of all structures in order; of none (a rank's share of a short last step) an empty batch."""
    if not batches:
        return _empty()
    atoms = structures = 0
    edge_index, batch = [], []
    for item in batches:
        edge_index.append(item.edge_index + atoms)
        batch.append(item.batch + structures)
        atoms += item.positions.shape[0]
        structures += item.num_structures
    joined = {
        name: torch.cat([getattr(item, name) for item in batches])
        for name in Batch._fields
        if name not in ("edge_index", "batch", "num_structures")
    }
    return Batch(
        **joined, edge_index=torch.cat(edge_index, dim=1), batch=torch.cat(batch), num_structures=structures
    )


def _empty() -> Batch:
    def real(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    integers, mask = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    return Batch(
        positions=real(0, 3),
        cell=real(0, 3, 3),
        pbc=mask.view(0, 3),
        atom_types=integers,
        batch=integers,
        num_structures=0,
        edge_index=integers.view(2, 0),
        cell_shift=integers.view(0, 3),
        energy=real(0),
        forces=real(0, 3),
        stress=real(0, 3, 3),
        has_energy=mask,
        has_forces=mask,
        has_stress=mask,
    )
