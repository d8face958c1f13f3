"""What a potential says, and how it follows from energies, noise and their derivatives by the edges."""

from typing import List, NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """What a potential says of a batch of structures. A tensor that the model does not carry has no elements.

    Shapes: N atoms, B structures, E edges, D features, M members. eV and A; float64 except the features.
    `*_aleatoric` is the noise of the data, `*_epistemic` the disagreement of members, and the name alone both
    together. Virial covariances are in ASE's Voigt order, xx yy zz yz xz xy.
    """

    energies: Tensor  # [N]
    energy: Tensor  # [B]
    forces: Tensor  # [N,3]
    virial: Tensor  # [B,3,3]; stress = -virial / volume
    edge_gradient: Tensor  # [E,3], d(total energy) / d(edge_vec)
    features: Tensor  # [N,D]
    nll: Tensor  # [N], mixture score
    energies_variance: Tensor  # [N], sums to the square of energy_uncertainty_aleatoric
    energy_uncertainty: Tensor  # [B]
    energy_uncertainty_aleatoric: Tensor  # [B]
    energy_uncertainty_epistemic: Tensor  # [B]
    forces_uncertainty: Tensor  # [N], sqrt(trace of the covariance / 3)
    forces_uncertainty_aleatoric: Tensor  # [N]
    forces_uncertainty_epistemic: Tensor  # [N]
    forces_covariance: Tensor  # [N,3,3]
    forces_covariance_aleatoric: Tensor  # [N,3,3]
    forces_covariance_epistemic: Tensor  # [N,3,3]
    energy_forces_covariance: Tensor  # [N,3], of an atom's force with its structure's energy
    virial_covariance: Tensor  # [B,6,6]; of the stress: divided by the square of the volume
    virial_covariance_aleatoric: Tensor  # [B,6,6]
    virial_covariance_epistemic: Tensor  # [B,6,6]
    energy_ensemble: Tensor  # [M,B]
    forces_ensemble: Tensor  # [M,N,3]
    virial_ensemble: Tensor  # [M,B,3,3]
    llpr: Tensor  # [N], last-layer rigidity of an atom's energy, eV
    energy_llpr: Tensor  # [B], last-layer rigidity of a structure's energy, eV
    forces_error: Tensor  # [N], error of the atom's force expected from a score, rms of a component


class DomainPrediction(NamedTuple):
    """What one process of many says of its own n atoms, of the whole structure's energy, and of its edges."""

    energies: Tensor  # [n]
    edge_gradient: Tensor  # [E,3]
    features: Tensor  # [n,D]
    nll: Tensor  # [n]
    energies_variance: Tensor  # [n]
    energy_uncertainty: Tensor  # [1], of the whole structure
    energy_uncertainty_aleatoric: Tensor  # [1]
    energy_uncertainty_epistemic: Tensor  # [1]
    forces_uncertainty: Tensor  # [n]
    forces_uncertainty_aleatoric: Tensor  # [n]
    forces_uncertainty_epistemic: Tensor  # [n]
    llpr: Tensor  # [n]
    forces_error: Tensor  # [n]


class Evaluation(NamedTuple):
    """What a prediction is made of: M members, n atoms that count, B structures, E edges, D features.

    Of a member without noise the fields of noise have M = 0 rows. Float64 except the features.
    """

    energies: Tensor  # [M,n]
    gradients: Tensor  # [M,E,3], of the structures' energies by the edges
    features: Tensor  # [n,D]
    variances: Tensor  # [M,n] atoms' shares of the energies' variance; no rows where it has no shares
    variance: Tensor  # [M,B] of the structures' energies
    diagonal: Tensor  # [M,n] of a force component's own noise
    strain: Tensor  # [M,B] of the virial's diagonal's own noise
    slopes: (
        Tensor  # [K,E,3], K = P M: of the noise's standard deviations by the edges, P probes of each member
    )
    halves: Tensor  # [M,E,3], of half the energies' variance by the edges


