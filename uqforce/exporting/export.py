"""Files that run with torch and `libuqforce.so` alone: written, checked, read back."""

import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uqforce._library import LIBRARY_PATH
from uqforce._version import __version__
from uqforce.errors import ExportError, InputError, ModelFileError
from uqforce.exporting.aoti import CompiledPotential, compile_package
from uqforce.exporting.exported_potential import FORMAT_VERSION, ExportedPotential, metadata
from uqforce.model import Ensemble, Potential, load_model, sample_structure

# Absolute for energies, otherwise relative to the largest value where that exceeds 1. TorchScript's optimised
# code has its own derivative formulas: its float32 gradients differ from eager ones by rounding, as either
# differs from float64.
TOLERANCE = 1e-6
TOLERANCE_OPTIMISED = {"float64": 1e-6, "float32": 1e-5}


def scripted(module: ExportedPotential) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        # optimize_numerics would rewrite arithmetic; the file must compute what the Python model computes.
        script = torch.jit.script(module)
        return torch.jit.freeze(script, preserved_attrs=["domain", "nll_gradient"], optimize_numerics=False)


def export(
    potential: Potential | Ensemble,
    path: str | os.PathLike,
    tabulation: float | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Write `potential` to `path` with `metadata.json` inside; returns the metadata.

    The radial networks become tables; `tabulation` is the error allowed to them (default
    `uqforce.model.inference.TOLERANCE`), 0 keeps the networks. What the tables change in energies and forces
    is in the metadata.

    The file is first written beside `path`, run in a fresh process that imports torch alone, compared with
    the Python model (to `TOLERANCE`), and only then moved there.

    Args:
        compiled: an AOTInductor package, `*.pt2` (`uqforce.exporting.aoti`), instead of TorchScript. It is
            compiled for this kind of processor, which takes half a minute for each of its methods, and must
            have tables.

    Raises:
        ExportError: the fresh process failed or gave other numbers; nothing is left behind.
        ModelError: no table is as exact as `tabulation`.
    """
    path = Path(path)
    if compiled and (tabulation == 0 or path.suffix != ".pt2"):
        raise ExportError("an AOTInductor package is named *.pt2 and holds tables, not radial networks")
    module = ExportedPotential(potential, tabulation).cpu()
    zeros = torch.zeros(1, dtype=torch.int64)
    lone_atom = (
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(2, 0, dtype=torch.int64),
        zeros,
        zeros,
        1,
    )
    cases = {
        "two structures": ("forward", sample_structure(module.potential, seed=1)),
        "one atom": ("forward", lone_atom),
        "two other structures": ("forward", sample_structure(module.potential, seed=2)),
    }
    if module.has_tables:
        edge_vec, edge_index, atom_types, _, _ = cases["two structures"][1]
        part = (edge_vec, edge_index, atom_types, torch.arange(len(atom_types)), len(atom_types), True)
        cases["a domain"] = ("domain", (*part, True))
        cases["a domain without uncertainties"] = ("domain", (*part, False))
    expected = [getattr(module, method)(*arguments) for method, arguments in cases.values()]
    description = metadata(module)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".uqforce-export-") as folder:
        written = Path(folder) / path.name
        if compiled:
            description = compile_package(module, written, description)
        else:
            extra = {"metadata.json": json.dumps(description, indent=1)}
            torch.jit.save(scripted(module), str(written), _extra_files=extra)
        results = run_in_fresh_process(written, list(cases.values()), Path(folder))
        for case, got, want in zip(cases, results, expected):
            for key, value in want.items():
                compare(key, case, got[0][key], value, TOLERANCE)
                compare(key, case, got[-1][key], value, TOLERANCE_OPTIMISED[description["dtype"]])
        os.replace(written, path)
    return description


def run_in_fresh_process(model: Path, cases: list[tuple], folder: Path) -> list[list[dict[str, Tensor]]]:
    """Outputs of three calls for each method and its arguments, from a process that imports torch alone."""
    return run_program("in_new_process.py", [model, LIBRARY_PATH], cases, folder)


def run_program(name: str, given: list[Path], cases: list, folder: str | os.PathLike) -> Any:
    """What the program `name` of this folder makes of `given` files and the cases, in a fresh process."""
    inputs, outputs = Path(folder) / "inputs", Path(folder) / "outputs"
    torch.save(cases, inputs)
    program = resources.files("uqforce.exporting").joinpath(name).read_text()
    arguments = [str(path.absolute()) for path in (*given, inputs, outputs)]
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program, *arguments], cwd=folder,
                         capture_output=True, text=True)  # fmt: skip
    if run.returncode != 0:
        raise ExportError(f"the exported model does not run in a fresh process:\n{run.stderr.strip()}")
    return torch.load(outputs, weights_only=True)


def compare(key: str, case: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    what = f"the exported model gives another {key} of {case} than the Python model"
    if got.shape != want.shape:
        raise ExportError(f"{what}: shape {list(got.shape)} for {list(want.shape)}; no file was written")
    if want.numel() == 0:
        return
    # The energies of free atoms are large and say nothing of the network.
    scale = 1.0 if key in ("energy", "energies") else max(1.0, want.abs().max().item())
    error = (got - want).abs().max().item() / scale
    if not error <= tolerance:
        raise ExportError(
            f"{what}: difference {error:.1e}, at most {tolerance:.0e} is accepted; no file was written"
        )


def call(
    module: torch.nn.Module,
    edge_vec: Tensor,
    edge_index: Tensor,
    atom_types: Tensor,
    batch: Tensor,
    num_structures: int,
    nll_gradient: str | None = None,
) -> dict[str, Tensor]:
    """What `module` of `open_model` says, the same in the first call as in later ones, to the last bit.

    TorchScript's optimiser would change the rounding after the first calls (and does not make them faster);
    so a run that is continued in a new process would not be the run that was not interrupted.
    With `nll_gradient` "mean", "max" or "sum" the gradient of that score is among the results.
    """
    with torch.enable_grad(), torch.jit.optimized_execution(False):
        if nll_gradient is not None:
            return module.nll_gradient(edge_vec, edge_index, atom_types, batch, num_structures, nll_gradient)
        return module(edge_vec, edge_index, atom_types, batch, num_structures)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """`metadata.json` of an exported model, read without running anything in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, of another kind, or of a newer format; the message says which.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("extra/metadata.json")]
            text = archive.read(names[0]) if names else None
            is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        hint = (
            "truncated or damaged: export it again" if is_zip else "not an exported model (`uqforce export`)"
        )
        raise ModelFileError(f"{path} ({path.stat().st_size} bytes) is {hint}") from None
    if damaged is not None:
        raise ModelFileError(f"{path} is damaged ({damaged} fails its checksum): export it again")
    if text is None:
        kind = (
            "a TorchScript file without uqforce's metadata" if is_script else "a torch file, not TorchScript"
        )
        raise ModelFileError(f"{path} is {kind}: write it with `uqforce export model.uqf -o model.pt`")
    description = json.loads(text)
    version = description.get("format_version")
    if version is None or version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} is an exported model of format {version}, this uqforce ({__version__}) reads up to "
            f"{FORMAT_VERSION}: upgrade uqforce"
        )
    return description


def load_exported(
    path: str | os.PathLike, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The module and the metadata of an exported model.

    Raises:
        FileNotFoundError, ModelFileError: see `read_metadata` and `CompiledPotential`.
        InputError: an AOTInductor package is asked for on another device than the one it was compiled for.
    """
    description = read_metadata(path)
    if "methods" in description:
        if torch.device(device).type != "cpu":
            raise InputError(f"{path} was compiled for the cpu, not for {device}: use device='cpu'")
        return CompiledPotential(path, description), description
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(f"{path} is truncated or damaged ({reason}): export it again") from error
    return module, description


def open_model(
    model: str | os.PathLike | Potential | Ensemble, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The evaluating module and the metadata of an exported `.pt` or `.pt2`, a `.uqf`, or a model in memory.

    Raises:
        FileNotFoundError, ModelFileError: from `load_exported` or `load_model`.
    """
    if not isinstance(model, Potential | Ensemble):
        path = Path(model)
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip or path.suffix in (".pt", ".pt2"):
            return load_exported(path, device)
        model = load_model(path)
    module = ExportedPotential(model).to(device)
    return module, metadata(module)
