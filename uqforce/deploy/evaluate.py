"""How accurate a model is on labelled data, and how good its uncertainties are: `uqforce eval`."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uqforce.data import DataError, Frame, Keys, Units, check_types, read_frames
from uqforce.deploy.export import call, open_model
from uqforce.deploy.info import choose_device
from uqforce.deploy.tables import table
from uqforce.model import Potential
from uqforce.ops import neighbor_list
from uqforce.uncertainty import metrics
from uqforce.uncertainty.calibration import score_at_error
from uqforce.uncertainty.structure import structure_scores

ATOMS_PER_BATCH = 512
LIMIT_ERRORS = (0.1, 0.2, 0.3, 0.5)  # eV/A, rms force error of an atom


def batches(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Consecutive frames, at most `ATOMS_PER_BATCH` atoms together (or one frame)."""
    group: list[Frame] = []
    for frame in frames:
        if group and sum(map(len, group)) + len(frame) > ATOMS_PER_BATCH:
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def predict(
    module: torch.nn.Module, metadata: dict[str, Any], frames: Sequence[Frame], device: torch.device
) -> dict[str, np.ndarray]:
    """What the model says of all frames: per-atom [sum N, ...], per-structure [B, ...], all float64.

    `stress` [B,3,3] eV/A^3 is not a number for structures without a volume.
    """
    type_names = metadata["type_names"]
    check_types(frames, type_names)
    parts = []
    for group in batches(frames):
        sizes = torch.tensor([len(frame) for frame in group])
        batch = torch.arange(len(group)).repeat_interleave(sizes).to(device)

        def stacked(arrays, join=np.stack):
            return torch.from_numpy(join(arrays)).to(device)

        positions = stacked([frame.positions for frame in group], np.concatenate)
        cell, pbc = stacked([frame.cell for frame in group]), stacked([frame.pbc for frame in group])
        types = torch.tensor(
            [type_names.index(symbol) for frame in group for symbol in frame.symbols], device=device
        )
        neighbors = neighbor_list(positions, cell, pbc, metadata["cutoff"], batch)
        out = call(module, neighbors.edge_vec, neighbors.edge_index, types, batch, len(group))
        parts.append({name: out[name].detach().cpu().double().numpy() for name in out if "edge" not in name})
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    volume = np.array([frame.volume for frame in frames])
    with np.errstate(divide="ignore", invalid="ignore"):
        merged["stress"] = (
            np.where(volume > 0, 1, np.nan)[:, None, None] * -merged["virial"] / volume[:, None, None]
        )
    return merged


class Comparison:
    """Predictions beside labels, for one set of frames."""

    def __init__(self, name: str, frames: Sequence[Frame], predictions: dict[str, np.ndarray]):
        self.name, self.predictions = name, predictions
        self.sizes = np.array([len(frame) for frame in frames])
        self.structure = np.repeat(np.arange(len(frames)), self.sizes)
        self.symbols = np.array([symbol for frame in frames for symbol in frame.symbols])

        def labels(field: str, missing) -> list:
            return [missing(f) if getattr(f, field) is None else getattr(f, field) for f in frames]

        self.energy = np.array(labels("energy", lambda f: np.nan))
        self.forces = np.concatenate(labels("forces", lambda f: np.full((len(f), 3), np.nan)))
        self.stress = np.stack(labels("stress", lambda f: np.full((3, 3), np.nan)))
        self.has_energy = np.isfinite(self.energy)
        self.has_forces = np.isfinite(self.forces).all(axis=1)
        self.has_stress = np.isfinite(self.stress + predictions["stress"]).all(axis=(1, 2))
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
        if self.has_stress.any():
            found["stress"] = mae_rmse((self.stress - self.predictions["stress"])[self.has_stress])
        return found

    def uncertainty(self, bootstrap: int = 0) -> dict[str, Any]:
        """Ranking of atoms by `nll` and `forces_uncertainty`, calibration of `*_uncertainty`."""
        found: dict[str, Any] = {}
        for name in ("nll", "forces_uncertainty"):
            if name in self.predictions and self.has_forces.any():
                score = self.predictions[name][self.has_forces]
                found[name] = self.ranking(score, bootstrap)
                if name == "nll":
                    found[name]["structures"] = self.structure_ranking()
                else:
                    found[name]["calibration"] = calibration(self.force_residual.ravel(), np.repeat(score, 3))
        if "energy_uncertainty" in self.predictions and self.has_energy.any():
            std = self.predictions["energy_uncertainty"][self.has_energy]
            found["energy_uncertainty"] = {"calibration": calibration(self.energy_residual, std)}
        return found

    def structure_ranking(self) -> dict[str, dict[str, float]]:
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
        for kind, score in structure_scores(self.predictions["nll"], self.structure, count)._asdict().items():
            found[kind] = {
                "forces_rmse": metrics.spearman(score[labelled], np.sqrt(squares.mean[labelled])),
                "largest_atom_error": metrics.spearman(score[labelled], largest.max[labelled]),
                "energy_per_atom": metrics.spearman(score[with_energy], energy[with_energy])
                if with_energy.any()
                else float("nan"),
            }
        return found

    def ranking(self, score: np.ndarray, bootstrap: int) -> dict[str, Any]:
        """Spearman's correlation with the per-atom error, and detection of the largest errors."""
        error, structure = self.atom_error, self.structure[self.has_forces]
        cutoffs = {f"> {cutoff:g} eV/A": cutoff for cutoff in metrics.ATOM_ERROR_CUTOFFS}
        cutoffs["top tenth"] = float(np.quantile(error, 0.9))
        found: dict[str, Any] = {"spearman": metrics.spearman(score, error), "detection": {}}
        for label, cutoff in cutoffs.items():
            entry: dict[str, Any] = metrics.classification(score, error, cutoff)._asdict()
            entry["cutoff"] = cutoff
            if bootstrap and 0 < entry["positives"] < entry["count"]:
                interval = metrics.bootstrap(
                    lambda s, e, cutoff=cutoff: metrics.classification(s, e, cutoff).auroc,
                    structure, score, error, samples=bootstrap,
                )  # fmt: skip
                entry["auroc_95"] = [interval.low, interval.high]
            found["detection"][label] = entry
        return found


