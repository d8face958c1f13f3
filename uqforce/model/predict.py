"""Predictions of batches: edge vectors from positions and cells, and the potential."""

import torch

from uqforce.data import Batch
from uqforce.model import Potential, Prediction
from uqforce.ops import edge_vectors


def predict(potential: torch.nn.Module, batch: Batch) -> Prediction:
    """The potential's prediction of a batch; edge vectors from positions and cells."""
    edge_vec = edge_vectors(batch.positions, batch.cell, batch.edge_index, batch.cell_shift, batch.batch)
    return potential(edge_vec, batch.edge_index, batch.atom_types, batch.batch, batch.num_structures)


def predictions(potential: Potential, batch: Batch) -> list[Prediction]:
    """What each head of the potential says of a batch by itself."""
    edge_vec = edge_vectors(batch.positions, batch.cell, batch.edge_index, batch.cell_shift, batch.batch)
    return potential.of_members(
        edge_vec, batch.edge_index, batch.atom_types, batch.batch, batch.num_structures
    )
