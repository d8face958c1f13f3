"""The labels of many structures as plain arrays, whatever holds the structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from uqforce.data import Dataset, Frame


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
            return _of_dataset(structures)

        def column(field: str, missing) -> list:
            values = (getattr(frame, field) for frame in structures)
            return [missing(f) if value is None else value for f, value in zip(structures, values)]

        return Labels(
            symbols=np.array([symbol for frame in structures for symbol in frame.symbols]),
            sizes=np.array([len(frame) for frame in structures]),
            volume=np.array([frame.volume for frame in structures]),
            energy=np.array(column("energy", lambda frame: np.nan)),
            forces=np.concatenate(column("forces", lambda frame: np.full((len(frame), 3), np.nan))),
            stress=np.stack(column("stress", lambda frame: np.full((3, 3), np.nan))),
        )


def _of_dataset(dataset: Dataset) -> Labels:
    has_forces = np.repeat(dataset.has_forces, dataset.num_atoms)
    return Labels(
        symbols=np.array(dataset.type_names)[dataset.atom_types],
        sizes=dataset.num_atoms,
        volume=np.abs(np.linalg.det(dataset.cell)),
        energy=np.where(dataset.has_energy, dataset.energy, np.nan),
        forces=np.where(has_forces[:, None], dataset.forces, np.nan),
        stress=np.where(dataset.has_stress[:, None, None], dataset.stress, np.nan),
    )
