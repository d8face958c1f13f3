"""Pairs of atoms within a cutoff, and their differentiable edge vectors."""

from typing import NamedTuple

import torch
from torch import Tensor

from uqforce import _library  # noqa: F401  (loads the compiled ops)


class NeighborList(NamedTuple):
    """A full neighbour list: every pair twice, once from either end."""

    edge_index: Tensor
    """[2, E] int64: row 0 the centre i, row 1 the neighbour j."""
    cell_shift: Tensor
    """[E, 3] int64: lattice vectors by which the neighbour is moved."""
    edge_vec: Tensor
    """[E, 3]: r_j + cell_shift @ cell - r_i, differentiable in positions and cell."""


def neighbor_list(
    positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, batch: Tensor | None = None
) -> NeighborList:
    """All pairs with |edge_vec| < cutoff, of one structure or of a batch of structures.

    A pair is an atom i and an image of an atom j (i = j too, in another cell); atoms need not lie inside the
    cell, and the cell may be smaller than the cutoff. Edges are sorted by centre, then by neighbour, then by
    shift, so the result is unique: it depends neither on the run nor on the number of threads. The length
    compared with the cutoff is that of the edge vector as returned, so an edge and its reverse are in the
    list together or not at all.

    Args:
        positions: [N, 3] float32 or float64, A.
        cell: [B, 3, 3], the dtype of `positions`; rows are lattice vectors, either handedness. Rows of
            directions that are not periodic are ignored and may be zero.
        pbc: [B, 3] bool, whether the structure repeats along each row of its cell.
        cutoff: A, above zero.
        batch: [N] int64, ascending, the structure of each atom; None means one structure (B = 1).

    Returns:
        `NeighborList(edge_index, cell_shift, edge_vec)`; `edge_vec` has the dtype of `positions`.

    Raises:
        ValueError: a wrong shape or device, a position or cell that is not finite, a cell without volume, a
            cutoff that is not above zero, a batch that does not ascend or is out of range, or more images
            than can be held.
        TypeError: a wrong dtype.
    """
    edge_index, cell_shift, edge_vec = torch.ops.uqforce.neighbor_list(positions, cell, pbc, cutoff, batch)
    return NeighborList(edge_index, cell_shift, edge_vec)


def edge_vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, cell_shift: Tensor, batch: Tensor | None = None
) -> Tensor:
    """Vectors of given edges: r_j - r_i + cell_shift @ cell, equal to the last bit to `neighbor_list`'s.

    Any number of times differentiable in positions and cell. The edges may stand in any order.

    Args:
        positions: [N, 3] float32 or float64, A.
        cell: [B, 3, 3], the dtype of `positions`, rows are lattice vectors.
        edge_index: [2, E] int64, row 0 the centre i, row 1 the neighbour j.
        cell_shift: [E, 3] int64.
        batch: [N] int64, the structure of each atom; None means one structure (B = 1).

    Returns:
        [E, 3], A.

    Raises:
        ValueError: a wrong shape or device.
        TypeError: a wrong dtype.
        IndexError: an edge names an atom, or an atom a structure, that does not exist.
    """
    return torch.ops.uqforce.edge_vectors(positions, cell, edge_index, cell_shift, batch)


@torch.library.register_fake("uqforce::neighbor_list")
def _(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, batch: Tensor | None):
    # The number of edges depends on the data, which only Python can tell torch.export and torch.compile.
    edges = torch.library.get_ctx().new_dynamic_size()
    return (
        positions.new_empty((2, edges), dtype=torch.int64),
        positions.new_empty((edges, 3), dtype=torch.int64),
        positions.new_empty((edges, 3)),
    )