def sum_by_structure(values: Tensor, batch: Tensor, num_structures: int) -> Tensor:
    """values [N, ...] -> [B, ...], summed over the rows of each structure."""
    return values.new_zeros([num_structures] + list(values.shape[1:])).index_add(0, batch, values)


def sum_of_members(values: Tensor, batch: Tensor, num_structures: int) -> Tensor:
    """values [M,N] -> [M,B], summed over the atoms of each structure."""
    return values.new_zeros(values.shape[0], num_structures).index_add(1, batch, values)


def sums_by_atom(values: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """values [K,E,3] of edges -> [N, 3 K]: for each atom those of its edges, less those of the edges to it.

    The edges' axis stands first, since torch adds up rows about twice as fast there.
    """
    rows = values.transpose(0, 1).flatten(1)
    sums = rows.new_zeros(num_atoms, rows.shape[1]).index_add(0, edge_index[0], rows)
    return sums.index_add(0, edge_index[1], rows, alpha=-1.0)


def by_positions(
    edge_index: Tensor, edge_vec: Tensor, gradient: Tensor, batch: Tensor, num_structures: int
) -> Tensor:
    """gradient [E,3] with respect to edge_vec -> with respect to the positions [N,3]."""
    none = gradient.new_zeros(0, gradient.shape[0], 3)
    return -torch.ops.uqforce.force_variance(
        edge_index, edge_vec, gradient.unsqueeze(0), none, batch, num_structures, False, 0
    )[0]


def detached(e: Evaluation) -> Evaluation:
    return Evaluation(
        e.energies.detach(), e.gradients.detach(), e.features.detach(), e.variances.detach(),
        e.variance.detach(), e.diagonal.detach(), e.strain.detach(), e.slopes.detach(), e.halves.detach(),
    )  # fmt: skip


def of_member(e: Evaluation, m: int) -> Evaluation:
    """One member's part."""
    mine, slopes = slice(m, m + 1), e.slopes[m :: e.energies.shape[0]]  # every probe has a row per member
    return Evaluation(
        e.energies[mine], e.gradients[mine], e.features, e.variances[mine], e.variance[mine],
        e.diagonal[mine], e.strain[mine], slopes, e.halves[mine],
    )  # fmt: skip


def joined(parts: List[Evaluation]) -> Evaluation:
    """Several evaluations of the same atoms and edges as one; the features are the first one's."""
    return Evaluation(
        torch.cat([e.energies for e in parts]), torch.cat([e.gradients for e in parts]), parts[0].features,
        torch.cat([e.variances for e in parts]), torch.cat([e.variance for e in parts]),
        torch.cat([e.diagonal for e in parts]), torch.cat([e.strain for e in parts]),
        torch.cat([e.slopes for e in parts]), torch.cat([e.halves for e in parts]),
    )  # fmt: skip


def derived(
    e: Evaluation,
    nll: Tensor,
    edge_index: Tensor,
    edge_vec: Tensor,
    batch: Tensor,
    num_structures: int,
    local: bool,
    ddof: int,
) -> Prediction:
    """The prediction of M members.

    Aleatoric terms are means over members, epistemic ones the covariance of the members' values (`ddof` 0:
    the mixture's moments, 1: unbiased). With `local` the slopes are those of every atom's own standard
    deviation, which depends on the edges of that centre alone; otherwise of one per structure, or random
    sums of them.
    """
    members, probes = e.gradients.shape[0], e.slopes.shape[0]
    empty, none = e.gradients.new_zeros(0), e.slopes[:0]
    together = probes == 0 or probes == members
    forces, aleatoric, epistemic, virial, _ = torch.ops.uqforce.force_variance(
        edge_index, edge_vec, e.gradients, e.slopes if together else none, batch, num_structures, local, ddof
    )
    if not together:
        aleatoric = torch.ops.uqforce.force_variance(
            edge_index, edge_vec, e.slopes, e.slopes, batch, num_structures, local, 0
        )[1]
    energies = over_members(e.energies)
    energy = sum_of_members(e.energies, batch, num_structures)

    energy_forces, virial_aleatoric, energy_variance = empty, empty, empty
    if e.halves.shape[0] > 0:
        energy_forces = -by_positions(edge_index, edge_vec, over_members(e.halves), batch, num_structures)
        virial_aleatoric = virial_noise(e, edge_index, edge_vec, batch, num_structures, local)
    if e.variance.shape[0] > 0:
        energy_variance = over_members(e.variance)
    has_blocks = e.diagonal.shape[0] > 0
    aleatoric = with_diagonal(matrices(aleatoric), over_members(e.diagonal)) if has_blocks else empty

    energy_epistemic, virial_epistemic = empty, empty
    energy_ensemble, forces_ensemble, virial_ensemble = empty, empty, empty
    if members > 1:
        each = [
            torch.ops.uqforce.force_variance(
                edge_index, edge_vec, e.gradients[m : m + 1], none, batch, num_structures, False, 0
            )
            for m in range(members)
        ]
        energy_ensemble = energy
        forces_ensemble = torch.stack([one[0] for one in each])
        virial_ensemble = torch.stack([one[3] for one in each])
        epistemic = matrices(epistemic)
        scale = 1.0 / (members - ddof)
        energy_spread = energy - energy.mean(0)
        energy_epistemic = energy_spread.square().sum(0) * scale
        strains = voigt(virial_ensemble - virial)
        virial_epistemic = torch.einsum("mbi,mbj->bij", strains, strains) * scale
        common = (energy_spread[:, batch].unsqueeze(2) * (forces_ensemble - forces)).sum(0) * scale
        energy_forces = energy_forces + common if energy_forces.numel() > 0 else common
    else:
        epistemic = empty

    total = added(aleatoric, epistemic)
    return Prediction(
        energies=energies,
        energy=over_members(energy),
        forces=forces,
        virial=virial,
        edge_gradient=over_members(e.gradients),
        features=e.features,
        nll=nll,
        energies_variance=over_members(e.variances),
        energy_uncertainty=root(added(energy_variance, energy_epistemic)),
        energy_uncertainty_aleatoric=root(energy_variance),
        energy_uncertainty_epistemic=root(energy_epistemic),
        forces_uncertainty=per_component(total),
        forces_uncertainty_aleatoric=per_component(aleatoric),
        forces_uncertainty_epistemic=per_component(epistemic),
        forces_covariance=total,
        forces_covariance_aleatoric=aleatoric,
        forces_covariance_epistemic=epistemic,
        energy_forces_covariance=energy_forces,
        virial_covariance=added(virial_aleatoric, virial_epistemic),
        virial_covariance_aleatoric=virial_aleatoric,
        virial_covariance_epistemic=virial_epistemic,
        energy_ensemble=energy_ensemble,
        forces_ensemble=forces_ensemble,
        virial_ensemble=virial_ensemble,
        llpr=empty,
        energy_llpr=empty,
        forces_error=empty,
    )


def of_domain(
    e: Evaluation, nll: Tensor, trace: Tensor, edge_index: Tensor, num_atoms: int, ddof: int,
    uncertain: bool,
) -> DomainPrediction:  # fmt: skip
    """What a process of a parallel engine says of its own n atoms, of `num_atoms` that it sees.

    trace [n] is that of the slopes' blocks, mean over members, of the edges of all processes; none, and nll
    none, where it is not `uncertain`.
    """
    members, own = e.energies.shape
    energy_noise, forces_noise = trace.new_zeros(0), trace.new_zeros(0)
    if e.variance.shape[0] > 0:
        energy_noise, forces_noise = e.variance.mean(0), trace / 3.0 + e.diagonal.mean(0)
    energy_spread, forces_spread = trace.new_zeros(0), trace.new_zeros(0)
    if members > 1 and uncertain:
        forces = sums_by_atom(e.gradients, edge_index, num_atoms).unsqueeze(0)
        forces = torch.ops.uqforce.ghost_exchange_vjp(forces, own).view(own, members, 3)
        energy = torch.ops.uqforce.sum_over_ranks(e.energies.sum(1))
        spread = (forces - forces.mean(1, keepdim=True)).flatten(1)
        forces_spread = spread.square().sum(1) / (3 * (members - ddof))
        energy_spread = (energy - energy.mean(0)).square().sum(0, keepdim=True) / (members - ddof)
    return DomainPrediction(
        energies=over_members(e.energies),
        edge_gradient=over_members(e.gradients),
        features=e.features,
        nll=nll,
        energies_variance=over_members(e.variances),
        energy_uncertainty=torch.sqrt(added(energy_noise, energy_spread)),
        energy_uncertainty_aleatoric=torch.sqrt(energy_noise),
        energy_uncertainty_epistemic=torch.sqrt(energy_spread),
        forces_uncertainty=torch.sqrt(added(forces_noise, forces_spread)),
        forces_uncertainty_aleatoric=torch.sqrt(forces_noise),
        forces_uncertainty_epistemic=torch.sqrt(forces_spread),
        llpr=trace.new_zeros(0),
        forces_error=trace.new_zeros(0),
    )


def virial_noise(
    e: Evaluation, edge_index: Tensor, edge_vec: Tensor, batch: Tensor, num_structures: int, local: bool
) -> Tensor:
    """Covariance of the virials' noise [B,6,6]: slopes of standard deviations by strain, and its own process.

    An off-diagonal component has half the own noise of a diagonal one: so it is unchanged by rotations.
    """
    # A virial by the slopes, for each standard deviation that there is: of every atom, or of every structure.
    whose, count = batch, num_structures
    if local:
        whose, count = torch.arange(batch.shape[0], device=batch.device), batch.shape[0]
    none = e.slopes[:0]
    virials = [
        torch.ops.uqforce.force_variance(
            edge_index, edge_vec, e.slopes[k : k + 1], none, whose, count, False, 0
        )[3]
        for k in range(e.slopes.shape[0])
    ]
    rows = voigt(torch.stack(virials))
    blocks = over_members(rows.unsqueeze(3) * rows.unsqueeze(2))
    if local:
        blocks = sum_by_structure(blocks, batch, num_structures)
    own = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], dtype=blocks.dtype, device=blocks.device)
    return blocks + e.strain.mean(0).view(-1, 1, 1) * torch.diag(own)


