"""The formats of exported models. What a format needs is imported when it is written: the command line reads
this list."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uqforce.errors import ExportError, InstallationError

if TYPE_CHECKING:
    from uqforce.model import Ensemble, Potential

log = logging.getLogger("uqforce.exporting")


class Format(NamedTuple):
    """How files of a format are called, and who reads them."""

    suffixes: str
    readers: str
    needs: str = ""  # what pip installs for it


FORMATS = {
    "torchscript": Format("*.pt", "Python, C++, ASE, LAMMPS, torch-sim"),
    "aoti": Format("*.pt2", "the same, compiled for this kind of processor"),
    "nequip": Format("*.nequip.pth, *.nequip.pt2", "pair_nequip_allegro", "uqforce[nequip]"),
    "metatomic": Format("*.pt", "metatomic's engines", "metatomic-torch"),
    "nequip-state": Format("*.ckpt", "nequip, the network alone", "uqforce[nequip]"),
}


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
    try:
        return _write(potential, path, format, tabulation)
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"format {format} needs {error.name}, which is not installed: "
            f"pip install '{FORMATS[format].needs}'"
        ) from error


def _write(
    potential: Potential | Ensemble, path: str | os.PathLike, format: str, tabulation: float | None
) -> dict[str, Any]:
    if format == "nequip-state":
        return _nequip_state(potential, path, tabulation)
    if format == "nequip":
        from uqforce.exporting.pair_nequip import export_pair_nequip

        description = export_pair_nequip(potential, path, tabulation)
    elif format == "metatomic":
        from uqforce.exporting.metatomic import export_metatomic

        description = export_metatomic(potential, path, tabulation)
    else:
        from uqforce.exporting import export as own

        description = own.export(potential, path, tabulation, compiled=format == "aoti")
    _report(path, description)
    return description


def _report(path: str | os.PathLike, description: dict[str, Any]) -> None:
    from uqforce.exporting.checked import TOLERANCE, TOLERANCE_OPTIMISED

    size, types = Path(path).stat().st_size / 1e6, ", ".join(description["type_names"])
    log.info(f"{path}: {size:.1f} MB, {types}, cutoff {description['cutoff']} A")
    log.info(f"carries {', '.join(description['outputs'])}")
    if tables := description["tabulation"]:
        sizes = ", ".join(map(str, tables["intervals"]))
        log.info(f"radial networks as tables of {sizes} intervals: relative errors of energies "
                 f"{tables['energy_error']:.1e}, of forces {tables['forces_error']:.1e}")  # fmt: skip
    later = TOLERANCE_OPTIMISED[description["dtype"]]
    log.info(f"checked in a new process: equal to the Python model to {TOLERANCE}, optimised code to {later}")


def _nequip_state(
    potential: Potential | Ensemble, path: str | os.PathLike, tabulation: float | None
) -> dict[str, Any]:
    from uqforce.exporting.nequip import export_nequip

    if tabulation is not None:
        raise ExportError("tabulation has no meaning with format nequip-state: leave it out")
    export_nequip(potential, path)
    log.info(f"{path}: a checkpoint of nequip, open it with nequip.model.ModelFromCheckpoint")
    heads = {"mixture": potential.mixture.means.shape[0] > 0, "noise": potential.config.noise != "none"}
    if left := [name for name, present in heads.items() if present]:
        log.info(f"nequip has no place for the {' and the '.join(left)}, which stay behind")
    log.info("checked: nequip reads the same weights from it")
    return {"type_names": list(potential.config.type_names), "cutoff": potential.config.r_max}
