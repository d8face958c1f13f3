"""The labels of many structures as plain arrays, whatever holds the structures."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from uqforce.data import Dataset, Frame, type_names_of
from uqforce.data.store import columns


class Labels(NamedTuple):
    """Labels of B structures with N atoms in all; not a number where there is none."""

    symbols: np.ndarray  # [N] of the atoms' elements
    sizes: np.ndarray  # [B] numbers of atoms
    volume: np.ndarray  # [B] A^3, 0 without a full cell
    energy: np.ndarray  # [B] eV
    forces: np.ndarray  # [N,3] eV/A
    stress: np.ndarray  # [B,3,3] eV/A^3

    @staticmethod
    def of(structures: Sequence[Frame] | Dataset) -> Labels:
        """Take the labels out of frames, or out of a data set."""
        if isinstance(structures, Dataset):
            type_names: list[str] = structures.type_names
            held: Any = structures
        else:
            type_names = type_names_of(structures)
            held = SimpleNamespace(**columns(structures, type_names))
        sizes = np.diff(held.atom_offsets)
        return Labels(
            symbols=np.array(type_names)[held.atom_types],
            sizes=sizes,
            volume=np.abs(np.linalg.det(held.cell)),
            energy=np.where(held.has_energy, held.energy, np.nan),
            forces=np.where(np.repeat(held.has_forces, sizes)[:, None], held.forces, np.nan),
            stress=np.where(held.has_stress[:, None, None], held.stress, np.nan),
        )
