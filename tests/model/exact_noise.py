"""Noise `local-deep` without probes: a check on small systems."""

import torch
from torch import Tensor

from uqforce.model import Graph, Potential
from uqforce.model.graph import with_edge_vec
from uqforce.model.prediction import by_positions


def colours(edge_index: Tensor, num_atoms: int, hops: int) -> Tensor:
    """A colour of every atom [N] int64 such that atoms of one colour are more than `hops` edges apart."""
    near = torch.eye(num_atoms, dtype=torch.bool)
    near[edge_index[0], edge_index[1]] = near[edge_index[1], edge_index[0]] = True
    reach = near
    for _ in range(hops - 1):
        reach = (reach.double() @ near.double()) > 0
    found = torch.full((num_atoms,), -1)
    for atom in range(num_atoms):
        taken = set(found[reach[atom]].tolist())
        found[atom] = next(colour for colour in range(num_atoms) if colour not in taken)
    return found


def exact_blocks(potential: Potential, graph: Graph) -> Tensor:
    """Blocks sum_j d_i sigma_j d_i sigma_j^T [N,3,3] of noise `local-deep`, exact: what its probes estimate.

    One backward pass per colour: atoms of one colour share no atom that their standard deviations depend on,
    so the sum over colours of the outer products is that over atoms. As many passes as atoms lie within twice
    the network's reach.
    """
    edge_vec, atom_types = graph.edge_vec.detach().requires_grad_(True), graph.atom_types
    graph = with_edge_vec(graph, edge_vec)
    edges = potential.network.embed(graph)
    terms = potential.noise(potential.network.features(edges, graph), edges, graph)
    reach = 2 * potential.config.num_layers
    colour = colours(graph.edge_index.cpu(), len(atom_types), reach).to(edge_vec.device)
    blocks = edge_vec.new_zeros(len(atom_types), 3, 3)
    for c in range(int(colour.max()) + 1 if len(colour) else 0):
        total = terms.sigmas[:, colour == c].sum()
        (slope,) = torch.autograd.grad(total, edge_vec, retain_graph=True)
        rows = by_positions(slope, graph)
        blocks += rows[:, :, None] * rows[:, None, :]
    return blocks
