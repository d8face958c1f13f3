"""Fitting a calibration: standard deviations, and a score, against the errors that were made with them."""

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from uqforce.data import Dataset, read_frames
from uqforce.errors import CalibrationError, ConfigError, InputError
from uqforce.evaluation import metrics
from uqforce.model import QUANTITIES, Ensemble, Potential, named, save_model
from uqforce.model.predict import predict_dataset
from uqforce.uncertainty.fit import opened

log = logging.getLogger("uqforce.uncertainty")

ATOMS_PER_GROUP = 50
LEAST_GROUP, MOST_GROUPS = 10, 20  # of an isotonic map: residuals in a group, groups
KINDS = ("scale", "isotonic", "conformal")


def score_at_error(score, error, level: float) -> float:
    """The score at which the rms error of atoms reaches `level`: a limit for dynamics, such as `--halt
    nll=...`.

    Atoms [n] are grouped by ascending score, `ATOMS_PER_GROUP` together, and the groups' mean square errors
    fitted by a non-decreasing function. nan where even the highest scores stay below `level`.

    Raises:
        InputError: arrays of different or no length, values that are not finite.
    """
    score, error = np.asarray(score, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if score.ndim != 1 or score.shape != error.shape or not len(score):
        raise InputError(f"need two arrays [n] with n > 0, got shapes {score.shape} and {error.shape}")
    if not (np.isfinite(score).all() and np.isfinite(error).all()):
        raise InputError("scores and errors must be finite")
    groups = np.array_split(np.argsort(score, kind="stable"), max(1, len(score) // ATOMS_PER_GROUP))
    centres, fitted = _isotonic(score, error**2, groups)
    reached = np.flatnonzero(fitted >= level**2)
    return float(centres[reached[0]]) if len(reached) else float("nan")


def _isotonic(
    score: np.ndarray, square: np.ndarray, groups: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Median score of each group and a non-decreasing fit of their mean squares."""
    centres = np.array([np.median(score[group]) for group in groups])
    sizes = np.array([len(group) for group in groups])
    means = [np.mean(square[group]) for group in groups]
    return centres, IsotonicRegression().fit_transform(centres, means, sample_weight=sizes)


def fit_map(std, residual, structure, kind: str = "scale", level: float = 0.9) -> np.ndarray:
    """The map of standard deviations (`uqforce.model.Calibration`), knots and values [2,K].

    Args:
        std: [n], positive; any number that errors are expected to be proportional to.
        residual: [n] or, components that share a standard deviation, [n,3].
        structure: [n], the structure of each entry.
        kind: "scale", the factor of greatest likelihood, root mean square of residual / std; "isotonic", the
            non-decreasing function, linear between groups of residuals with like std, nearest to their mean
            squares; "conformal", the factor with which central Gaussian intervals of probability `level`
            cover at least that share of a new structure's residuals (`metrics.conformal_factor`).

    Raises:
        CalibrationError: `level` needs more structures, all residuals are zero, or the kind is another.
    """
    std, structure = np.asarray(std, dtype=np.float64), np.asarray(structure)
    residual = np.asarray(residual, dtype=np.float64).reshape(len(std), -1)
    square = np.mean(residual**2, axis=1)
    if not square.any():
        raise CalibrationError("all residuals are zero: there is nothing to calibrate with")
    if kind == "isotonic":
        count = int(np.clip(len(std) // LEAST_GROUP, 1, MOST_GROUPS))
        centres, means = _isotonic(std, square, np.array_split(np.argsort(std, kind="stable"), count))
        # groups without any error, below the first that has one, would promise exactness
        means = np.maximum(means, 1e-6 * means.max())
        kept = np.concatenate([[True], np.diff(centres) > 0])
        return np.stack([centres[kept], np.sqrt(means[kept])])
    if kind == "scale":
        factor = float(np.sqrt(np.mean(square / std**2)))
    elif kind == "conformal":
        n = residual.shape[1]
        std_of, structure_of = (np.repeat(array, n) for array in (std, structure))
        quantile = metrics.conformal_factor(residual.ravel(), std_of, structure_of, level)
        factor = quantile / norm.ppf(0.5 + level / 2)
        if not np.isfinite(factor):
            raise CalibrationError(
                f"{len(np.unique(structure))} structures are too few for intervals of level {level:g}: that "
                f"takes {int(np.ceil(level / (1 - level) - 1e-9))}"
            )
    else:
        raise CalibrationError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    lowest = std.min()
    return np.array([[lowest], [factor * lowest]])


def fit_origin(score, residual) -> float:
    """The score o of greatest likelihood when errors have the variance a^2 (score - o), with a at its best.

    A mixture's score is half a squared distance plus a constant; how much of it is constant is not known.
    """
    score = np.asarray(score, dtype=np.float64)
    square = np.mean(np.asarray(residual, dtype=np.float64).reshape(len(score), -1) ** 2, axis=1)
    lowest, spread = score.min(), score.std()
    if spread == 0:
        raise CalibrationError("the score of all atoms is the same: it says nothing of their errors")

    def likelihood(log_gap: float) -> float:
        variance = score - lowest + np.exp(log_gap)
        return np.log(np.mean(square / variance)) + np.mean(np.log(variance))

    found = minimize_scalar(likelihood, bounds=np.log(spread) + np.log([1e-3, 1e3]), method="bounded")
    return float(lowest - np.exp(found.x))


class LabelledPredictions(NamedTuple):
    """What a model says of a data set beside its labels; fields of Prediction by name, float64."""

    predicted: dict[str, np.ndarray]
    energy: np.ndarray  # [B] label - prediction, nan where not labelled
    forces: np.ndarray  # [N,3]
    atoms: np.ndarray  # [B]
    structure: np.ndarray  # [N]


UNCERTAINTIES = tuple(
    name
    for name, quantity in QUANTITIES.items()
    if quantity.kind in ("score", "std") and not name.endswith(("_aleatoric", "_epistemic"))
)


def residuals(
    potential,
    dataset: Dataset,
    names: Sequence[str] = UNCERTAINTIES,
) -> LabelledPredictions:
    """Evaluate a potential, or an ensemble, on a data set; of `names` those that it carries."""
    predicted = predict_dataset(potential, dataset, (*names, "energy", "forces"))
    atoms = dataset.num_atoms
    structure = np.repeat(np.arange(len(atoms)), atoms)
    has_forces = dataset.has_forces[structure][:, None]
    return LabelledPredictions(
        energy=np.where(dataset.has_energy, dataset.energy - predicted.pop("energy"), np.nan),
        forces=np.where(has_forces, dataset.forces - predicted.pop("forces"), np.nan),
        predicted=predicted,
        atoms=atoms,
        structure=structure,
    )


def fit_calibration(
    potential, dataset: Dataset, kind: str = "scale", level: float = 0.9, score: str | None = None
) -> dict[str, Any]:
    """Calibrate a potential, or an ensemble, on labelled structures that it was not trained on.

    What it carries of `energy_uncertainty`, `forces_uncertainty` and a score is calibrated, each with its own
    map; `forces_error` is that of `score`, "nll" (by default where there is one) or "llpr". The potential's
    `calibration` is replaced and `card["calibration"]`, also returned, says how.

    Raises:
        CalibrationError: it carries no uncertainty, the data have no labels for it, or are too few.
    """
    potential.calibration.store()
    found = residuals(potential, dataset)
    carried = [name for name in named("score", "atom") if name in found.predicted]
    if score is not None and score not in carried:
        raise CalibrationError(f"the model carries no {score}: `uqforce fit` adds nll and llpr to a model")
    score = score or next(iter(carried), None)
    maps, card = {}, {"kind": kind, "structures": len(found.atoms), "atoms": len(found.structure)}
    if kind == "conformal":
        card["level"] = level

    def keep(name: str, std, residual, structure) -> None:
        if not (np.isfinite(std).all() and (std > 0).all()):
            raise CalibrationError(f"{name}: uncertainties must be positive, the smallest is {std.min():g}")
        maps[name] = fit_map(std, residual, structure, kind, level)
        ratio = np.sqrt(np.mean((residual.reshape(len(std), -1) / std[:, None]) ** 2))
        card[name] = {"knots": maps[name].shape[1], "rms_z": float(ratio)}

    has_energy, has_forces = np.isfinite(found.energy), np.isfinite(found.forces).all(axis=1)
    if "energy_uncertainty" in found.predicted and has_energy.any():
        size = np.sqrt(found.atoms[has_energy])
        std = found.predicted["energy_uncertainty"][has_energy] / size
        keep("energy", std, found.energy[has_energy] / size, np.flatnonzero(has_energy))
    forces, structure = found.forces[has_forces], found.structure[has_forces]
    if "forces_uncertainty" in found.predicted and has_forces.any():
        keep("forces", found.predicted["forces_uncertainty"][has_forces], forces, structure)
    if score is not None and has_forces.any():
        values, card["score"] = found.predicted[score][has_forces], score
        if score == "nll":
            maps["origin"] = np.array(fit_origin(values, forces))
            values = np.sqrt(values - maps["origin"])
        keep("error", values, forces, structure)
    if not maps:
        raise CalibrationError(
            "there is nothing to calibrate: the model carries no uncertainty (train it with noise or "
            "members, or give it a score with `uqforce fit`), or the data have no labels for it"
        )
    potential.calibration.store(**{name: torch.from_numpy(value) for name, value in maps.items()})
    potential.card["calibration"] = card
    return card


def calibrate(
    model: str | PathLike | Potential | Ensemble,
    data: str | PathLike | Sequence[str | PathLike],
    output: str | PathLike | None = None,
    *,
    kind: Literal["scale", "isotonic", "conformal"] = "scale",
    level: float | None = None,
    score: Literal["nll", "llpr"] | None = None,
) -> dict[str, Any]:
    """Make a model's uncertainties agree with its errors on labelled structures that it was not trained on.

    Standard deviations of energies and forces are mapped to the size of the errors, and a score becomes an
    expected force error, `forces_error` [N] eV/A; every evaluation of the model is calibrated from then on.

    Args:
        model: a model file (.uqf), or a model in memory, which is changed.
        data: files with energies or forces; anything that `read_frames` reads.
        output: the model file to write. A model file needs it; its own name stores the calibration in it.
        kind: a factor ("scale"), a monotone function ("isotonic"), a factor with guaranteed coverage
            ("conformal").
        level: conformal: probability of the intervals, 0.9 where None.
        score: which score becomes `forces_error`; None takes nll where there is one.

    Returns the card: what was calibrated on how many structures, and how wrong it was before.

    Raises:
        ConfigError: `level` of another kind, or no `output` for a model file.
        FileNotFoundError, ModelFileError, DataError: model or data cannot be read.
        CalibrationError: the model carries no uncertainty, or the data have no labels for it, or are too few.

    Source: conformal: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005).

    Example:
        >>> import uqforce
        >>> card = uqforce.calibrate("model.uqf", "test.xyz", "calibrated.uqf")
        >>> card["kind"], card["structures"], card["score"]
        ('scale', 4, 'nll')
    """
    if level is not None and kind != "conformal":
        raise ConfigError(f"level has no meaning for kind {kind}, only for conformal: leave it out")
    potential = opened(model, output)
    config = potential.config
    dataset = Dataset.build(read_frames(data), config.type_names, config.r_max)
    card = fit_calibration(potential, dataset, kind, 0.9 if level is None else level, score)
    log.info(f"{kind} calibration on {card['structures']} structures, {card['atoms']} atoms")
    meaning = {
        "energy": "energy_uncertainty",
        "forces": "forces_uncertainty",
        "error": f"forces_error from {card.get('score')}",
    }
    for name, text in meaning.items():
        if name in card:
            raw = f"rms of error / uncertainty was {card[name]['rms_z']:.3g}" if name != "error" else "new"
            log.info(f"  {text}: {raw}, {card[name]['knots']} knots")
    if output is not None:
        save_model(potential, output)
        log.info(f"stored in {output}: every evaluation is now calibrated")
    return card
