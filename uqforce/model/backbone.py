"""The seam for other architectures: what a `Potential` needs of a network, and what networks there are."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.graph import Graph
from uqforce.model.network import Network


class Backbone(Protocol):
    """Atoms and edges in, last features and energies out; energies are linear in the last features.

    A module in TorchScript's language. Noise, mixture, rigidity, derivatives, training and files are the
    potential's, the same for all. One that also has `inference(cutoffs)`, as `Network` has, is run by
    parallel engines; any other is exported with its networks as they are (`tabulation=0`).

    Attributes:
        dtype: precision of the features.
        num_last_features: D.
    """

    dtype: torch.dtype
    num_last_features: int

    def embed(self, graph: Graph) -> Edges:
        """The edges as layers see them, which noise `local` also reads."""
        ...

    def features(self, edges: Edges, graph: Graph) -> Tensor:
        """The last features [N,D]."""
        ...

    def energies(self, features: Tensor, edges: Edges, graph: Graph) -> Tensor:
        """Energies [M,N] float64 eV of the last features."""
        ...

    def last_layer(self) -> nn.Parameter:
        """Weights [D,M] of the last linear map, from the last features to the energies."""
        ...

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        """By how much the energies of atoms [N] scale the last linear map, eV."""
        ...


ARCHITECTURES: dict[str, Callable[[ModelConfig], Backbone]] = {"nequip": Network}
"""Name in a model file -> what makes the network of a configuration."""


def make_backbone(architecture: str, config: ModelConfig) -> Backbone:
    """The network of an architecture.

    Raises:
        ModelError: there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](config)
