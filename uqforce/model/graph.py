"""Atoms and edges as models see them."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Graph(NamedTuple):
    """Structures, or one process's share of a structure that a parallel engine divides among many.

    A share has atoms that are not its own: the first n atoms are, n the length of `batch`, and the others are
    ghosts, which have no energies here.

    Shapes: N atoms, n of them its own, E edges, B structures.
    """

    edge_vec: Tensor  # [E,3] A, from centre to neighbour, any float type
    edge_index: Tensor  # [2,E] int64, row 0 centre, row 1 neighbour, sorted by centre
    atom_types: Tensor  # [N] int64, indices into `config.type_names`
    batch: Tensor  # [n] int64, structure of each of its own atoms, ascending
    num_structures: int  # B
    parallel: bool = False  # a share; then B is 1
    # Of a share: True, the centres of edges are its own atoms, and ghosts' features come from their owners
    # (`ghost_exchange`); False, every ghost within (layers - 1) cutoffs has its own edges.
    exchange: bool = False
    # Of a share: [N] int64, the engine's numbers of the atoms, the same of images. Without them a ghost is an
    # atom of its own to noise `local`, which is wrong where a cell is smaller than two cutoffs.
    numbers: Optional[Tensor] = None


def with_edge_vec(graph: Graph, edge_vec: Tensor) -> Graph:
    """The same with other vectors."""
    return Graph(
        edge_vec,
        graph.edge_index,
        graph.atom_types,
        graph.batch,
        graph.num_structures,
        graph.parallel,
        graph.exchange,
        graph.numbers,
    )


def own_types(graph: Graph) -> Tensor:
    """Types [n] of its own atoms."""
    return graph.atom_types[: graph.batch.shape[0]]


def structure_of_centres(graph: Graph) -> Tensor:
    """Structure of each edge's centre, [E]; centres may be ghosts."""
    centre = graph.edge_index[0]
    return torch.zeros_like(centre) if graph.parallel else graph.batch[centre]


def sum_over_processes(values: Tensor, graph: Graph) -> Tensor:
    """The sum over all shares of a structure; `values` themselves of whole structures."""
    return torch.ops.uqforce.sum_over_ranks(values) if graph.parallel else values
