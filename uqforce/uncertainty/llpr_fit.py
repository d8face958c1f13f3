"""Fitting the last-layer rigidity: the second derivative of the training loss by the last linear map."""

from typing import NamedTuple

import torch
from torch import Tensor

from uqforce.data import Batch, Dataset, ordered_batches
from uqforce.errors import FitError
from uqforce.model import Potential
from uqforce.model.predict import graph_of
from uqforce.model.prediction import by_positions, sum_by_structure

REGULARISER = 1e-6  # of the largest eigenvalue


class RigidityFit(NamedTuple):
    factor: Tensor  # [D,D] float64: the inverse second derivative is factor @ factor.T
    eigenvalues: Tensor  # [D] ascending, of the second derivative without regulariser
    energy_rmse: float  # eV, of the training structures: what energies are weighed by
    forces_rmse: float  # eV/A, likewise, components


class Jacobian(NamedTuple):
    """Derivatives by the last linear map's weights, float64, and errors."""

    energy: Tensor  # [B,D]
    forces: Tensor  # [N,3,D]
    energy_error: Tensor  # [B]
    forces_error: Tensor  # [N,3]


def jacobian(potential: Potential, b: Batch) -> Jacobian:
    """Of the energies and forces of a batch; one backward pass for each of the D weights."""
    graph = graph_of(b)
    edge_vec = graph.edge_vec.requires_grad_(True)
    edges = potential.network.embed(graph)
    features = potential.network.features(edges, graph)
    energies = potential.network.energies(features, edges, graph)
    energies = energies.mean(0)  # of heads, which are alike here: linear maps of the same features
    rows = features.double() * potential.energy_scales(b.atom_types).detach().unsqueeze(1)
    totals = [rows.sum(0)[d] for d in range(rows.shape[1])] + [energies.sum()]
    forces = []
    for total in totals:
        gradient = torch.autograd.grad(total, edge_vec, retain_graph=True)[0]
        forces.append(-by_positions(gradient, graph))
    return Jacobian(
        sum_by_structure(rows.detach(), b.batch, b.num_structures),
        torch.stack(forces[:-1], -1),
        b.energy - sum_by_structure(energies.detach(), b.batch, b.num_structures),
        b.forces - forces[-1],
    )


def fit_rigidity(
    potential: Potential, dataset: Dataset, regulariser: float = REGULARISER, batch_size: int = 8
) -> RigidityFit:
    """Fit the rigidity to the labels of `dataset` (the training set) and store it in the potential.

    The loss is that of a likelihood, squared errors of energies and of force components over the mean squares
    of the errors that the model makes of them: so rigidities are standard deviations in eV. `regulariser`,
    added to the second derivative's diagonal in units of its largest eigenvalue, bounds the variance in
    directions of which the training data say nothing. card["llpr"] says how it was fitted.

    Raises:
        FitError: no labels, or a regulariser that is not positive.
    """
    if not regulariser > 0:
        raise FitError(f"the regulariser must be positive, got {regulariser}")
    potential.eval()
    d = potential.network.num_last_features
    of_energy, of_forces = torch.zeros(2, d, d, dtype=torch.float64)
    squares, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    for b in ordered_batches(dataset, batch_size, title="derivatives"):
        j, atoms = jacobian(potential, b), b.has_forces[b.batch]
        energy, forces = j.energy[b.has_energy], j.forces[atoms].flatten(0, 1)
        of_energy += energy.T @ energy
        of_forces += forces.T @ forces
        errors = j.energy_error[b.has_energy], j.forces_error[atoms]
        squares += torch.stack([error.square().sum() for error in errors])
        counts += torch.tensor([error.numel() for error in errors])
    if not counts.any():
        raise FitError(
            "the structures have neither energies nor forces: the rigidity is that of a fit to them"
        )
    mean_squares = squares / counts.clamp(min=1)
    hessian = sum(part / square for part, square in zip((of_energy, of_forces), mean_squares) if square > 0)
    eigenvalues, axes = torch.linalg.eigh(hessian)
    factor = axes / torch.sqrt(eigenvalues.clamp(min=0) + regulariser * eigenvalues[-1])
    energy_rmse, forces_rmse = mean_squares.sqrt().tolist()
    fit = RigidityFit(factor, eigenvalues, energy_rmse, forces_rmse)
    potential.rigidity.store(factor)
    potential.card["llpr"] = {
        "structures": len(dataset),
        "regulariser": regulariser,
        "eigenvalues": [eigenvalues[0].item(), eigenvalues[-1].item()],
        "energy_rmse": energy_rmse,
        "forces_rmse": forces_rmse,
    }
    return fit
