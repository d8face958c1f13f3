"""From the scores of atoms to those of structures."""

from typing import NamedTuple

import numpy as np


class StructureScores(NamedTuple):
    """Of each structure, [B]; nan where it has no atoms.

    `max` is what Zhu et al., J. Chem. Phys. 158, 164111 (2023), Eq. 12, choose structures for labelling by,
    `sum` that of their landscapes, `mean` compares structures of different size.
    """

    mean: np.ndarray
    max: np.ndarray
    sum: np.ndarray


def structure_scores(score, structure, num_structures: int) -> StructureScores:
    """Scores [N] of atoms and the structure [N] that each belongs to -> those of the structures."""
    score, structure = np.asarray(score, dtype=np.float64), np.asarray(structure)
    counts = np.bincount(structure, minlength=num_structures)
    total = np.bincount(structure, score, num_structures)
    largest = np.full(num_structures, -np.inf)
    np.maximum.at(largest, structure, score)
    empty = counts == 0
    total, largest = np.where(empty, np.nan, total), np.where(empty, np.nan, largest)
    return StructureScores(total / np.maximum(counts, 1), largest, total)
