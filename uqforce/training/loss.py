"""Losses and error sums of a batch: mean squared error, Huber, Gaussian likelihood.

Every property is measured as a sum over its labelled entries together with their number, so that batches,
epochs and processes are averaged over what they hold, never as a mean of means.

| property | residual | entries per structure |
|---|---|---|
| energy | (E - E_label) / number of atoms, eV/atom (likelihood: E - E_label, eV) | 1 |
| forces | F - F_label, eV/A | 3 per atom |
| stress | S - S_label, eV/A^3 | 9 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from uqforce.errors import LossError

if TYPE_CHECKING:
    from uqforce.data import Batch
    from uqforce.model import Prediction
    from uqforce.training.config_sections import LossConfig, PropertyLoss

PROPERTIES = ("energy", "forces", "stress")
ENTRIES = (1.0, 3.0, 9.0)  # of a structure, an atom, a structure
LIKELIHOODS = ("likelihood", "marginal")
LOG_2PI = math.log(2.0 * math.pi)


class Measure(NamedTuple):
    """What one batch contributes.

    `terms` [3] float64: differentiable loss sums of energy, forces, stress.
    `tally` [4,3] float64: loss sum, sum of |residual|, sum of squared residuals, number of entries.
    """

    terms: Tensor
    tally: Tensor


def empty_tally() -> Tensor:
    return torch.zeros(4, len(PROPERTIES), dtype=torch.float64)


def structure_stress(virial: Tensor, cell: Tensor) -> Tensor:
    """Stress [B,3,3] eV/A^3 = -virial / volume, tension positive, of structures with a volume."""
    return -virial / _volume(cell)[:, None, None]


def _volume(cell: Tensor) -> Tensor:
    return (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1).abs()


def _select(values: Tensor, mask: Tensor) -> Tensor:
    return values if bool(mask.all()) else values[mask]


def count_labels(batch: Batch) -> Tensor:
    """Numbers of labelled entries of energy, forces and stress, [3] float64."""
    masks = (batch.has_energy, batch.has_forces[batch.batch], batch.has_stress)
    return torch.stack([entries * mask.sum().double() for entries, mask in zip(ENTRIES, masks)])


def residuals(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Prediction minus label, float64: energy [B] per atom, forces [N,3], stress [B,3,3]; 0 where unlabelled.

    Unlabelled entries have no gradient, whatever their placeholder labels.
    """
    has_energy, has_forces = batch.has_energy, batch.has_forces[batch.batch]
    has_stress = batch.has_stress
    atoms = torch.zeros_like(batch.energy).index_add(0, batch.batch, torch.ones_like(batch.forces[:, 0]))
    volume = torch.where(has_stress, _volume(batch.cell), 1.0)
    stress = -prediction.virial.double() / volume[:, None, None] - batch.stress
    energy = (prediction.energy.double() - batch.energy) / atoms
    forces = prediction.forces.double() - batch.forces
    return {
        "energy": torch.where(has_energy, energy, 0.0),
        "forces": torch.where(has_forces[:, None], forces, 0.0),
        "stress": torch.where(has_stress[:, None, None], stress, 0.0),
    }


def gaussian_nll(residual: Tensor, variance: Tensor) -> Tensor:
    """Negative log density of N(0, variance) at `residual`, elementwise: 1/2 [r^2/v + ln 2 pi v]."""
    return 0.5 * (residual.square() / variance + torch.log(variance) + LOG_2PI)


def block_nll(residual: Tensor, covariance: Tensor) -> Tensor:
    """Negative log density of N(0, covariance) per atom, [N], from `residual` [N,3] and `covariance` [N,3,3].

    The Cholesky factor of a 3x3 matrix in closed form: stable, elementwise over atoms, unchanged by rotations
    of residual and covariance together (unlike the likelihood of the diagonal alone). NaN where the
    covariance is not positive definite. Covariance of coherent noise: Jorgensen et al., arXiv:2312.04174.
    """
    c = covariance
    l00 = c[:, 0, 0].sqrt()
    l10, l20 = c[:, 1, 0] / l00, c[:, 2, 0] / l00
    l11 = (c[:, 1, 1] - l10.square()).sqrt()
    l21 = (c[:, 2, 1] - l20 * l10) / l11
    l22 = (c[:, 2, 2] - l20.square() - l21.square()).sqrt()
    z0 = residual[:, 0] / l00
    z1 = (residual[:, 1] - l10 * z0) / l11
    z2 = (residual[:, 2] - l20 * z0 - l21 * z1) / l22
    log_det_half = torch.log(l00) + torch.log(l11) + torch.log(l22)
    return 0.5 * (z0.square() + z1.square() + z2.square() + 3.0 * LOG_2PI) + log_det_half


