"""Coherent noise beside its training: gamma from residuals, exact blocks of a deep standard deviation.

Source: Jorgensen, Busk, Winther, Schmidt, arXiv:2312.04174.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from uqforce.data import Dataset
from uqforce.errors import NoiseError
from uqforce.model import Potential
from uqforce.model.predict import predict_dataset
from uqforce.model.prediction import sum_by_structure


class Residuals(NamedTuple):
    """What labels say to a model's noise: N atoms of B structures, residuals are prediction - label."""

    forces: Tensor  # [N,3] eV/A
    covariance: Tensor  # [N,3,3]
    variances: Tensor  # [N] eV^2, s_i
    atom_types: Tensor  # [N]
    batch: Tensor  # [N]
    energy: Tensor  # [B] eV
    variance: Tensor  # [B] eV^2, s
    slope: Tensor  # [N,3] eV/A, d sqrt(s) / d r


def joint_gamma(r: Residuals, project_net_force: bool = False) -> float:
    """The gamma, 1/A, of greatest joint likelihood of energies and forces for noise `total`.

        gamma^2 = mean over components of (r_F + (r_E / sigma) grad sigma)^2 / s

    The mean is over the 3N components, or the 3N - 3 without net force (`project_net_force`).
    """
    given = r.forces + (r.energy / r.variance.sqrt())[r.batch, None] * r.slope
    atoms = torch.bincount(r.batch, minlength=len(r.variance)).to(r.variance.dtype)
    components = 3.0 * atoms
    if project_net_force:
        given = given - (sum_by_structure(given, r.batch, len(r.variance)) / atoms[:, None])[r.batch]
        components = components - 3.0
    return math.sqrt(float((given.square().sum(1) / r.variance[r.batch]).sum() / components.sum()))


def block_gamma(residual: Tensor, blocks: Tensor, variance: Tensor) -> float:
    """The gamma of greatest likelihood of `residual` ~ N(0, J + gamma^2 s I), rows independent.

    In the eigenbasis of J the likelihood is a sum over components; the zero of its derivative by log gamma is
    found by Brent's method.

    Args:
        residual: [n,d]; blocks: [n,d,d] J, of the slopes of standard deviations; variance: [n] s.

    Raises:
        NoiseError: the likelihood grows to gamma = 0 or to infinity.
    """
    eigenvalues, vectors = torch.linalg.eigh(blocks)
    square = (vectors.mT @ residual.unsqueeze(2)).squeeze(2).square()
    eigenvalues, own = eigenvalues.clamp(min=0.0), variance.unsqueeze(1)

    def slope(log_gamma: float) -> float:
        noise = own * math.exp(2.0 * log_gamma)
        total = eigenvalues + noise
        return float((noise / total * (1.0 - square / total)).sum())

    low, high = -15.0, 15.0
    if not slope(low) < 0.0 < slope(high):
        raise NoiseError("no gamma explains these residuals: the slopes of the variance alone exceed them")
    return math.exp(brentq(slope, low, high, xtol=1e-14))


def collect_residuals(potential: Potential, dataset: Dataset) -> Residuals:
    """Residuals of the structures of `dataset` with energy and forces.

    Raises:
        NoiseError: no structure has both.
    """
    whole = dataset.has_energy & dataset.has_forces
    if not whole.any():
        raise NoiseError("gamma is found from structures with energy and forces, and there are none")
    names = ("energy", "forces", "energy_uncertainty_aleatoric", "forces_covariance_aleatoric",
             "energies_variance", "energy_forces_covariance")  # fmt: skip
    said = predict_dataset(potential, dataset, names, batch_size=8)
    structure = np.repeat(np.arange(len(dataset)), dataset.num_atoms)
    atoms, sigma = whole[structure], said["energy_uncertainty_aleatoric"]
    columns = Residuals(
        forces=(said["forces"] - dataset.forces)[atoms],
        covariance=said["forces_covariance_aleatoric"][atoms],
        variances=said["energies_variance"][atoms],
        atom_types=dataset.atom_types[atoms],
        batch=(np.cumsum(whole) - 1)[structure][atoms],
        energy=(said["energy"] - dataset.energy)[whole],
        variance=np.square(sigma[whole]),
        slope=(-said["energy_forces_covariance"] / sigma[structure, None])[atoms],
    )
    return Residuals(*map(torch.from_numpy, columns))


def fit_gamma(potential: Potential, dataset: Dataset) -> Tensor:
    """Give coherent noise the gamma of greatest likelihood on `dataset`; returns it, [1] or [1,T] of types.

    `total` by `joint_gamma`; `local` and `local-deep` by `block_gamma` of each type's atoms, a type without
    atoms keeps its own.

    Raises:
        NoiseError: the noise is not coherent, its gamma an output or that of several heads; `block_gamma`'s.
    """
    config, noise = potential.config, potential.noise
    if config.noise not in ("total", "local", "local-deep") or config.gamma_kind == "output":
        raise NoiseError(
            f"noise {config.noise} with gamma_kind {config.gamma_kind} has no constant gamma to fit"
        )
    log_gamma = noise.gamma.log_gamma if config.noise == "total" else noise.process.log_gamma
    if len(log_gamma) > 1:
        raise NoiseError(f"the model has {len(log_gamma)} heads: gamma is fitted to a single one")
    r = collect_residuals(potential.eval(), dataset)
    with torch.no_grad():
        if config.noise == "total":
            log_gamma.fill_(math.log(joint_gamma(r, config.project_net_force)))
            return log_gamma.exp()
        own = torch.exp(2.0 * log_gamma[0].cpu())[r.atom_types] * r.variances
        blocks = r.covariance - own[:, None, None] * torch.eye(3, dtype=own.dtype)
        for t in r.atom_types.unique().tolist():
            of_type = r.atom_types == t
            log_gamma[0, t] = math.log(block_gamma(r.forces[of_type], blocks[of_type], r.variances[of_type]))
    return log_gamma.exp()
