"""The files of a molecular dynamics run: trajectory, log, collected frames, exact restart."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.md import MolecularDynamics

from uqforce.errors import InputError
from uqforce.files import atomically
from uqforce.model.quantities import QUANTITIES, unit_in_name

log = logging.getLogger("uqforce.engines")

APPENDED = ("trajectory.extxyz", "log.csv", "collected.extxyz")
BAROSTAT_KEYS = ("p_eps", "force_eps")


def structure(atoms: Atoms) -> dict[str, np.ndarray]:
    """The structure and its motion, as arguments of `Atoms`."""
    return {
        "numbers": atoms.numbers.copy(),
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "masses": atoms.get_masses(),
        "cell": atoms.cell.array.copy(),
        "pbc": atoms.pbc.copy(),
    }


def frame_with_results(atoms: Atoms, step: int, time_ps: float) -> Atoms:
    """A copy that carries energy, forces and stress as ASE's results, and uncertainties in arrays and info.

    ASE's extxyz writer drops results it does not know.
    """
    frame = atoms.copy()
    results = dict(atoms.calc.results)
    for name in atoms.calc.uncertainties:
        if name in results:
            value = results.pop(name)
            if np.isscalar(value):
                frame.info[name] = value
            elif len(value) == len(frame) and value.ndim <= 2:
                frame.arrays[name] = value  # matrices and members have no place in extxyz
    frame.calc = SinglePointCalculator(frame, **results)
    frame.info.update(step=step, time_ps=time_ps, temperature_K=atoms.get_temperature())
    return frame


class Records:
    """Writes trajectory.extxyz, log.csv, collected.extxyz and restart.npz in `folder`.

    Args:
        settings: of the run, stored in the restart file as they are.
        timestep: fs.
        collect: quantity -> limit above which a record is also written to collected.extxyz.
        model: hash of the model's weights, stored in the restart file.
        sizes: lengths of the files that a continued run appends to; later content is written again.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        timestep: float,
        collect: dict[str, float],
        model: str,
        sizes: dict[str, int] | None = None,
    ):
        self.folder, self.settings, self.timestep = folder, settings, timestep
        self.collect, self.model, self.continued = collect, model, sizes is not None
        self.rows: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.files = {name: (folder / name).open("a") for name in APPENDED}
        for name, file in self.files.items():
            file.truncate((sizes or {}).get(name, 0))
        self.log = csv.writer(self.files["log.csv"], lineterminator="\n")

    def row(self, atoms: Atoms, step: int) -> dict[str, float]:
        """One line of the log; the names carry the units."""
        results, kinetic = atoms.calc.results, atoms.get_kinetic_energy()
        row = {
            "step": step,
            "time_ps": step * self.timestep / 1000,
            "temperature_K": atoms.get_temperature(),
            "epot_eV": results["energy"],
            "ekin_eV": kinetic,
            "etot_eV": results["energy"] + kinetic,
        }
        if "stress" in results:
            row["volume_A3"] = atoms.get_volume()
            row["pressure_GPa"] = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
        for name, quantity in QUANTITIES.items():
            if quantity.watch and name in results:
                row[f"{name}_max{unit_in_name(quantity.unit)}"] = results[name].max()
                if name == "nll":
                    row["nll_mean"] = results["nll"].mean()
        return row

    def write(self, atoms: Atoms, step: int, dynamics: MolecularDynamics, collect: bool) -> None:
        """Record the present step, the restart file last; `collect` says whether to look at its limits."""
        row = self.row(atoms, step)
        if not self.rows:
            log.info("  ".join(f"{name:>13}" for name in row))
        if not self.files["log.csv"].tell():
            self.log.writerow(row)
        widths = [max(13, len(name)) for name in row]
        text = "  ".join(f"{value:{width}.6g}" for value, width in zip(row.values(), widths))
        log.info(text)
        self.rows.append(row)
        self.log.writerow(f"{value:.12g}" for value in row.values())
        frame = frame_with_results(atoms, step, row["time_ps"])
        ase.io.write(self.files["trajectory.extxyz"], frame, format="extxyz")
        above = (atoms.calc.results[name].max() > limit for name, limit in self.collect.items())
        if collect and any(above):
            ase.io.write(self.files["collected.extxyz"], frame, format="extxyz")
        self.save_restart(atoms, step, dynamics)

    def save_restart(self, atoms: Atoms, step: int, dynamics: MolecularDynamics) -> None:
        """Everything that the next step depends on, in full precision; written atomically."""
        for file in self.files.values():
            file.flush()
        state = {
            "step": step,
            "settings": self.settings,
            "model": self.model,
            "sizes": {name: file.tell() for name, file in self.files.items()},
            "rng": dynamics.rng.bit_generator.state if hasattr(dynamics, "rng") else None,
        }
        arrays: dict[str, Any] = structure(atoms)
        arrays |= {name: getattr(dynamics, name) for name in BAROSTAT_KEYS if hasattr(dynamics, name)}
        with atomically(self.folder / "restart.npz", durable=False) as place:
            np.savez(place, state=json.dumps(state), **arrays)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def read_restart(path: Path) -> tuple[Atoms, dict[str, Any], dict[str, np.ndarray]]:
    """Atoms with momenta, the state and the barostat's variables of a restart file.

    Raises:
        FileNotFoundError: there is no restart file.
        InputError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: there is no run to continue")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        state = json.loads(str(arrays.pop("state")))
        barostat = {name: arrays.pop(name) for name in BAROSTAT_KEYS if name in arrays}
        atoms = Atoms(**arrays)
    except Exception as error:
        raise InputError(f"{path} is damaged ({error}): start anew from a frame of the trajectory") from error
    return atoms, state, barostat
