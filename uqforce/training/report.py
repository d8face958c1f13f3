"""What a finished run shows: errors of every set of frames, and plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from uqforce.data import Dataset
from uqforce.evaluation import tables
from uqforce.evaluation.comparison import Comparison
from uqforce.model.predict import predict_dataset


def write_report(model: torch.nn.Module, sets: dict[str, Dataset], directory: Path) -> str:
    """Write report.txt, report.json and parity.png into `directory`; returns the table."""
    from uqforce.evaluation import plots  # not above: training does not wait for matplotlib

    names = ("energy", "forces", "virial")
    comparisons = [
        Comparison(name, dataset, predict_dataset(model, dataset, names, batch_size=8))
        for name, dataset in sets.items()
    ]
    found = {comparison.name: comparison.described() for comparison in comparisons}
    text = tables.errors(list(found.items()))
    (directory / "report.txt").write_text(text + "\n")
    (directory / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    plots.plot_parity(comparisons, directory / "parity.png")
    return text


def write_learning_curves(directory: Path) -> None:
    """Draw the metrics.csv of a run as its learning_curves.png."""
    from uqforce.evaluation import plots

    with open(directory / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
    plots.plot_learning_curves(columns, directory / "learning_curves.png")
