"""Everything that is judged of one uncertainty on one set of structures, as plain numbers by name."""

from collections.abc import Callable
from typing import Any

import numpy as np

from uqforce.evaluation import metrics, vectors

BINS = 15  # of reliability diagrams and ENCE
COMPONENT_ERROR = (
    0.0433641042  # eV/A, 1 kcal/mol/A: a force component beyond is badly predicted (Rensmeyer et al.)
)

Quality = dict[str, float]


def of_std(residual: np.ndarray, std: np.ndarray) -> Quality:
    """Proper scores and calibration of standard deviations [n] of residuals [n], in one unit."""
    bins = min(BINS, len(std))
    exact = not residual.any()
    return {
        "nll": metrics.gaussian_nll(residual, std),
        "crps": metrics.gaussian_crps(residual, std),
        "interval_score_95": metrics.interval_score(residual, std, 0.95),
        "relative_log_likelihood": np.nan if exact else metrics.relative_log_likelihood(residual, std),
        "zms": metrics.zms(residual, std),
        "rzv": metrics.rzv(residual, std),
        "ence": metrics.ence(residual, std, bins),
        "ence_bins": bins,
        "nece": np.nan if exact else metrics.nece(residual, std),
        "miscalibration_area": metrics.miscalibration_area(residual, std),
        **{f"coverage_{p}": metrics.interval_coverage(residual, std, p / 100) for p in (50, 68, 90, 95)},
        "width_90": metrics.interval_width(std, 0.9),
        "sharpness": metrics.sharpness(std),
        "dispersion": metrics.dispersion(std),
    }


def of_order(residual: np.ndarray, score: np.ndarray) -> Quality:
    """How well a score [n] of any unit ranks the sizes of residuals [n]."""
    error = np.abs(residual)
    return {"spearman": metrics.spearman(score, error), "ause": metrics.ause(score, error)}


def of_energy(residual: np.ndarray, std: np.ndarray) -> Quality:
    """`of_std` and `of_order`, of the energies of structures."""
    return of_std(residual, std) | of_order(residual, std)


def of_components(residual: np.ndarray, std: np.ndarray) -> Quality:
    """`of_std` for force components [N,3], and finding the large ones by their standard deviation."""
    found = metrics.classification(std.ravel(), np.abs(residual.ravel()), COMPONENT_ERROR)
    return of_std(residual.ravel(), std.ravel()) | {"auroc_components": found.auroc}


def of_blocks(residual: np.ndarray, covariance: np.ndarray) -> Quality:
    """Scores of covariances [N,3,3] of force residuals [N,3]; nan where one is singular, as those of two or
    three members are.
    """
    eigenvalues = np.linalg.eigvalsh(covariance)
    if (eigenvalues[:, 0] <= 1e-12 * eigenvalues[:, 2]).any():
        return dict.fromkeys(("block_nll", "energy_score", "block_zms"), np.nan)
    return {
        "block_nll": vectors.block_nll(residual, covariance),
        "energy_score": vectors.energy_score(residual, covariance),
        "block_zms": vectors.mahalanobis(residual, covariance),
    }


def of_ranking(score: np.ndarray, error: np.ndarray) -> Quality:
    """How well a score [N] ranks atoms' errors [N]; areas are nan where none or all are above a cut-off."""
    cutoffs = {f"_{cutoff:g}": cutoff for cutoff in metrics.ATOM_ERROR_CUTOFFS}
    cutoffs["_top_tenth"] = float(np.quantile(error, 0.9))
    found: Quality = {"spearman": metrics.spearman(score, error), "ause": metrics.ause(score, error)}
    for label, cutoff in cutoffs.items():
        at = metrics.classification(score, error, cutoff)
        found |= {f"auroc{label}": at.auroc, f"auprc{label}": at.auprc, f"positives{label}": at.positives}
    return found


def intervals(
    quality: Callable[..., Quality], structure, *arrays, samples: int, level: float = 0.95, seed: int = 0
) -> dict[str, list[float]]:
    """Percentile intervals [low, high] of each number of `quality(*arrays)`, structures being resampled."""
    drawn = [
        quality(*(array[picked] for array in arrays))
        for picked in metrics.resamples(structure, samples, seed)
    ]
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name in drawn[0]:
        values = np.array([draw[name] for draw in drawn])
        if np.isfinite(values).any():
            found[name] = np.nanquantile(values, tails).tolist()
    return found


def without_nan(value: Any) -> Any:
    """None for what is undefined (the AUROC without positives): JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
