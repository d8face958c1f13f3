"""How good an uncertainty is: proper scores, calibration, ranking.

Two kinds of uncertainty are judged here. A *standard deviation* `std` belongs to a residual of the same
unit (energy in eV, force component in eV/A) and has calibration and proper scores. A *score*, such as the
mixture's `nll`, only ranks: it is compared with an error by Spearman, AUROC, AUPRC and sparsification.

All functions take one-dimensional arrays (anything `numpy.asarray` takes) and return plain floats. They raise
`InputError` for lengths that differ, values that are not finite, standard deviations that are not positive.
The value that a calibrated model has is in the docstrings; where there is none (ENCE, Spearman), compare with
simulated residuals `std * normal` and give `bootstrap` intervals over structures.

Residuals that are vectors, forces with their 3x3 covariances, are in `uqforce.evaluation.vectors`.
"Zhu et al." is J. Chem. Phys. 158, 164111 (2023), "Rensmeyer et al." arXiv:2304.03694.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from uqforce.errors import InputError

ATOM_ERROR_CUTOFFS = (0.1, 0.2)  # eV/A: an atom whose RMS force error is above counts as badly predicted


def _vectors(**arrays) -> list[np.ndarray]:
    """The arrays as float64 vectors of one length, checked."""
    vectors = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    shapes = {name: vector.shape for name, vector in vectors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise InputError(f"need one-dimensional arrays of one length, got shapes {shapes}")
    for name, vector in vectors.items():
        if vector.size == 0:
            raise InputError(f"{name} is empty")
        if not np.isfinite(vector).all():
            bad = np.count_nonzero(~np.isfinite(vector))
            raise InputError(f"{name} has {bad} values that are not finite, of {vector.size}")
        if name == "std" and (vector <= 0).any():
            raise InputError(f"std must be positive, its smallest value is {vector.min():g}")
    return list(vectors.values())


def atom_force_error(predicted, reference) -> np.ndarray:
    """Per-atom RMS of the force error, [N,3], [N,3] -> [N] eV/A: sqrt(|dF_i|^2 / 3) (Zhu et al., Eq. 2)."""
    difference = np.asarray(predicted, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if difference.ndim != 2 or difference.shape[1] != 3:
        raise InputError(f"forces must be [N, 3], got {difference.shape}")
    return np.sqrt(np.mean(difference**2, axis=1))


# Proper scores: lower is better, whatever the model.


def gaussian_nll(residual, std) -> float:
    """Mean Gaussian negative log-likelihood, 1/2 [ln(2 pi std^2) + (residual/std)^2], nats."""
    residual, std = _vectors(residual=residual, std=std)
    return float(np.mean(0.5 * (np.log(2 * np.pi * std**2) + (residual / std) ** 2)))


def gaussian_crps(residual, std) -> float:
    """Mean continuous ranked probability score, in the residual's unit (Gneiting, Raftery 2007)."""
    residual, std = _vectors(residual=residual, std=std)
    z = residual / std
    return float(np.mean(std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))))


def interval_score(residual, std, level: float = 0.95) -> float:
    """Mean Winkler score of the central Gaussian interval: its width + 2/(1-level) * how far outside."""
    residual, std = _vectors(residual=residual, std=std)
    half = norm.ppf(0.5 + _level(level) / 2) * std
    return float(np.mean(2 * half + 2 / (1 - level) * np.maximum(np.abs(residual) - half, 0)))


def relative_log_likelihood(residual, std, floor: float = 1e-3) -> float:
    """Where the log-likelihood stands between a constant std, the RMSE (0), and an oracle, |residual| (1).

    Negative when `std` does worse than the constant. `floor` bounds the oracle's std from below, in units of
    the RMSE (one exact prediction would make its likelihood infinite).
    """
    residual, std = _vectors(residual=residual, std=std)
    rmse = np.sqrt(np.mean(residual**2))
    if rmse == 0:
        raise InputError("all residuals are zero: the relative log-likelihood is undefined")
    constant = gaussian_nll(residual, np.full_like(std, rmse))
    oracle = gaussian_nll(residual, np.maximum(np.abs(residual), floor * rmse))
    return (gaussian_nll(residual, std) - constant) / (oracle - constant)


# Calibration: does an error of the size that was promised occur as often as promised?


class Reliability(NamedTuple):
    """Equal-count bins by ascending `std`: promised and observed error of each, [bins]."""

    rmv: np.ndarray  # root mean variance, sqrt(mean std^2)
    rmse: np.ndarray  # root mean square residual


def reliability(residual, std, bins: int = 15) -> Reliability:
    """The RMV-RMSE diagram; a calibrated model lies on the diagonal."""
    residual, std = _vectors(residual=residual, std=std)
    if not 1 <= bins <= len(std):
        raise InputError(f"bins must be between 1 and the number of residuals {len(std)}, got {bins}")
    groups = np.array_split(np.argsort(std, kind="stable"), bins)
    mean_square = [(np.mean(std[g] ** 2), np.mean(residual[g] ** 2)) for g in groups]
    return Reliability(*np.sqrt(np.transpose(mean_square)))