def mae_rmse(residual: np.ndarray) -> dict[str, float]:
    return {"mae": float(np.abs(residual).mean()), "rmse": float(np.sqrt(np.mean(residual**2)))}


def calibration(residual: np.ndarray, std: np.ndarray) -> dict[str, float]:
    bins = min(15, len(std))
    return {
        "nll": metrics.gaussian_nll(residual, std),
        "crps": metrics.gaussian_crps(residual, std),
        "zms": metrics.zms(residual, std),
        "ence": metrics.ence(residual, std, bins),
        "ence_bins": bins,
        "miscalibration_area": metrics.miscalibration_area(residual, std),
        "coverage_68": metrics.interval_coverage(residual, std, 0.68),
        "coverage_95": metrics.interval_coverage(residual, std, 0.95),
        "spearman": metrics.spearman(std, np.abs(residual)),
    }


def evaluate(
    model: str | os.PathLike | Potential,
    data: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    device: str = "auto",
    bootstrap: int = 0,
    keys: Keys | None = None,
    units: Units | None = None,
) -> dict[str, Any]:
    """Errors and uncertainty quality of `model` on each file of `data`; writes evaluation.json and PNG plots.

    Args:
        keys, units: names and units of the labels in the files, where they are not the usual ones.
        bootstrap: resamples of whole structures for 95 % intervals of the AUROC; 0 for none.

    Raises:
        DataError: the data cannot be read, contain elements that the model does not know, or have no labels.
    """
    from uqforce.deploy.plots import plot_bic, plot_parity, plot_uncertainty

    folder, chosen = Path(folder), choose_device(device)
    module, metadata = open_model(model, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    comparisons = []
    for path in data:
        frames = read_frames(path, keys or Keys(), units or Units())
        if all(frame.energy is None and frame.forces is None for frame in frames):
            present = ", ".join(sorted({key for frame in frames for key in frame.present})) or "none"
            raise DataError(
                f"{path} has neither energy nor forces (keys present: {present}): name them in --keys"
            )
        comparisons.append(Comparison(str(path), frames, predict(module, metadata, frames, chosen)))
    report = {
        "model": {key: metadata[key] for key in ("weights_sha256", "uqforce_version", "type_names")},
        "units": {"energy_per_atom": "eV/atom", "forces": "eV/A", "stress": "eV/A^3"},
        "sets": {
            c.name: {"structures": len(c.sizes), "atoms": int(c.sizes.sum()), "errors": c.errors(),
                     "uncertainty": c.uncertainty(bootstrap)}
            for c in comparisons
        },
        "limits": limits(comparisons),
    }  # fmt: skip
    mixture = metadata["card"].get("mixture", {})
    if mixture:
        report["model"]["mixture"] = mixture
    report = without_nan(report)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1))
    plot_parity(comparisons, folder / "parity.png")
    for name in ("nll", "forces_uncertainty"):
        if all(name in c.predictions and c.has_forces.any() for c in comparisons):
            plot_uncertainty(comparisons, name, folder / f"{name}.png")
    if len(mixture.get("trials", [])) > 1:
        plot_bic(mixture, folder / "bic.png")
    return report


def limits(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """For each score: above which value the atoms of all sets together have a given force error, eV/A."""
    labelled = [c for c in comparisons if c.has_forces.any()]
    found = {}
    for name in ("nll", "forces_uncertainty"):
        if labelled and name in labelled[0].predictions:
            score = np.concatenate([c.predictions[name][c.has_forces] for c in labelled])
            error = np.concatenate([c.atom_error for c in labelled])
            found[name] = {f"{level:g}": score_at_error(score, error, level) for level in LIMIT_ERRORS}
    return found


def without_nan(value: Any) -> Any:
    """None for what is undefined (the AUROC without positives): JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def run(args: argparse.Namespace) -> int:
    keys, units = Keys(**dict(args.keys)), Units(**dict(args.units))
    report = evaluate(args.model, args.data, args.output, args.device, args.bootstrap, keys, units)
    print(table(report))
    pictures = ", ".join(sorted(path.name for path in Path(args.output).glob("*.png")))
    print(f"\n{args.output}: evaluation.json, {pictures}")
    return 0