def voigt(matrix: Tensor) -> Tensor:
    """Symmetric part of matrix [K,B,3,3] as xx yy zz yz xz xy, [K,B,6]."""
    flat = matrix.flatten(2)
    return 0.5 * (flat[:, :, [0, 4, 8, 5, 2, 1]] + flat[:, :, [0, 4, 8, 7, 6, 3]])


def matrices(blocks: Tensor) -> Tensor:
    """blocks [N,6], xx yy zz yz xz xy -> [N,3,3]."""
    return blocks[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].view(-1, 3, 3)


def with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """matrix [N,3,3] + diagonal [N] times the identity."""
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    return matrix + diagonal.view(-1, 1, 1) * identity


def per_component(covariance: Tensor) -> Tensor:
    """sqrt(trace / 3) of covariance [N,3,3], [N]; no elements of what has none."""
    if covariance.numel() == 0:
        return covariance.flatten()
    return torch.sqrt(covariance.diagonal(dim1=1, dim2=2).sum(1) / 3.0)


def over_members(values: Tensor) -> Tensor:
    """values [M,...] -> their mean; of one member its own, not copied, and of none no elements."""
    if values.shape[0] == 1:
        return values[0]
    return values.mean(0) if values.shape[0] > 0 else values.flatten()


def root(variance: Tensor) -> Tensor:
    """The standard deviation, where there is one."""
    return torch.sqrt(variance) if variance.numel() > 0 else variance


def added(a: Tensor, b: Tensor) -> Tensor:
    """a + b, or the one that has elements."""
    if a.numel() == 0:
        return b
    if b.numel() == 0:
        return a
    return a + b
