"""What a finished run shows: errors per property and element for every set of frames, and plots."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from uqforce.data import Dataset, batches, collate
from uqforce.model import Potential
from uqforce.model.predict import predict
from uqforce.training.epoch_metrics import UNITS
from uqforce.training.loop import evaluating
from uqforce.training.loss import PROPERTIES, structure_stress


class Comparison(NamedTuple):
    """Labels and predictions of the labelled entries of a set, float64.

    `energy` [n,2] eV/atom, `forces` [n,3,2] eV/A, `stress` [n,3,3,2] eV/A^3, last axis (label, prediction);
    `types` [n] type of each atom in `forces`.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    types: Tensor


def compare(potential: Potential, dataset: Dataset, batch_size: int = 8) -> Comparison:
    """Evaluate the potential on every frame of a dataset."""
    parts: list[Comparison] = []
    with evaluating(potential):
        for frames in batches(dataset, batch_size, seed=0, epoch=0, shuffle=False):
            batch = collate([dataset[i] for i in frames])
            predicted = predict(potential, batch)
            atoms = torch.bincount(batch.batch, minlength=batch.num_structures)
            labelled = batch.has_forces[batch.batch]
            stress = structure_stress(predicted.virial[batch.has_stress], batch.cell[batch.has_stress])
            parts.append(
                Comparison(
                    (torch.stack([batch.energy, predicted.energy], -1) / atoms[:, None])[batch.has_energy],
                    torch.stack([batch.forces, predicted.forces], -1)[labelled],
                    torch.stack([batch.stress[batch.has_stress], stress], -1),
                    batch.atom_types[labelled],
                )
            )
    return Comparison(*(torch.cat(column) for column in zip(*parts)))


def errors_of(comparison: Comparison, type_names: list[str]) -> list[dict[str, str | float | int]]:
    """Rows of property, element ("all", and each symbol for forces), MAE, RMSE, unit, number of values."""
    rows = []
    for name in PROPERTIES:
        pairs = getattr(comparison, name)
        residual = 1e3 * (pairs[..., 1] - pairs[..., 0])
        groups = {"all": residual}
        if name == "forces" and len(type_names) > 1:
            groups.update({symbol: residual[comparison.types == t] for t, symbol in enumerate(type_names)})
        for element, values in groups.items():
            if values.numel():
                rows.append(
                    {
                        "property": name,
                        "element": element,
                        "mae": values.abs().mean().item(),
                        "rmse": math.sqrt(values.square().mean().item()),
                        "unit": UNITS[name],
                        "values": values.numel(),
                    }
                )
    return rows


def table(results: dict[str, list[dict]]) -> str:
    """The errors of every set as text."""
    lines = [
        f"{'set':<14} {'property':<9} {'element':<8} {'MAE':>10} {'RMSE':>10}  {'unit':<9} {'values':>9}"
    ]
    for name, rows in results.items():
        for row in rows:
            lines.append(
                f"{name:<14} {row['property']:<9} {row['element']:<8} {row['mae']:>10.2f} "
                f"{row['rmse']:>10.2f}  {row['unit']:<9} {row['values']:>9}"
            )
    return "\n".join(lines)


def write_report(potential: Potential, sets: dict[str, Dataset], directory: Path) -> str:
    """Write report.txt, report.json and parity.png into `directory`; returns the table."""
    comparisons = {name: compare(potential, dataset) for name, dataset in sets.items()}
    results = {
        name: errors_of(comparison, potential.config.type_names) for name, comparison in comparisons.items()
    }
    text = table(results)
    (directory / "report.txt").write_text(text + "\n")
    (directory / "report.json").write_text(json.dumps(results, indent=2) + "\n")
    plot_parity(comparisons, results, directory / "parity.png")
    return text


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot_parity(comparisons: dict[str, Comparison], results: dict[str, list[dict]], path: Path) -> None:
    """Prediction against label of energies and force components, one colour per set."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
    for axis, name, unit in zip(axes, ("energy", "forces"), ("eV/atom", "eV/A")):
        low, high = math.inf, -math.inf
        for set_name, comparison in reversed(comparisons.items()):
            pairs = getattr(comparison, name).reshape(-1, 2)
            if not len(pairs):
                continue
            rmse = next(row["rmse"] for row in results[set_name] if row["property"] == name)
            # at most this many points are told apart in a plot; evenly spaced ones stand for all
            shown = pairs[:: max(1, len(pairs) // 20_000)]
            axis.plot(
                *shown.T.numpy(), ".", ms=3, alpha=0.5, label=f"{set_name}: RMSE {rmse:.1f} {UNITS[name]}"
            )
            low, high = min(low, pairs.min().item()), max(high, pairs.max().item())
        if high >= low:
            axis.plot([low, high], [low, high], color="black", lw=0.8)
            axis.legend(fontsize=8, markerscale=2)
        axis.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted {name} ({unit})", title=name)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_learning_curves(metrics: Path, path: Path) -> None:
    """Losses, RMSE of energy and forces, and learning rate against the epoch, from metrics.csv."""
    with open(metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    kinds = ("loss", "energy_rmse (meV/atom)", "forces_rmse (meV/A)")
    for axis, kind in zip(axes, kinds):
        for part in ("train", "validation"):
            axis.plot(columns["epoch"], columns[f"{part}_{kind}"], label=part)
        label = kind.replace("_rmse", " RMSE")
        axis.set(xlabel="epoch", ylabel=label)
        if min(columns[f"train_{kind}"] + columns[f"validation_{kind}"]) > 0:
            axis.set_yscale("log")
        axis.legend(fontsize=8)
    rate = axes[0].twinx()
    rate.plot(columns["epoch"], columns["lr"], color="grey", lw=0.8, ls=":")
    rate.set(yscale="log", ylabel="learning rate (dotted)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
