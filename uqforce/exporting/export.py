"""Files that run with torch and `libuqforce.so` alone, written as TorchScript or compiled."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from uqforce.errors import ExportError
from uqforce.exporting.aoti import compile_package
from uqforce.exporting.checked import check_calls
from uqforce.exporting.exported_potential import ExportedPotential, metadata
from uqforce.files import atomically
from uqforce.model import Ensemble, Potential, sample_structure


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
    the Python model (`uqforce.exporting.checked`), and only then moved there.

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
    cases: dict[str, tuple[str, tuple]] = {
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
    with atomically(path) as written:
        if compiled:
            description = compile_package(module, written, description)
        else:
            extra = {"metadata.json": json.dumps(description, indent=1)}
            torch.jit.save(scripted(module), str(written), _extra_files=extra)
        check_calls(written, cases, expected, description["dtype"])
    return description


def export_compiled(
    potential: Potential | Ensemble, path: str | os.PathLike, tabulation: float | None = None
) -> dict[str, Any]:
    """Write an AOTInductor package; see `export`."""
    return export(potential, path, tabulation, compiled=True)
