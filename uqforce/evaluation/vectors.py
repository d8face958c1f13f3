"""Proper scores of forces as vectors: residuals [N,3] with covariances [N,3,3], eV/A and (eV/A)^2."""

import functools

import numpy as np
from scipy.special import ndtr

from uqforce.errors import InputError

POLAR, AZIMUTHS = 8, 16  # directions of a half sphere over which the energy score is averaged
ROWS = 4096  # atoms at once: the scores need POLAR * AZIMUTHS numbers of each


def _checked(residual, covariance) -> tuple[np.ndarray, np.ndarray]:
    residual, covariance = (np.asarray(array, dtype=np.float64) for array in (residual, covariance))
    if residual.ndim != 2 or residual.shape[1:] != (3,) or covariance.shape != (len(residual), 3, 3):
        raise InputError(
            f"need residuals [N,3] and covariances [N,3,3], got {residual.shape} and {covariance.shape}"
        )
    if not len(residual):
        raise InputError("residual is empty")
    if not (np.isfinite(residual).all() and np.isfinite(covariance).all()):
        raise InputError("residuals and covariances must be finite")
    smallest = np.linalg.eigvalsh(covariance).min()
    if not smallest > 0:
        raise InputError(f"covariances must be positive definite, the smallest eigenvalue is {smallest:g}")
    return residual, covariance


def block_nll(residual, covariance) -> float:
    """Mean negative log-likelihood of the 3-dimensional Gaussians per component, nats: comparable to
    `metrics.gaussian_nll`, which it equals where the covariances are diagonal.
    """
    residual, covariance = _checked(residual, covariance)
    solved = np.linalg.solve(covariance, residual[:, :, None])[:, :, 0]
    log_det = np.linalg.slogdet(covariance)[1]
    return float(np.mean((residual * solved).sum(1) + log_det) / 6 + 0.5 * np.log(2 * np.pi))


def mahalanobis(residual, covariance) -> float:
    """Mean of r^T C^-1 r / 3, the `zms` of vectors: 1 when calibrated, whatever the orientation."""
    residual, covariance = _checked(residual, covariance)
    return float(
        np.mean(np.sum(residual * np.linalg.solve(covariance, residual[:, :, None])[:, :, 0], 1)) / 3
    )


@functools.cache
def _directions() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [D,3] of a half sphere and weights [D] that sum to 1 (Gauss-Legendre by trapezium)."""
    node, weight = np.polynomial.legendre.leggauss(POLAR)
    z, angle = (node + 1) / 2, 2 * np.pi * (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS
    radius = np.sqrt(1 - z**2)[:, None]
    xy = [radius * np.cos(angle), radius * np.sin(angle)]
    vectors = np.stack([*xy, np.broadcast_to(z[:, None], xy[0].shape)], -1)
    return vectors.reshape(-1, 3), np.repeat(weight / 2 / AZIMUTHS, AZIMUTHS)


def energy_score(residual, covariance) -> float:
    """Mean energy score E|X - y| - E|X - X'| / 2 of Gaussians, eV/A: the CRPS of vectors (Gneiting, Raftery
    2007), lower is better.

    Since |v| is twice the mean of |n.v| over directions n, it is twice the mean CRPS of the projections,
    which is a formula; the mean is taken over 128 directions of a half sphere.
    """
    residual, covariance = _checked(residual, covariance)
    directions, weights = _directions()
    total = 0.0
    for start in range(0, len(residual), ROWS):
        rows = slice(start, start + ROWS)
        std = np.sqrt(np.einsum("da,nab,db->nd", directions, covariance[rows], directions, optimize=True))
        z = residual[rows] @ directions.T / std
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        crps = std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
        total += 2 * float((crps @ weights).sum())
    return total / len(residual)