def ence(residual, std, bins: int = 15) -> float:
    """Expected normalised calibration error, mean |RMV - RMSE| / RMV over `bins` (Levi et al. 2022).

    Depends on `bins`; calibrated residuals give about sqrt(bins / (pi n)), not 0 (Pernot 2023).
    """
    rmv, rmse = reliability(residual, std, bins)
    return float(np.mean(np.abs(rmv - rmse) / rmv))


def zms(residual, std) -> float:
    """Mean of z^2, z = residual/std: 1 when calibrated, above 1 when overconfident (Pernot 2024)."""
    residual, std = _vectors(residual=residual, std=std)
    return float(np.mean((residual / std) ** 2))


def rzv(residual, std) -> float:
    """Root of the variance of z = residual/std: 1 when calibrated; blind to a bias, unlike `zms`."""
    residual, std = _vectors(residual=residual, std=std)
    return float(np.std(residual / std))


def dispersion(std) -> float:
    """Coefficient of variation of the standard deviations: 0 when all are the same."""
    (std,) = _vectors(std=std)
    return float(np.std(std) / np.mean(std))


def sharpness(std) -> float:
    """Root mean square of the standard deviations, in their unit."""
    (std,) = _vectors(std=std)
    return float(np.sqrt(np.mean(std**2)))


def interval_coverage(residual, std, level: float = 0.95) -> float:
    """Share of residuals inside the central Gaussian interval of probability `level`, the target."""
    residual, std = _vectors(residual=residual, std=std)
    return float(np.mean(np.abs(residual) <= norm.ppf(0.5 + _level(level) / 2) * std))


def interval_width(std, level: float = 0.95) -> float:
    """Mean width of the central Gaussian intervals of probability `level`, in the unit of `std`."""
    (std,) = _vectors(std=std)
    return float(2 * norm.ppf(0.5 + _level(level) / 2) * np.mean(std))


def coverage_curve(residual, std, levels) -> np.ndarray:
    """`interval_coverage` at each of `levels`, all at once: the curve whose ideal is the diagonal."""
    residual, std = _vectors(residual=residual, std=std)
    reached = np.sort(2 * norm.cdf(np.abs(residual / std)) - 1)
    return np.searchsorted(reached, np.asarray(levels, dtype=np.float64), side="right") / len(reached)


def conformal_factor(residual, std, structure, level: float = 0.9) -> float:
    """The q for which |residual| <= q std has probability >= `level` on an exchangeable new structure.

    Split-conformal prediction by structure: the entries of one structure share the weight 1/(B+1), and
    1/(B+1) lies at infinity (Lee, Barber, Willett, arXiv:2306.06342); with one entry a structure it is the
    ceil((B+1) level)-th smallest |residual| / std. Infinite if B structures are too few for the level.
    """
    residual, std = _vectors(residual=residual, std=std)
    _, index, counts = np.unique(np.asarray(structure), return_inverse=True, return_counts=True)
    score = np.abs(residual / std)
    order = np.argsort(score, kind="stable")
    mass = np.cumsum(1 / counts[index[order]]) / (len(counts) + 1)
    # sums of shares that reach the level do so up to rounding
    reached = np.searchsorted(mass, _level(level) - 1e-12)
    return float(score[order[reached]]) if reached < len(score) else float("inf")


def nece(residual, std, width: float | None = None) -> float:
    """Normalised expected calibration error over bins of the signed residual (Rensmeyer et al., Sec. 4).

    sum_b f_b |f_b - p_b| / width, with f_b the observed share of a bin and p_b the promised one, the mean of
    the Gaussians' probabilities: an integral of densities, in 1 / the residual's unit, 0 when calibrated but
    for the bins' noise. `width` defaults to a tenth of the RMSE.
    """
    residual, std = _vectors(residual=residual, std=std)
    width = 0.1 * float(np.sqrt(np.mean(residual**2))) if width is None else width
    if not width > 0:
        raise InputError(f"the bins' width must be positive, got {width}")
    bins, counts = np.unique(np.floor(residual / width), return_counts=True)
    observed = counts / len(residual)
    promised = [np.mean(norm.cdf((b + 1) * width / std) - norm.cdf(b * width / std)) for b in bins]
    return float(np.sum(observed * np.abs(observed - promised)) / width)


def miscalibration_area(residual, std) -> float:
    """Integral over p of |coverage(p) - p|, without a grid: 0 is best, 1/2 the worst."""
    residual, std = _vectors(residual=residual, std=std)
    # coverage(p) is the distribution function of these values: it steps by 1/n at each
    steps = np.concatenate([[0.0], np.sort(2 * norm.cdf(np.abs(residual / std)) - 1), [1.0]])
    coverage = np.arange(len(steps) - 1) / (len(steps) - 2)
    integral = [(p - coverage) * np.abs(p - coverage) / 2 for p in (steps[:-1], steps[1:])]
    return float(np.sum(integral[1] - integral[0]))


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    return level


