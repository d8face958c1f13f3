"""Forces, virial and their uncertainty from the derivatives of energies and standard deviations."""

from typing import NamedTuple

import torch
from torch import Tensor


class ForceVariance(NamedTuple):
    """Results of `force_variance`. Blocks are covariances of an atom's force, eV^2/A^2, stored as
    xx yy zz yz xz xy (ASE's Voigt order, off-diagonal entries not doubled)."""

    forces: Tensor  # [N,3] eV/A, mean over members
    aleatoric: Tensor  # [N,6] noise of the data, mean over members
    epistemic: Tensor  # [N,6] covariance of the members' forces
    total: Tensor  # [N,6] aleatoric + epistemic
    aleatoric_uncertainty: (
        Tensor  # [N] eV/A, sqrt(trace / 3) of the block: a standard deviation per component
    )
    epistemic_uncertainty: Tensor  # [N] eV/A
    total_uncertainty: Tensor  # [N] eV/A
    virial: Tensor  # [B,3,3] eV, mean over members
    virial_epistemic: Tensor  # [B,3,3] eV^2, variance of each entry over members
    member_forces: Tensor  # [K,N,3] eV/A
    member_virials: Tensor  # [K,B,3,3] eV
    # Derivatives of the standard deviations by strain, negative: [K,B,3,3] eV, or, "local", [K,N,3,3].
    noise_virials: Tensor


def force_variance(
    edge_index: Tensor,
    edge_vec: Tensor,
    grad_energy: Tensor,
    grad_sigma: Tensor | None,
    variance: Tensor | None,
    gamma: Tensor | float,
    batch: Tensor,
    num_structures: int,
    mode: str = "total",
    ddof: int = 0,
) -> ForceVariance:
    """Mean forces and virial of K members, with the aleatoric and epistemic covariance of every atom's force.

    With r_e = r_j + shift - r_i of edge e = (i, j), g_e = dE/dr_e and a_e = dsigma/dr_e:

        F_i = sum of g_e over the edges of centre i - sum over those of neighbour i;    W = -sum_e r_e (x) g_e
        epistemic_i = 1/(K - ddof) sum_k (F_ki - F_i) (F_ki - F_i)^T
        aleatoric_i = mean_k [ J_ki + gamma^2 s I ]      coherent (coloured) noise of inverse length gamma
        "total":  J_i = (dsigma/dr_i) (dsigma/dr_i)^T    sigma = sqrt(s), s the variance of the energy
        "local":  J_i = A_i A_i^T + sum_{j != i} a_ji a_ji^T,  A_i = sum_{j != i} a_ij
                  sigma = sum_j sigma_j, s = sigma_i^2
                  exact where sigma_j depends on the edges of its own centre only

    In "local" the edges between the same ordered pair through several periodic images are summed before the
    outer product and an atom's edges to its own images are left out. "total" is for structures of like size:
    its gamma^2 s grows with the structure. Use "local" for large systems: its values repeat when a cell does.

    Deterministic, the same for any number of threads. Differentiable twice with respect to edge_vec,
    grad_energy, grad_sigma, variance and gamma (the derivative of an uncertainty that is 0 is taken as 0).

    Args:
        edge_index: [2,E] int64, row 0 the centre. Fastest sorted by centre, right in any order.
        edge_vec: [E,3] A.
        grad_energy: [K,E,3] eV/A, float32 or float64 like the other floating arguments.
        grad_sigma: [K,E,3] eV/A; None (with `variance`) for members without a noise model.
        variance: [K,B] ("total") or [K,N] ("local"), eV^2.
        gamma: inverse length scale, 1/A: a number, [K] per member, [N] per atom, or [K,N] ([K,1], [1,N]).
        batch: [N] int64, the structure of each atom.
        num_structures: B.
        mode: "total" or "local".
        ddof: 0 for the mixture's moments, 1 for the unbiased variance over members.

    Raises:
        ValueError: shapes, devices, indices, mode or ddof that do not fit; K <= ddof.
        TypeError: dtypes other than float32 or float64, or not all the same; indices that are not int64.

    Source: Jorgensen, Busk, Winther, Schmidt, arXiv:2312.04174; the mixture's moments, Lakshminarayanan,
    Pritzel, Blundell, arXiv:1612.01474.
    """
    if mode != "total" and mode != "local":
        raise ValueError(f"mode is {mode}, expected total or local")
    if (grad_sigma is None) != (variance is None):
        raise ValueError("grad_sigma and variance belong together: give both, or None for both")
    sigma = grad_energy.new_zeros(0, grad_energy.size(1), 3) if grad_sigma is None else grad_sigma
    members = grad_energy.size(0)
    forces, aleatoric, epistemic, virial, virial_epistemic, member_forces, member_virials, noise_virials = (
        torch.ops.uqforce.force_variance(
            edge_index, edge_vec, grad_energy, sigma, batch, num_structures, mode == "local", ddof, members
        )
    )
    if variance is not None:
        noise = _noise(variance, gamma, batch, sigma, num_structures, mode)
        aleatoric = aleatoric + noise[:, None] * _diagonal(aleatoric)
    total = aleatoric + epistemic
    return ForceVariance(
        forces,
        aleatoric,
        epistemic,
        total,
        _uncertainty(aleatoric),
        _uncertainty(epistemic),
        _uncertainty(total),
        virial,
        virial_epistemic,
        member_forces,
        member_virials,
        noise_virials,
    )


