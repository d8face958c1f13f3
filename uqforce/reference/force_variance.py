"""Definition of `uqforce.ops.force_variance` in plain torch."""

import torch
from torch import Tensor


def force_variance(
    edge_index: Tensor,
    edge_vec: Tensor,
    grad_energy: Tensor,
    grad_sigma: Tensor,
    variance: Tensor,
    gamma: Tensor,
    batch: Tensor,
    num_structures: int,
    mode: str = "total",
    ddof: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """forces [N,3], aleatoric [N,3,3], epistemic [N,3,3], virial [B,3,3] and its variance over members.

    Then what the members say by themselves: forces [K,N,3], virials [K,B,3,3], and the virials of
    grad_sigma, of structures [K,B,3,3] or, "local", of the atoms' own standard deviations [K,N,3,3].
    Arguments as in `uqforce.ops.force_variance`, gamma in a shape that broadcasts to [K,N].
    """
    members, atoms = grad_energy.shape[0], batch.shape[0]
    centre, neighbour = edge_index

    member_forces = _derivative(-grad_energy, edge_index, atoms)  # [K,N,3]
    forces = member_forces.mean(0)
    epistemic = _outer(member_forces - forces).sum(0) / (members - ddof)

    if mode == "total":
        structure_noise = _outer(_derivative(grad_sigma, edge_index, atoms))
        per_atom = variance[:, batch]
    else:
        # derivative[i, j] = d sigma_i / d r_j for j != i; rigid shifts of all of i's images change nothing.
        derivative = grad_sigma.new_zeros(grad_sigma.shape[0], atoms * atoms, 3)
        derivative = derivative.index_add(1, centre * atoms + neighbour, grad_sigma)
        derivative = derivative.view(grad_sigma.shape[0], atoms, atoms, 3)
        others = 1 - torch.eye(atoms, dtype=grad_sigma.dtype, device=grad_sigma.device)
        derivative = derivative * others[:, :, None]
        structure_noise = _outer(derivative.sum(2)) + _outer(derivative).sum(1)
        per_atom = variance
    noise = (gamma**2 * per_atom)[:, :, None, None] * torch.eye(
        3, dtype=variance.dtype, device=variance.device
    )
    aleatoric = (structure_noise + noise).mean(0)

    virials = _virials(grad_energy, edge_vec, batch[centre], num_structures)
    virial = virials.mean(0)
    virial_variance = (virials - virial).square().sum(0) / (members - ddof)
    whose, count = (batch[centre], num_structures) if mode == "total" else (centre, atoms)
    noise_virials = _virials(grad_sigma, edge_vec, whose, count)
    return forces, aleatoric, epistemic, virial, virial_variance, member_forces, virials, noise_virials


def _virials(gradient: Tensor, edge_vec: Tensor, whose: Tensor, count: int) -> Tensor:
    """-sum r x g of the edges that belong to each of `count` structures or atoms, [K,count,3,3]."""
    per_edge = -edge_vec[:, :, None] * gradient[:, :, None, :]
    return per_edge.new_zeros(gradient.shape[0], count, 3, 3).index_add(1, whose, per_edge)


def _derivative(gradient: Tensor, edge_index: Tensor, atoms: int) -> Tensor:
    """Derivative with respect to the positions [K,N,3] of what has the gradient [K,E,3] along the edges."""
    zeros = gradient.new_zeros(gradient.shape[0], atoms, 3)
    return zeros.index_add(1, edge_index[1], gradient).index_add(1, edge_index[0], -gradient)


def _outer(vectors: Tensor) -> Tensor:
    return vectors[..., :, None] * vectors[..., None, :]