# Ranking: does a larger score go with a larger error?


class Classification(NamedTuple):
    """Finding the errors above a cut-off by their score."""

    auroc: float  # 1/2 for a useless score; nan when no error, or every error, is above the cut-off
    auprc: float  # average precision; the fraction of positives for a useless score
    positives: int
    count: int  # type: ignore[assignment]  # tuples have a method of this name


def classification(score, error, cutoff: float) -> Classification:
    """AUROC and AUPRC of `score` for `error > cutoff`, with the number of positives."""
    score, error = _vectors(score=score, error=error)
    bad = error > cutoff
    positives, count = int(np.count_nonzero(bad)), len(bad)
    if positives in (0, count):
        return Classification(float("nan"), float("nan"), positives, count)
    return Classification(
        float(roc_auc_score(bad, score)), float(average_precision_score(bad, score)), positives, count
    )


def spearman(score, error) -> float:
    """Spearman's rank correlation; nan when either is constant."""
    score, error = _vectors(score=score, error=error)
    if np.ptp(score) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(spearmanr(score, error).statistic)


class Rates(NamedTuple):
    """True positive rate TP/(TP+FN) and positive predictive value TP/(TP+FP); nan where undefined."""

    tpr: np.ndarray
    ppv: np.ndarray


def detection_rates(score, error, score_cutoffs, error_cutoffs) -> Rates:
    """TPR and PPV of `score > score_cutoff` as a test for `error > error_cutoff` (Zhu et al., Eqs. 9-10).

    Two maps [len(score_cutoffs), len(error_cutoffs)].
    """
    score, error = _vectors(score=score, error=error)
    flagged = score > np.atleast_1d(score_cutoffs)[:, None]
    bad = error > np.atleast_1d(error_cutoffs)[:, None]
    hits = flagged.astype(np.float64) @ bad.T
    with np.errstate(invalid="ignore"):
        return Rates(hits / bad.sum(axis=1), hits / flagged.sum(axis=1)[:, None])


def retention_curve(score, error, metric: str = "rmse") -> np.ndarray:
    """Error of the k+1 samples with the lowest score, k = 0..n-1: [n] in the error's unit ("rmse" or "mae").

    The oracle is `retention_curve(error, error)`; samples of equal score stay in their order.
    """
    score, error = _vectors(score=score, error=error)
    if metric not in ("rmse", "mae"):
        raise InputError(f"metric must be 'rmse' or 'mae', got {metric!r}")
    sorted_error = np.abs(error[np.argsort(score, kind="stable")])
    kept = np.arange(1, len(error) + 1)
    if metric == "mae":
        return np.cumsum(sorted_error) / kept
    return np.sqrt(np.cumsum(sorted_error**2) / kept)


def ause(score, error, metric: str = "rmse") -> float:
    """Area between retention curve and oracle, over that of a useless score: 0 is best, about 1 useless.

    The useless score's curve is the error of the whole set at every fraction. nan when all errors are equal.
    """
    score, error = _vectors(score=score, error=error)
    curve, oracle = retention_curve(score, error, metric), retention_curve(np.abs(error), error, metric)
    useless = np.sum(oracle[-1] - oracle)
    return float(np.sum(curve - oracle) / useless) if useless > 0 else float("nan")


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def when_calibrated(
    statistic: Callable[..., float], std, samples: int = 100, level: float = 0.95, seed: int = 0
) -> Interval:
    """What `statistic(residual, std)` is for calibrated residuals, `std * normal`: mean and quantiles.

    The reference of numbers that have none of their own, such as `ence` or the correlation of |residual| and
    std. Components of a real structure are not independent, so that the true spread is wider.
    """
    (std,) = _vectors(std=std)
    rng = np.random.default_rng(seed)
    values = [statistic(std * rng.normal(size=len(std)), std) for _ in range(samples)]
    tail = (1 - _level(level)) / 2
    return Interval(float(np.mean(values)), *map(float, np.quantile(values, [tail, 1 - tail])))


def bootstrap(
    statistic: Callable[..., float],
    structure,
    *arrays,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`statistic(*arrays)` with its percentile confidence interval, whole structures being resampled.

    Atoms of one structure are correlated: resampling atoms would give intervals that are too narrow.
    `structure` [n] says to which structure each entry of the arrays belongs. Resamples for which the
    statistic is nan (no positive drawn) are left out.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    if any(len(array) != len(structure) for array in arrays):
        raise InputError(
            f"arrays of length {[len(a) for a in arrays]} for {len(structure)} structure indices"
        )
    values = [
        statistic(*(array[picked] for array in arrays)) for picked in resamples(structure, samples, seed)
    ]
    tail = (1 - _level(level)) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(statistic(*arrays)), float(low), float(high))


def resamples(structure, samples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Indices of the entries of as many structures as there are, drawn with replacement, `samples` times."""
    structure = np.asarray(structure)
    order = np.argsort(structure, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(structure[order])) + 1)
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
