"""How a model's results follow from energies, noise and their derivatives by the edges.

Results are a dictionary by the names of `uqforce.model.quantities`, of exactly what there is.
"""

from typing import Dict, List, NamedTuple

import torch
from torch import Tensor

from uqforce.model.graph import Graph


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
    # By the edges: [K,E,3] of the noise's standard deviations, K = P M with P probes of each member ...
    sigma_gradients: Tensor
    half_variance_gradients: Tensor  # ... and [M,E,3] of half the energies' variance
    # Of a share: [1,n], traces of the blocks that the sigma_gradients of all shares make, mean over members.
    trace: Tensor


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


def by_positions(gradient: Tensor, graph: Graph) -> Tensor:
    """A gradient by edge_vec [E,3] -> by the positions [N,3]."""
    none, edge_vec = gradient.new_zeros(0, gradient.shape[0], 3), graph.edge_vec.detach().to(gradient.dtype)
    return -torch.ops.uqforce.force_variance(
        graph.edge_index,
        edge_vec,
        gradient.unsqueeze(0),
        none,
        graph.batch,
        graph.num_structures,
        False,
        0,
        1,
    )[0]


def detached(e: Evaluation) -> Evaluation:
    return Evaluation(
        e.energies.detach(),
        e.gradients.detach(),
        e.features.detach(),
        e.variances.detach(),
        e.variance.detach(),
        e.diagonal.detach(),
        e.strain.detach(),
        e.sigma_gradients.detach(),
        e.half_variance_gradients.detach(),
        e.trace.detach(),
    )


def of_member(e: Evaluation, m: int) -> Evaluation:
    """One member's part."""
    row = slice(m, m + 1)
    return Evaluation(
        e.energies[row],
        e.gradients[row],
        e.features,
        e.variances[row],
        e.variance[row],
        e.diagonal[row],
        e.strain[row],
        e.sigma_gradients[m :: e.energies.shape[0]],  # every probe has a row per member
        e.half_variance_gradients[row],
        e.trace,
    )


def joined(parts: List[Evaluation]) -> Evaluation:
    """Several evaluations of the same atoms and edges as one; the features are the first one's."""
    return Evaluation(
        torch.cat([e.energies for e in parts]), torch.cat([e.gradients for e in parts]), parts[0].features,
        torch.cat([e.variances for e in parts]), torch.cat([e.variance for e in parts]),
        torch.cat([e.diagonal for e in parts]), torch.cat([e.strain for e in parts]),
        torch.cat([e.sigma_gradients for e in parts]), torch.cat([e.half_variance_gradients for e in parts]),
        torch.cat([e.trace for e in parts]),
    )  # fmt: skip


def results_of_structures(e: Evaluation, graph: Graph, local: bool, ddof: int) -> Dict[str, Tensor]:
    """The results of M members, of whole structures.

    Aleatoric terms are means over members, epistemic ones the covariance of the members' values (`ddof` 0:
    the mixture's moments, 1: unbiased). With `local` the `sigma_gradients` are those of every atom's own
    standard deviation, which depends on the edges of that centre alone; otherwise of one per structure, or
    random sums of them.
    """
    batch, num_structures = graph.batch, graph.num_structures
    members, gradients = e.gradients.shape[0], e.gradients
    has_half_variances = e.half_variance_gradients.shape[0] > 0
    if has_half_variances:  # one more row, whose forces are the covariance of energy and forces
        gradients = torch.cat([gradients, over_members(e.half_variance_gradients)[None]])
    edge_index, edge_vec = graph.edge_index, graph.edge_vec
    forces, aleatoric, epistemic, virial, _, each_forces, each_virial, sigma_virials = (
        torch.ops.uqforce.force_variance(
            edge_index, edge_vec, gradients, e.sigma_gradients, batch, num_structures, local, ddof, members
        )
    )
    energy = sum_of_members(e.energies, batch, num_structures)
    out = {
        "energies": over_members(e.energies),
        "energy": over_members(energy),
        "forces": forces,
        "virial": virial,
        "edge_gradient": over_members(e.gradients),
        "features": e.features,
    }
    if e.variances.shape[0] > 0:
        out["energies_variance"] = over_members(e.variances)

    # Variances and covariances: of the noise, of the members, and their sums.
    if e.variance.shape[0] > 0:
        out["energy_uncertainty_aleatoric"] = over_members(e.variance)
    if e.diagonal.shape[0] > 0:
        out["forces_covariance_aleatoric"] = with_diagonal(matrices(aleatoric), over_members(e.diagonal))
    if has_half_variances:
        out["energy_forces_covariance"] = each_forces[members]
        out["virial_covariance_aleatoric"] = virial_noise(
            sigma_virials, e.strain, batch, num_structures, local
        )
    if members > 1:
        out["energy_ensemble"] = energy
        out["forces_ensemble"] = each_forces[:members]
        out["virial_ensemble"] = each_virial[:members]
        scale = 1.0 / (members - ddof)
        energy_spread = energy - energy.mean(0)
        out["energy_uncertainty_epistemic"] = energy_spread.square().sum(0) * scale
        out["forces_covariance_epistemic"] = matrices(epistemic)
        strains = voigt(out["virial_ensemble"] - virial)
        out["virial_covariance_epistemic"] = torch.einsum("mbi,mbj->bij", strains, strains) * scale
        forces_spread = out["forces_ensemble"] - forces
        common = (energy_spread[:, batch].unsqueeze(2) * forces_spread).sum(0) * scale
        if "energy_forces_covariance" in out:
            common = out["energy_forces_covariance"] + common
        out["energy_forces_covariance"] = common
    for name in ("energy_uncertainty", "forces_covariance", "virial_covariance"):
        add_parts(out, name)
    for part in ("", "_aleatoric", "_epistemic"):
        if "energy_uncertainty" + part in out:
            out["energy_uncertainty" + part] = torch.sqrt(out["energy_uncertainty" + part])
        if "forces_covariance" + part in out:
            out["forces_uncertainty" + part] = per_component(out["forces_covariance" + part])
    return out


