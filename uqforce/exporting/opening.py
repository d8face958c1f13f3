"""Models opened for evaluation: exported files, model files, models in memory."""

import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uqforce._version import __version__
from uqforce.errors import InputError, ModelFileError
from uqforce.exporting.aoti import CompiledPotential
from uqforce.exporting.exported_potential import FORMAT_VERSION, ExportedPotential, metadata
from uqforce.model import Ensemble, Potential, load_model


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