def voigt(matrix: Tensor) -> Tensor:
    """Symmetric part of matrix [B,3,3] as xx yy zz yz xz xy, [B,6]."""
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    return 0.5 * (matrix[:, rows, columns] + matrix[:, columns, rows])


def dense_nll(residual: Tensor, covariance: Tensor) -> Tensor:
    """Negative log density of N(0, covariance) [B] from `residual` [B,d] and `covariance` [B,d,d]."""
    factor = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(factor, residual.unsqueeze(2), upper=False)
    log_det_half = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return 0.5 * (z.square().sum((1, 2)) + residual.shape[1] * LOG_2PI) + log_det_half


def _need(value: Tensor | None, name: str, field: str) -> Tensor:
    if value is None:
        raise LossError(
            f"loss.{field} asks for a likelihood, but the model predicts no {name}: give it "
            f"noise (model.noise: local, or total) or set loss.{field}.kind to 'mse' or 'huber'"
        )
    return value.double()


def _energy_likelihood(residual: Tensor, prediction: Prediction, batch: Batch) -> Tensor:
    spread = _select(_need(prediction.energy_uncertainty, "energy_uncertainty", "energy"), batch.has_energy)
    atoms = _select(torch.bincount(batch.batch, minlength=batch.num_structures), batch.has_energy)
    return gaussian_nll(_select(residual, batch.has_energy) * atoms, spread.square()).sum()


def _forces_likelihood(kind: str, residual: Tensor, prediction: Prediction, batch: Batch) -> Tensor:
    covariance = _need(prediction.forces_covariance, "forces_covariance", "forces")
    covariance = _select(covariance, batch.has_forces[batch.batch])
    residual = _select(residual, batch.has_forces[batch.batch])
    if kind == "marginal":
        return gaussian_nll(residual, covariance.diagonal(dim1=1, dim2=2)).sum()
    return block_nll(residual, covariance).sum()


def _stress_likelihood(residual: Tensor, prediction: Prediction, batch: Batch) -> Tensor:
    covariance = _need(prediction.virial_covariance, "virial_covariance", "stress")[batch.has_stress]
    volume = _volume(batch.cell[batch.has_stress])
    return dense_nll(voigt(residual[batch.has_stress]), covariance / volume.square().view(-1, 1, 1)).sum()


def _likelihood(field: str, kind: str, residual: Tensor, prediction: Prediction, batch: Batch) -> Tensor:
    if field == "energy":
        return _energy_likelihood(residual, prediction, batch)
    if field == "forces":
        return _forces_likelihood(kind, residual, prediction, batch)
    return _stress_likelihood(residual, prediction, batch)