def _diagonal(block: Tensor) -> Tensor:
    return torch.tensor([1, 1, 1, 0, 0, 0], dtype=block.dtype, device=block.device)


def _noise(
    variance: Tensor, gamma: Tensor | float, batch: Tensor, grad_sigma: Tensor, num_structures: int, mode: str
) -> Tensor:
    """mean_k gamma^2 s [N], eV^2/A^2."""
    members, dtype = grad_sigma.size(0), grad_sigma.dtype
    expected = [members, num_structures if mode == "total" else batch.size(0)]
    if list(variance.shape) != expected:
        raise ValueError(f"variance has shape {list(variance.shape)}, expected {expected} for mode {mode}")
    if variance.dtype != dtype:
        raise TypeError(f"variance is {variance.dtype} but grad_energy is {dtype}: convert one with .to()")
    if mode == "total":
        # A structure that does not exist: the CPU's op has refused it, and CUDA's gave NaN, since a look at
        # indices would stall the stream. There a read outside an array would end the process.
        per_atom = variance.index_select(1, batch.clamp(0, max(num_structures - 1, 0)))
    else:
        per_atom = variance
    if not isinstance(gamma, Tensor):
        return gamma**2 * per_atom.mean(0)
    if gamma.dtype != dtype:
        raise TypeError(f"gamma is {gamma.dtype} but grad_energy is {dtype}: convert one with .to()")
    return (_gamma_of_members(gamma, members, batch.size(0)).square() * per_atom).mean(0)


def _gamma_of_members(gamma: Tensor, members: int, atoms: int) -> Tensor:
    """gamma in a shape that broadcasts to [K,N]."""
    if gamma.dim() == 1:
        if members == atoms and atoms != 1:
            raise ValueError(
                f"gamma has shape [{atoms}], but there are as many members as atoms: give [{members}, 1] or "
                f"[1, {atoms}]"
            )
        gamma = gamma[:, None] if gamma.size(0) == members else gamma[None, :]
    fits = gamma.dim() == 0 or (
        gamma.dim() == 2 and gamma.size(0) in [1, members] and gamma.size(1) in [1, atoms]
    )
    if not fits:
        raise ValueError(
            f"gamma has shape {list(gamma.shape)}, expected a number, [{members}], [{atoms}] or "
            f"[{members}, {atoms}]"
        )
    return gamma


def _uncertainty(block: Tensor) -> Tensor:
    """sqrt(trace / 3) [N]; value and derivative 0 where the trace is 0."""
    mean_variance = block[:, :3].mean(1)
    positive = mean_variance > 0
    return torch.where(positive, torch.where(positive, mean_variance, 1.0).sqrt(), 0.0)
