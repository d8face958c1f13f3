"""Models evaluated over batches and whole data sets."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from uqforce.data import Batch, Dataset, ordered_batches
from uqforce.model.graph import Graph
from uqforce.model.potential import Potential
from uqforce.model.quantities import QUANTITIES, Prediction
from uqforce.ops import edge_vectors


def graph_of(batch: Batch) -> Graph:
    """The batch as models see it, with edge vectors from positions and cells."""
    edge_vec = edge_vectors(batch.positions, batch.cell, batch.edge_index, batch.cell_shift, batch.batch)
    return Graph(edge_vec, batch.edge_index, batch.atom_types, batch.batch, batch.num_structures)


def predict(model: torch.nn.Module, batch: Batch) -> Prediction:
    """Evaluate a potential or an ensemble on a batch."""
    return model(graph_of(batch))


def predict_members(potential: Potential, batch: Batch) -> list[Prediction]:
    """Evaluate each head of a potential by itself on a batch."""
    return potential.of_members(graph_of(batch))


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode, with its parameters out of the graph: forces need none of them."""
    training = model.training
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)


def predict_dataset(
    model: torch.nn.Module, dataset: Dataset, names: Iterable[str], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """Evaluate a potential or an ensemble over a data set, in its order.

    Args:
        names: fields of `Prediction`; those that the model does not carry are left out.

    Returns:
        Arrays over all B structures or N atoms, float64, in the units of `Prediction`; members come first.

    Example:
        >>> found = predict_dataset(potential, dataset, ["energy", "forces"])
        >>> errors = found["energy"] - dataset.energy
    """
    names, device = list(names), next(model.parameters()).device
    parts = []
    with evaluating(model):
        for batch in ordered_batches(dataset, batch_size, device, title="evaluating"):
            prediction = predict(model, batch)
            found = {name: getattr(prediction, name) for name in names}
            parts.append({name: value for name, value in found.items() if value is not None})
    return join_predictions(parts)


def join_predictions(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """Join what a model says of several batches: arrays over all structures or atoms, float64.

    Members' values have their members first, all others their structures or atoms.
    """
    joined = {}
    for name in parts[0]:
        values = [part[name].detach().cpu().double().numpy() for part in parts]
        joined[name] = np.concatenate(values, axis=1 if QUANTITIES[name].axis == "member" else 0)
    return joined