def joint_forces_nll(prediction: Prediction, batch: Batch, project_net_force: bool) -> Tensor:
    """Negative log density of all forces of each structure given its energy, [B], for noise `total`.

    With sigma^2 = s, g = grad sigma, r the residuals: F given E is isotropic about what the energy's residual
    says, N(-(r_E / sigma) g, gamma^2 s I), so nothing of size [3N,3N] is made; where there is no energy label
    it is N(0, g g^T + gamma^2 s I), its inverse and determinant those of a rank-one change. With
    `project_net_force` the identity is that of forces without net force, of rank 3N - 3. 0 without forces.
    Source: Jorgensen et al., arXiv:2312.04174.
    """
    sigma = _need(prediction.energy_uncertainty, "energy_uncertainty", "forces")
    covariance = _need(prediction.energy_forces_covariance, "energy_forces_covariance", "forces")
    blocks = _need(prediction.forces_covariance, "forces_covariance", "forces")

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(batch.num_structures).index_add(0, batch.batch, values)

    atoms = torch.bincount(batch.batch, minlength=batch.num_structures)
    slope = -covariance / sigma[batch.batch, None]
    residual = torch.where(
        batch.has_forces[batch.batch, None], prediction.forces.double() - batch.forces, 0.0
    )
    of_energy = torch.where(batch.has_energy, prediction.energy.double() - batch.energy, 0.0)
    rank = 3.0 * atoms
    # The own noise is the same for all atoms: what the trace has beside the slopes.
    noise = total(blocks.diagonal(dim1=1, dim2=2).sum(1) - slope.square().sum(1)) / rank.clamp(min=1.0)
    if project_net_force:
        noise = noise * atoms / (atoms - 1.0).clamp(min=1.0)
        rank = (rank - 3.0).clamp(min=0.0)
        mean = residual.new_zeros(batch.num_structures, 3).index_add(0, batch.batch, residual)
        residual = residual - (mean / atoms.clamp(min=1)[:, None])[batch.batch]
    noise = torch.where(rank > 0, noise, 1.0)
    # Residuals are prediction - label: r_E = -sigma eps, r_F = eps grad sigma + sigma grad eps.
    given_energy = total((residual + (of_energy / sigma)[batch.batch, None] * slope).square().sum(1)) / noise
    across, along = total(slope.square().sum(1)), total((slope * residual).sum(1))
    square = total(residual.square().sum(1))
    alone = (square - along.square() / (noise + across)) / noise + torch.log1p(across / noise)
    nll = 0.5 * (torch.where(batch.has_energy, given_energy, alone) + rank * (LOG_2PI + torch.log(noise)))
    return torch.where(batch.has_forces, nll, 0.0)


def _loss_sum(
    field: str, loss: PropertyLoss, residual: Tensor, prediction: Prediction, batch: Batch
) -> Tensor:
    if loss.kind in LIKELIHOODS:
        return _likelihood(field, loss.kind, residual, prediction, batch)
    if loss.kind == "huber":
        return torch.nn.functional.huber_loss(
            residual, torch.zeros_like(residual), delta=loss.delta, reduction="sum"
        )
    return residual.square().sum()


def measure(
    prediction: Prediction, batch: Batch, config: LossConfig, project_net_force: bool = False
) -> Measure:
    """Loss sums and error sums of one batch.

    With `config.joint` the terms of energy and forces are the two factors of one likelihood, p(E) p(F | E);
    `project_net_force` is the model's.

    Raises: LossError where a likelihood is asked of a model without the uncertainty it needs.
    """
    errors = residuals(prediction, batch)
    terms = [
        joint_forces_nll(prediction, batch, project_net_force).sum()
        if config.joint and name == "forces"
        else _loss_sum(name, getattr(config, name), errors[name], prediction, batch)
        for name in PROPERTIES
    ]
    terms = torch.stack(terms)
    with torch.no_grad():
        tally = torch.stack(
            [
                terms,
                torch.stack([errors[name].abs().sum() for name in PROPERTIES]),
                torch.stack([errors[name].square().sum() for name in PROPERTIES]),
                count_labels(batch),
            ]
        )
    return Measure(terms, tally)


def measure_members(
    predictions: Sequence[Prediction], batch: Batch, config: LossConfig, project_net_force: bool = False
) -> Measure:
    """The mean of what the members' predictions measure, each by itself."""
    parts = [measure(prediction, batch, config, project_net_force) for prediction in predictions]
    return Measure(*(torch.stack(column).mean(0) for column in zip(*parts)))


def total_loss(terms: Tensor, counts: Tensor, config: LossConfig) -> Tensor:
    """Weighted sum over properties of loss sum / number of entries (of all processes), a scalar."""
    weights = terms.new_tensor([getattr(config, name).weight for name in PROPERTIES])
    if config.joint:  # one likelihood: the mean over all energies and force components together
        counts = torch.stack([counts[:2].sum(), counts[:2].sum(), counts[2]])
    return (weights * terms / counts.clamp(min=1.0)).sum()
