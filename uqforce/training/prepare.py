"""From the configuration's files to data sets, atomic energies and the model's configuration."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uqforce.data import (
    Dataset,
    Frame,
    Keys,
    Statistics,
    Units,
    check_leakage,
    compute_statistics,
    isolated_energies,
    least_squares_energies,
    read_frames,
    require_labels,
    split_by_group,
    split_random,
    type_names_of,
)
from uqforce.data.store import fingerprint
from uqforce.errors import ConfigError
from uqforce.model import ModelConfig
from uqforce.training.config import DataConfig, TrainConfig
from uqforce.training.loss import PROPERTIES

log = logging.getLogger("uqforce.training")


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and is judged by."""

    model: ModelConfig
    train: Dataset
    validation: Dataset
    tests: dict[str, Dataset]
    statistics: Statistics
    data_hash: str

    @property
    def sets(self) -> dict[str, Dataset]:
        """Every set of frames by its name in the report."""
        return {"train": self.train, "validation": self.validation, **self.tests}


def prepare(config: TrainConfig, directory: Path) -> Prepared:
    """Read, split and check the frames, build their neighbour lists in `directory`/data, complete the model.

    Raises: DataError for unusable, duplicate or missing data; ConfigError for a model that does not fit it.
    """
    data = config.data
    keys, units = Keys(**data.keys), Units(**data.units)
    train, validation = _split(data, keys, units)
    tests = {name: read_frames(paths, keys, units) for name, paths in data.test.items()}
    # also the test sets: a fault in them should not wait until the training is over
    check_leakage({"train": train, "validation": validation, **tests}, data.allow_duplicates)
    if not data.allow_missing_labels:
        wanted = [name for name in PROPERTIES if getattr(config.loss, name).weight > 0]
        require_labels(train, wanted)
        require_labels(validation, wanted)
    type_names = config.model.type_names or type_names_of([*train, *validation])
    shifts = config.model.per_type_energy_shifts
    if shifts is None:
        energies = _atomic_energies(data, train, type_names, keys, units)
    else:
        energies = shifts if isinstance(shifts, dict) else dict.fromkeys(type_names, shifts)
        if missing := [name for name in type_names if name not in energies]:
            raise ConfigError(
                f"model.per_type_energy_shifts: {shifts} lacks {', '.join(missing)}: add it, in eV"
            )

    def build(frames: list[Frame], name: str) -> Dataset:
        return Dataset.build(frames, type_names, config.model.r_max, directory / "data" / f"{name}.store")

    train_set = build(train, "train")
    statistics = compute_statistics(train_set, np.array([energies[name] for name in type_names]))
    without_forces = math.isnan(statistics.forces_rms)
    model = config.model.resolve(
        type_names,
        avg_num_neighbors=statistics.avg_num_neighbors,
        scales=statistics.energy_per_atom_std if without_forces else statistics.forces_rms,
        shifts=energies,
    )
    data_hash = hashlib.sha256(f"{fingerprint(train)} {fingerprint(validation)}".encode()).hexdigest()
    test_sets = {name: build(frames, f"test_{number}") for number, (name, frames) in enumerate(tests.items())}
    return Prepared(model, train_set, build(validation, "validation"), test_sets, statistics, data_hash)


def _split(data: DataConfig, keys: Keys, units: Units) -> tuple[list[Frame], list[Frame]]:
    """Training and validation frames."""
    frames = read_frames(data.train, keys, units)
    split = data.split
    if data.validation is not None:
        return frames, read_frames(data.validation, keys, units)
    if split.by == "group":
        return split_by_group(frames, split.validation, split.seed)
    return split_random(frames, split.validation, split.train, split.seed)  # type: ignore[arg-type]


def _atomic_energies(
    data: DataConfig, frames: list[Frame], type_names: list[str], keys: Keys, units: Units
) -> dict[str, float]:
    """Energy of each type's isolated atom, eV."""
    source = data.isolated_energies
    if isinstance(source, dict):
        if missing := [name for name in type_names if name not in source]:
            raise ConfigError(f"data.isolated_energies: {source} lacks {', '.join(missing)}: add it, in eV")
        return {name: source[name] for name in type_names}
    if source == "least-squares":
        fit = least_squares_energies(frames, type_names)
        log.info(fit.report)
        values = fit.energies
    else:
        values = isolated_energies(source, type_names, keys, units)
    return dict(zip(type_names, map(float, values)))
