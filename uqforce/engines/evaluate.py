"""How accurate a model is on labelled data, and how good its uncertainties are: `uqforce eval`."""

import copy
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from uqforce.data import Frame, Keys, Units, check_types, read_frames
from uqforce.device import choose_device
from uqforce.errors import DataError
from uqforce.evaluation.comparison import ATOM_QUANTITIES, Comparison
from uqforce.evaluation.quality import without_nan
from uqforce.exporting.opening import call, open_model
from uqforce.model import QUANTITIES, Graph, Potential, load_model
from uqforce.model.predict import join_predictions
from uqforce.ops import neighbor_list
from uqforce.uncertainty.calibration_fit import score_at_error

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


def predict_frames(
    module: torch.nn.Module, metadata: dict[str, Any], frames: Sequence[Frame], device: torch.device
) -> dict[str, np.ndarray]:
    """Evaluate a module of `open_model` on frames: arrays over all atoms or structures, float64."""
    type_names = metadata["type_names"]
    check_types(frames, type_names)
    parts = []
    for group in tqdm(list(batches(frames)), "evaluating", leave=False, delay=1, disable=None):
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
        parts.append({name: out[name].detach().cpu() for name in out if "edge" not in name})
    return join_predictions(parts)


def calibrated(potential: Potential, predictions: dict[str, np.ndarray], sizes: np.ndarray) -> dict[str, Any]:
    """Raw `predictions` of structures with `sizes` atoms as the potential's calibration makes them."""
    raw = {name: torch.from_numpy(predictions[name]) for name in QUANTITIES if name in predictions}
    structure = torch.arange(len(sizes)).repeat_interleave(torch.from_numpy(sizes))
    calibration = copy.deepcopy(potential.calibration).cpu()
    # Which atoms belong together is all that it reads of a graph.
    edges = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    found = calibration(raw, Graph(*edges, torch.zeros_like(structure), structure, len(sizes)))
    return predictions | {name: value.numpy() for name, value in found.items()}


def evaluate(
    model: str | os.PathLike | torch.nn.Module,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    device: str = "auto",
    bootstrap: int = 0,
    keys: Keys | None = None,
    units: Units | None = None,
) -> dict[str, Any]:
    """Judge a model on labelled structures: errors, and what each of its uncertainties is worth.

    Writes evaluation.json and PNG plots into `folder` and returns what is in the JSON file. The first file
    is the domain, from which the uncertainties of the others are told (`auroc_shift`). Of a calibrated model
    (not of an exported one) uncertainties are judged before and after their calibration.

    Args:
        model: a model file (.uqf), an exported model (.pt), or a model in memory.
        data: files with energies (eV) or forces (eV/A), each a set of its own.
        folder: where to write; it is made where it is missing.
        device: "cpu", "cuda", or "auto": CUDA where this machine and this build have it.
        bootstrap: resamples of whole structures for 95 % intervals of every number; 0 for none.
        keys, units: names and units of the labels in the files, where they are not the usual ones.

    Raises:
        FileNotFoundError, ModelFileError: there is no such model.
        DataError: the data cannot be read, contain elements that the model does not know, or have no labels.

    Example:
        >>> import uqforce
        >>> report = uqforce.evaluate("model.uqf", ["test.xyz"], "evaluation", device="cpu")
        >>> sorted(report["sets"]["test.xyz"]["errors"]["forces"])  # eV/A
        ['mae', 'rmse']
    """
    folder, chosen = Path(folder), choose_device(device)
    before: Any = model
    if not isinstance(model, torch.nn.Module) and Path(model).suffix == ".uqf":
        before = load_model(model)
    after: Any = None  # the model with its calibration, where it has one
    if isinstance(before, torch.nn.Module) and any(True for _ in before.calibration.buffers()):
        before, after = copy.deepcopy(before), before
        before.calibration.store()
    module, metadata = open_model(before, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    sets: list[list[Comparison]] = []  # each raw, and calibrated where the model can
    cost = []
    for path in [data] if isinstance(data, str | os.PathLike) else data:
        frames = read_frames(path, keys or Keys(), units or Units())
        if all(frame.energy is None and frame.forces is None for frame in frames):
            present = ", ".join(sorted({key for frame in frames for key in frame.present})) or "none"
            raise DataError(
                f"{path} has neither energy nor forces (keys present: {present}): name them in `keys` "
                "(--key energy=NAME)"
            )
        start = time.perf_counter()
        predictions = predict_frames(module, metadata, frames, chosen)
        sizes = np.array([len(frame) for frame in frames])
        cost.append((time.perf_counter() - start) / sizes.sum())
        kinds = [predictions] + ([] if after is None else [calibrated(after, predictions, sizes)])
        sets.append([Comparison(str(path), frames, kind) for kind in kinds])
    report = {
        "model": {key: metadata[key] for key in ("weights_sha256", "uqforce_version", "type_names")},
        "units": {"energy_per_atom": "eV/atom", "forces": "eV/A", "stress": "eV/A^3"},
        "sets": {
            c[0].name: {**c[0].described(), "seconds_per_atom": seconds,
                        **{kind: comparison.uncertainty(bootstrap, home)
                           for kind, comparison, home in zip(("uncertainty", "calibrated"), c, sets[0])}}
            for c, seconds in zip(sets, cost)
        },
        "limits": limits([c[0] for c in sets]),
    }  # fmt: skip
    for name in ("mixture", "calibration", "llpr"):
        if found := (metadata["card"] if after is None else after.card).get(name):
            report["model"][name] = found
    report = without_nan(report)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1))
    draw(sets, report["model"].get("mixture", {}), folder)
    return report


def draw(sets: list[list[Comparison]], mixture: dict[str, Any], folder: Path) -> None:
    """All figures, of the uncertainties that every set has; calibrated ones where there are."""
    from uqforce.evaluation import plots

    raw, last = [c[0] for c in sets], [c[-1] for c in sets]
    plots.plot_parity(raw, folder / "parity.png")
    for name in ATOM_QUANTITIES:
        if all(c.has_forces.any() and c.carries(name) for c in last):
            plots.plot_uncertainty(last, name, folder / f"{name}.png")
            plots.plot_rates(last[-1], name, folder / f"{name}_rates.png")
            plots.plot_quality(sets, name, folder / f"{name}_quality.png")
    searches = list(mixture.get("types", {}).values()) or [mixture]
    if any(len(search.get("trials", [])) > 1 for search in searches):
        plots.plot_bic(mixture, folder / "bic.png")


def limits(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """For each score: above which value the atoms of all sets together have a given force error, eV/A."""
    labelled = [c for c in comparisons if c.has_forces.any()]
    found = {}
    for name in ATOM_QUANTITIES:
        if labelled and all(c.carries(name) for c in labelled):
            score = np.concatenate([c.predictions[name][c.has_forces] for c in labelled])
            error = np.concatenate([c.atom_error for c in labelled])
            found[name] = {f"{level:g}": score_at_error(score, error, level) for level in LIMIT_ERRORS}
    return found
