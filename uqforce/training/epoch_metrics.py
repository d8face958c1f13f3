"""The numbers of an epoch: errors of a tally of the loss, and the rows of metrics.csv."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from torch import Tensor

from uqforce.files import atomically
from uqforce.training.config import TrainConfig
from uqforce.training.loss import PROPERTIES, total_loss

UNITS = {"energy": "meV/atom", "forces": "meV/A", "stress": "meV/A^3"}


def errors(part: str, tally: Tensor, config: TrainConfig) -> dict[str, float]:
    """Loss, MAE and RMSE (`UNITS`; NaN without labels) of a tally, named `part_property_kind`."""
    row = {f"{part}_loss": total_loss(tally[0], tally[3], config.loss).item()}
    for column, name in enumerate(PROPERTIES):
        _, absolute, squared, count = tally[:, column].tolist()
        row[f"{part}_{name}_mae"] = 1e3 * absolute / count if count else math.nan
        row[f"{part}_{name}_rmse"] = 1e3 * math.sqrt(squared / count) if count else math.nan
    return row


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """metrics.csv with a row per epoch, atomically; the header carries the units."""
    if not rows:
        return
    with atomically(path, durable=False) as place, open(place, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_with_unit(name) for name in rows[0])
        writer.writerows(row.values() for row in rows)


def _with_unit(column: str) -> str:
    for name, unit in UNITS.items():
        if column.endswith((f"_{name}_mae", f"_{name}_rmse")):
            return f"{column} ({unit})"
    return "seconds (s)" if column == "seconds" else column
