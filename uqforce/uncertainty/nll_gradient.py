"""How the scores of structures change with the positions of their atoms."""

import torch
from torch import Tensor

from uqforce import ops
from uqforce.errors import ModelError
from uqforce.model import Graph, InferencePotential, Potential


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
        ModelError: the potential has no mixture.
        RuntimeError: it is in training mode, or `reduction` is another.
    """
    if potential.mixture.means.shape[0] == 0:
        raise ModelError("the potential has no mixture, hence no nll: `uqforce fit` gives it one")
    neighbors = ops.neighbor_list(positions, cell, pbc, potential.config.r_max, batch)
    with torch.enable_grad():
        graph = Graph(neighbors.edge_vec, neighbors.edge_index, atom_types, batch, len(cell))
        return potential.with_nll_gradient(graph, reduction)[1]
