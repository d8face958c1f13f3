"""Predictions beside labels: errors, and what each uncertainty is worth."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from uqforce.data import Dataset, Frame
from uqforce.evaluation import metrics, quality
from uqforce.evaluation.labels import Labels
from uqforce.evaluation.structure_scores import structure_scores
from uqforce.model.quantities import named

FORCE_STDS, ENERGY_STDS = named("std", "atom"), named("std", "structure")
SCORES, ENERGY_SCORES = named("score", "atom"), named("score", "structure")
ATOM_QUANTITIES = (*SCORES, *FORCE_STDS)


class Comparison:
    """Predictions beside labels, for one set of structures.

    Args:
        predictions: by the names of `Prediction`, [B,...] of structures and [N,...] of atoms; energy, forces
            and virial must be there.
    """

    def __init__(self, name: str, structures: Sequence[Frame] | Dataset, predictions: dict[str, np.ndarray]):
        self.name, self.predictions = name, predictions
        self.symbols, self.sizes, volume, self.energy, self.forces, stress = Labels.of(structures)
        self.structure = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.has_energy = np.isfinite(self.energy)
        self.has_forces = np.isfinite(self.forces).all(axis=1)
        has_stress = np.isfinite(stress).all(axis=(1, 2)) & (volume > 0)
        predicted = -predictions["virial"][has_stress] / volume[has_stress, None, None]
        self.stress_residual = stress[has_stress] - predicted
        self.force_residual = (self.forces - predictions["forces"])[self.has_forces]
        self.atom_error = np.sqrt(np.mean(self.force_residual**2, axis=1))
        self.energy_residual = (self.energy - predictions["energy"])[self.has_energy]

    def errors(self) -> dict[str, Any]:
        """MAE and RMSE: energy per atom (eV), force components (eV/A), also per element, stress (eV/A^3)."""
        found: dict[str, Any] = {}
        if self.has_energy.any():
            found["energy_per_atom"] = mae_rmse(self.energy_residual / self.sizes[self.has_energy])
        if self.has_forces.any():
            found["forces"] = mae_rmse(self.force_residual)
            symbols = self.symbols[self.has_forces]
            found["forces_per_type"] = {
                s: mae_rmse(self.force_residual[symbols == s]) for s in np.unique(symbols)
            }
        if len(self.stress_residual):
            found["stress"] = mae_rmse(self.stress_residual)
        return found

    def described(self) -> dict[str, Any]:
        """How many structures and atoms there are, and the `errors` of their predictions."""
        return {"structures": len(self.sizes), "atoms": int(self.sizes.sum()), "errors": self.errors()}

    def carries(self, name: str) -> bool:
        """Whether this is a prediction of its own; a part that is the whole is not."""
        whole = name.removesuffix("_aleatoric").removesuffix("_epistemic")
        values = self.predictions.get(name)
        if values is None or whole == name:
            return values is not None
        return not np.array_equal(values, self.predictions[whole])

    def force_std(self, name: str) -> np.ndarray:
        """Standard deviations [n,3] of the labelled force components, of the covariance if there is one."""
        covariance = self.predictions.get(name.replace("uncertainty", "covariance"))
        if name == "forces_error" or covariance is None:
            return np.repeat(self.predictions[name][self.has_forces][:, None], 3, axis=1)
        return np.sqrt(np.diagonal(covariance[self.has_forces], axis1=1, axis2=2))

    def uncertainty(self, bootstrap: int = 0, home: "Comparison | None" = None) -> dict[str, Any]:
        """Every number about every uncertainty that the model carries, by its name (`uncertainty.quality`).

        Args:
            bootstrap: resamples of whole structures for the 95 % `intervals`; 0 for none.
            home: the set that this one is told from by the uncertainties of atoms (`auroc_shift`).
        """
        found: dict[str, Any] = {}
        structure = self.structure[self.has_forces]
        for name in ATOM_QUANTITIES if self.has_forces.any() else ():
            if not self.carries(name):
                continue
            score = self.predictions[name][self.has_forces]
            parts: list[tuple[Callable[..., quality.Quality], tuple]] = [
                (quality.of_ranking, (score, self.atom_error))
            ]
            if name in FORCE_STDS:
                parts.append((quality.of_components, (self.force_residual, self.force_std(name))))
            covariance = self.predictions.get(name.replace("uncertainty", "covariance"))
            if name in FORCE_STDS and name != "forces_error" and covariance is not None:
                parts.append((quality.of_blocks, (self.force_residual, covariance[self.has_forces])))
            found[name] = judged(parts, structure, bootstrap)
            if name in FORCE_STDS:
                std = self.force_std(name).ravel()
                bins = found[name]["ence_bins"]
                reference = metrics.when_calibrated(lambda r, s, n=bins: metrics.ence(r, s, n), std, 10)
                found[name]["ence_when_calibrated"] = reference.value
            if home is not None and home is not self:
                found[name]["auroc_shift"] = self.told_from(home, name)
            if name in SCORES:
                found[name]["structures"] = self.structure_ranking(name)
        structure = np.flatnonzero(self.has_energy)
        for name in (*ENERGY_STDS, *ENERGY_SCORES) if self.has_energy.any() else ():
            if self.carries(name):
                of = quality.of_energy if name in ENERGY_STDS else quality.of_order
                arrays = self.energy_residual, self.predictions[name][self.has_energy]
                found[name] = judged([(of, arrays)], structure, bootstrap)
        return found

    def told_from(self, home: "Comparison", name: str) -> float:
        """AUROC of structures' mean uncertainties for being of this set and not of `home`."""
        means = [structure_scores(c.predictions[name], c.structure, len(c.sizes)).mean for c in (home, self)]
        return metrics.classification(
            np.concatenate(means), np.repeat([0.0, 1.0], [len(m) for m in means]), 0.5
        ).auroc

    def structure_ranking(self, name: str) -> dict[str, dict[str, float]]:
        """Spearman's correlation of structures' scores with their errors, where all forces are labelled."""
        count = len(self.sizes)
        labelled = np.bincount(self.structure[self.has_forces], minlength=count) == self.sizes
        if not labelled.any():
            return {}
        atoms = self.structure[self.has_forces]
        squares, largest = (
            structure_scores(values, atoms, count) for values in (self.atom_error**2, self.atom_error)
        )
        energy = np.full(count, np.nan)
        energy[self.has_energy] = np.abs(self.energy_residual)
        energy /= self.sizes
        with_energy = labelled & self.has_energy
        found = {}
        for kind, score in structure_scores(self.predictions[name], self.structure, count)._asdict().items():
            found[kind] = {
                "forces_rmse": metrics.spearman(score[labelled], np.sqrt(squares.mean[labelled])),
                "largest_atom_error": metrics.spearman(score[labelled], largest.max[labelled]),
                "energy_per_atom": metrics.spearman(score[with_energy], energy[with_energy])
                if with_energy.any()
                else float("nan"),
            }
        return found


def judged(parts: list[tuple[Callable, tuple]], structure: np.ndarray, bootstrap: int) -> dict[str, Any]:
    """The numbers of all parts, (function, its arrays), together, and their intervals where asked for."""
    found: dict[str, Any] = {}
    for of, arrays in parts:
        found |= of(*arrays)
    if bootstrap:
        found["intervals"] = {}
        for of, arrays in parts:
            found["intervals"] |= quality.intervals(of, structure, *arrays, samples=bootstrap)
    return found


def mae_rmse(residual: np.ndarray) -> dict[str, float]:
    return {"mae": float(np.abs(residual).mean()), "rmse": float(np.sqrt(np.mean(residual**2)))}