def results_of_share(e: Evaluation, graph: Graph, ddof: int, uncertain: bool) -> Dict[str, Tensor]:
    """What a process of a parallel engine says of its share of a structure.

    These are `energies`, `edge_gradient` and `features`, and of an `uncertain` one the uncertainties: of its
    own atoms, and of the whole structure's energy.
    """
    members, own = e.energies.shape
    out = {
        "energies": over_members(e.energies),
        "edge_gradient": over_members(e.gradients),
        "features": e.features,
    }
    if e.variances.shape[0] > 0:
        out["energies_variance"] = over_members(e.variances)
    if e.variance.shape[0] > 0:
        out["energy_uncertainty_aleatoric"] = e.variance.mean(0)
        out["forces_uncertainty_aleatoric"] = e.trace.mean(0) / 3.0 + e.diagonal.mean(0)
    if members > 1 and uncertain:
        forces = sums_by_atom(e.gradients, graph.edge_index, graph.atom_types.shape[0]).unsqueeze(0)
        forces = torch.ops.uqforce.ghost_exchange_vjp(forces, own).view(own, members, 3)
        energy = torch.ops.uqforce.sum_over_ranks(e.energies.sum(1))
        spread = (forces - forces.mean(1, keepdim=True)).flatten(1)
        out["forces_uncertainty_epistemic"] = spread.square().sum(1) / (3 * (members - ddof))
        energy_spread = (energy - energy.mean(0)).square().sum(0, keepdim=True)
        out["energy_uncertainty_epistemic"] = energy_spread / (members - ddof)
    for name in ("energy_uncertainty", "forces_uncertainty"):
        add_parts(out, name)
        for part in ("", "_aleatoric", "_epistemic"):
            if name + part in out:
                out[name + part] = torch.sqrt(out[name + part])
    return out


def virial_noise(
    sigma_virials: Tensor, strain: Tensor, batch: Tensor, num_structures: int, local: bool
) -> Tensor:
    """Covariance of the virials' noise [B,6,6]: slopes of standard deviations by strain, and its own process.

    An off-diagonal component has half the own noise of a diagonal one: so it is unchanged by rotations.

    Args:
        sigma_virials: [K,B,3,3], or of every atom's standard deviation (`local`) [K,N,3,3].
        strain: [M,B], the own noise of a diagonal component.
    """
    rows = voigt(sigma_virials)
    blocks = over_members(rows.unsqueeze(3) * rows.unsqueeze(2))
    if local:
        blocks = sum_by_structure(blocks, batch, num_structures)
    own = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], dtype=blocks.dtype, device=blocks.device)
    return blocks + strain.mean(0).view(-1, 1, 1) * torch.diag(own)


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
    """sqrt(trace / 3) of covariance [N,3,3], [N]."""
    return torch.sqrt(covariance.diagonal(dim1=1, dim2=2).sum(1) / 3.0)


def over_members(values: Tensor) -> Tensor:
    """values [M,...] -> their mean; of one member its own, not copied."""
    return values[0] if values.shape[0] == 1 else values.mean(0)


def add_parts(out: Dict[str, Tensor], name: str) -> None:
    """A variance, of its aleatoric and its epistemic part as far as there are these."""
    aleatoric, epistemic = name + "_aleatoric", name + "_epistemic"
    if aleatoric in out and epistemic in out:
        out[name] = out[aleatoric] + out[epistemic]
    elif aleatoric in out:
        out[name] = out[aleatoric]
    elif epistemic in out:
        out[name] = out[epistemic]
