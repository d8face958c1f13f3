"""What this build can do, on which cards it runs, and what a model says about itself."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from uqforce._library import LIBRARY_PATH, build_info
from uqforce._version import __version__
from uqforce.device import describe_cards
from uqforce.exporting.opening import open_model
from uqforce.model import load_model


def kernels() -> dict[str, list[str]]:
    """Devices for which each op of the library has a kernel; none for an op made of others."""
    names = sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("uqforce::"))
    lacking = build_info()["without_cuda"] or []  # these have a CUDA stub, which only says so
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        short: [
            key
            for key in ("CPU", "CUDA")
            if has_kernel(name, key) and not (key == "CUDA" and short in lacking)
        ]
        for name in names
        # An overload, "op.overload", is sorted behind its op, in whose place it stands.
        for short in [name.removeprefix("uqforce::").partition(".")[0]]
    }


def describe_build(everything: bool = False) -> list[str]:
    """This build in ten lines; with `everything`, also each op and the devices it has kernels for."""
    build = build_info()
    archs = build["cuda_archs"]
    cuda = (
        f"built for {' '.join(archs)}"
        if archs
        else "not built: UQFORCE_CUDA=1 compiles them where nvcc is found (docs/building.md)"
    )
    lines = [
        f"uqforce           {__version__}",
        f"torch             {torch.__version__} (library built against {build['torch']})",
        f"Python            {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"library           {LIBRARY_PATH}",
        f"compiler          {build['compiler']}",
        f"instruction set   {build['instruction_set']} (compiled: {', '.join(build['instruction_sets'])})",
        f"threads           {torch.get_num_threads()}",
        f"CUDA kernels      {cuda}",
        f"CUDA devices      {'; '.join(describe_cards()) or 'none'}",
        f"ops               {len(kernels())} (`uqforce info --all` lists them)",
    ]
    if everything:
        ops = (
            f"op                {name}: {', '.join(keys) or 'composite'}" for name, keys in kernels().items()
        )
        lines[-1:] = ops
    return lines


def describe_model(path: str | os.PathLike, everything: bool = False) -> list[str]:
    """The card of a model file or an exported model in words; with `everything`, each entry of its metadata.

    Raises: FileNotFoundError, ModelFileError.
    """
    model: Any = load_model(path) if Path(path).suffix == ".uqf" else path
    _, metadata = open_model(model)
    if everything:
        entries = flatten(metadata)
    else:
        entries = {"file": f"{path}, {Path(path).stat().st_size / 1e3:.0f} kB"}
        if model is not path:
            metadata = metadata | {"tabulation": {}}  # made when it was opened
            entries["file"] += f", {sum(parameter.numel() for parameter in model.parameters())} weights"
        entries |= dict(card_in_words(metadata))
        entries["more"] = f"`uqforce info {path} --all`"
    width = max(map(len, entries))
    return [f"{name:<{width}}  {value}" for name, value in entries.items()]


def card_in_words(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What one wants to know of a model first, line by line."""
    card = metadata["card"]
    yield "made with", f"uqforce {metadata['uqforce_version']}, {metadata['dtype']}"
    yield "elements", " ".join(metadata["type_names"])
    yield "cutoff", f"{metadata['cutoff']} A, {metadata['num_layers']} layers"
    yield "gives", ", ".join(f"{name} ({unit})" for name, unit in metadata["outputs"].items())
    if training := card.get("training"):
        held_back = (
            f", {training['validation_frames']} to validate" if "validation_frames" in training else ""
        )
        yield "trained on", f"{training['frames']} frames of {', '.join(training['files'])}{held_back}"
    if imported := card.get("imported"):
        yield "imported", f"from {imported['from']} {imported.get('file', '')}".rstrip()
    if ensemble := card.get("ensemble"):
        yield "ensemble", ", ".join(f"{key} {value}" for key, value in flatten(ensemble).items())
    if mixture := card.get("mixture"):
        sizes = [f"{mixture[name]} {name}" for name in ("components", "features", "atoms") if name in mixture]
        yield "mixture", ", ".join(sizes)
    for quantity, named in metadata["thresholds"].items():
        yield f"{quantity} limits", ", ".join(f"{name} {value:.4g}" for name, value in named.items())
    if llpr := card.get("llpr"):
        yield "llpr", f"{llpr['structures']} structures, regulariser {llpr['regulariser']:g}"
    if calibration := card.get("calibration"):
        yield "calibration", f"{calibration['kind']}, on {calibration['structures']} structures"
    if tables := metadata.get("tabulation"):
        errors = f"energies {tables['energy_error']:.1e}, of forces {tables['forces_error']:.1e}"
        yield "tables", f"relative errors of {errors}"
    yield "weights", f"sha256 {metadata['weights_sha256']}"


def flatten(entry: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested entries as `outer.inner`, values as text."""
    flat: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            flat[prefix + key] = f"{len(value)} entries"
        elif isinstance(value, list):
            flat[prefix + key] = " ".join(map(str, value))
        else:
            flat[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return flat
