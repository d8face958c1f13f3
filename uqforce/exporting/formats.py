"""The formats of exported models. What a format needs is imported when it is written: the command line reads
this list."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uqforce.errors import ExportError, InstallationError

if TYPE_CHECKING:
    from uqforce.model import Ensemble, Potential

log = logging.getLogger("uqforce.exporting")


class Format(NamedTuple):
    """How files of a format are called, who reads them, and what writes them.

    Attributes:
        writer: "module:function" of a function of the model, the path and the tabulation, which returns the
            file's metadata; it is imported when it is called.
        needs: what pip installs for it.
    """

    suffixes: str
    readers: str
    writer: str
    needs: str = ""


FORMATS = {
    "torchscript": Format("*.pt", "Python, C++, ASE, LAMMPS, torch-sim", "uqforce.exporting.export:export"),
    "aoti": Format(
        "*.pt2", "the same, compiled for this kind of processor", "uqforce.exporting.export:export_compiled"
    ),
    "nequip": Format(
        "*.nequip.pth, *.nequip.pt2",
        "pair_nequip_allegro",
        "uqforce.exporting.pair_nequip:export_pair_nequip",
        "uqforce[nequip]",
    ),
    "metatomic": Format(
        "*.pt", "metatomic's engines", "uqforce.exporting.metatomic:export_metatomic", "metatomic-torch"
    ),
    "nequip-state": Format(
        "*.ckpt",
        "nequip, the network alone",
        "uqforce.exporting.nequip:export_nequip_state",
        "uqforce[nequip]",
    ),
}
"""A new format is a module with a writer and a line here."""


def export(
    model: str | os.PathLike | Potential | Ensemble,
    path: str | os.PathLike,
    format: str = "torchscript",
    tabulation: float | None = None,
) -> dict[str, Any]:
    """Write a model as one file for the engine that runs it; returns the file's metadata.

    The file is run in a new process and compared with the model before it appears at `path`, where it
    replaces another.

    Args:
        model: a model file (.uqf) or a model in memory.
        format: one of `FORMATS`; the suffix of `path` must be the format's.
        tabulation: relative error allowed to the tables that replace the radial networks; default 1e-6 for a
            float32 model and 1e-10 for float64; 0 keeps the networks.

    Raises:
        FileNotFoundError, ModelFileError: there is no such model.
        ExportError: another format, or the file does not run or gives other numbers; nothing is left behind.
        ModelError: no table is as exact as `tabulation`.
        InstallationError: a package that the format needs is not installed, or there is no compiler.

    Example:
        >>> import uqforce
        >>> metadata = uqforce.export("model.uqf", "exported.pt")
        >>> metadata["type_names"], metadata["cutoff"], metadata["outputs"]["forces"]
        (['Cu', 'Au'], 3.5, 'eV/A')
    """
    from uqforce.model import Ensemble, Potential, load_model

    if format not in FORMATS:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    potential = model if isinstance(model, Potential | Ensemble) else load_model(model)
    module, writer = FORMATS[format].writer.split(":")
    try:
        description = getattr(import_module(module), writer)(potential, path, tabulation)
    except ModuleNotFoundError as error:
        if not FORMATS[format].needs:  # a fault of ours: this format needs nothing that may be missing
            raise
        raise InstallationError(
            f"format {format} needs {error.name}, which is not installed: "
            f"pip install '{FORMATS[format].needs}'"
        ) from error
    _report(path, description)
    return description


def _report(path: str | os.PathLike, description: dict[str, Any]) -> None:
    from uqforce.exporting.checked import TOLERANCE, TOLERANCE_OPTIMISED

    if "outputs" not in description:  # the network alone
        return
    size, types = Path(path).stat().st_size / 1e6, ", ".join(description["type_names"])
    log.info(f"{path}: {size:.1f} MB, {types}, cutoff {description['cutoff']} A")
    log.info(f"carries {', '.join(description['outputs'])}")
    if tables := description["tabulation"]:
        sizes = ", ".join(map(str, tables["intervals"]))
        log.info(f"radial networks as tables of {sizes} intervals: relative errors of energies "
                 f"{tables['energy_error']:.1e}, of forces {tables['forces_error']:.1e}")  # fmt: skip
    later = TOLERANCE_OPTIMISED[description["dtype"]]
    log.info(f"checked in a new process: equal to the Python model to {TOLERANCE}, optimised code to {later}")
