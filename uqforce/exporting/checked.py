"""Exports are believed only after they have run in a new process and given what the Python model gives."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uqforce._library import LIBRARY_PATH
from uqforce.errors import ExportError

# Absolute for energies, otherwise relative to the largest value where that exceeds 1. TorchScript's optimised
# code has its own derivative formulas: its float32 gradients differ from eager ones by rounding, as either
# differs from float64.
TOLERANCE = 1e-6
TOLERANCE_OPTIMISED = {"float64": 1e-6, "float32": 1e-5}
ENERGIES = ("energy", "energies", "total energy")


def check_calls(
    model: Path,
    calls: Mapping[str, tuple[str, tuple]],
    expected: Iterable[Mapping[str, Tensor]],
    dtype: str,
) -> None:
    """Call a file's methods three times each in a process that imports torch alone, and compare the results.

    The first call runs the code as it was written and must agree to `TOLERANCE`, the last what the optimiser
    made of it, to `TOLERANCE_OPTIMISED`. Scratch files are left beside the model.

    Args:
        model: the file, in a folder of its own (`uqforce.files.atomically`).
        calls: for each case, by the name it has in messages, the method and its arguments.
        expected: what the Python model gives in each case.
        dtype: the model's, "float32" or "float64".

    Raises:
        ExportError: the process failed or gave other numbers.
    """
    results = run_in_new_process("in_new_process.py", [model, LIBRARY_PATH], list(calls.values()))
    for case, got, want in zip(calls, results, expected):
        compare(case, got[0], want, TOLERANCE)
        compare(case, got[-1], want, TOLERANCE_OPTIMISED[dtype])


def run_in_new_process(program: str, files: list[Path], cases: list) -> Any:
    """Run a program of this folder on `files` and the cases; returns the results that it leaves.

    Raises:
        ExportError: the program failed; the message is what it said.
    """
    folder = files[0].parent
    inputs, outputs = folder / "inputs", folder / "outputs"
    torch.save(cases, inputs)
    text = resources.files("uqforce.exporting").joinpath(program).read_text()
    arguments = [str(path.absolute()) for path in (*files, inputs, outputs)]
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", text, *arguments], cwd=folder,
                         capture_output=True, text=True)  # fmt: skip
    if run.returncode != 0:
        raise ExportError(f"the exported model does not run in a fresh process:\n{run.stderr.strip()}")
    return torch.load(outputs, weights_only=True)


def compare(case: str, got: Mapping[str, Tensor], want: Mapping[str, Tensor], tolerance: float) -> None:
    """Compare everything that is wanted of one case with what the exported model gives.

    Raises:
        ExportError: a result is another; the message names it and the case.
    """
    for key, value in want.items():
        what = f"the exported model gives another {key} of {case} than the Python model"
        if got[key].shape != value.shape:
            shapes = f"shape {list(got[key].shape)} for {list(value.shape)}"
            raise ExportError(f"{what}: {shapes}; no file was written")
        if value.numel() == 0:
            continue
        # The energies of free atoms are large and say nothing of the network.
        scale = 1.0 if key in ENERGIES else max(1.0, value.abs().max().item())
        error = (got[key] - value).abs().max().item() / scale
        if not error <= tolerance:
            raise ExportError(
                f"{what}: difference {error:.1e}, at most {tolerance:.0e} is accepted; no file was written"
            )
