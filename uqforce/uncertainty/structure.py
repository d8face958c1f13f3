"""From the scores of atoms to those of structures, and how they change with the positions."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uqforce import ops
from uqforce.model import InferencePotential, Potential


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


def nll_gradient(
    potential: Potential | InferencePotential,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    atom_types: Tensor,
    batch: Tensor,
    reduction: str = "max",
) -> Tensor:
    """Derivative of the structures' scores by the positions of their atoms: [N,3] float64, nat/A.

    Args:
        potential: with a mixture, in evaluation mode.
        positions: [N,3] A; cell: [B,3,3] A; pbc: [B,3]; atom_types, batch: [N], as everywhere.
        reduction: "mean", "max" or "sum" of the `nll` of a structure's atoms. Atoms that share the largest
            score, as equivalent ones do, share its gradient.

    Raises:
        ValueError: the potential has no mixture.
        RuntimeError: it is in training mode, or `reduction` is another.
    """
    if potential.mixture.means.shape[0] == 0:
        raise ValueError("the potential has no mixture, hence no nll: `uqforce fit` gives it one")
    neighbors = ops.neighbor_list(positions, cell, pbc, potential.config.r_max, batch)
    with torch.enable_grad():
        return potential.with_nll_gradient(
            neighbors.edge_vec, neighbors.edge_index, atom_types, batch, len(cell), reduction
        )[1]
