"""Molecular dynamics that watches the uncertainty of every atom: `uqforce md`."""

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from uqforce.engines.calculator import Calculator, exceeded
from uqforce.engines.records import Records, frame_with_results, read_restart, structure
from uqforce.errors import InputError, NotFiniteError
from uqforce.model import QUANTITIES, Ensemble, Potential

PS = 1000 * units.fs
FIXED = ("ensemble", "timestep", "seed")
WATCHED = tuple(name for name, entry in QUANTITIES.items() if entry.watch)  # by `halt` and `collect`
ONLY = {
    "friction": ("langevin", "npt"),
    "pressure": ("npt",),
    "barostat_time": ("npt",),
}  # ensembles they mean


@dataclass
class Settings:
    """What fixes a run. All but `FIXED` may be changed when a run is continued."""

    steps: int = 1000
    ensemble: str = "langevin"  # nve, langevin (BAOAB, canonical) or npt (Langevin-Hoover, isotropic)
    temperature: float = 300.0  # K
    temperature_end: float | None = None  # K, reached linearly after `ramp_steps`
    ramp_steps: int | None = None  # default: `steps`
    timestep: float = 0.5  # fs
    friction: float = 10.0  # 1/ps
    pressure: float = 0.0  # GPa
    barostat_time: float = 1.0  # ps
    seed: int = 0
    every: int = 10  # steps between records
    halt: dict[str, float] = field(default_factory=dict)  # quantity -> value above which the run stops
    collect: dict[str, float] = field(default_factory=dict)  # quantity -> value above which records are kept

    def __post_init__(self):
        if self.ensemble not in ("nve", "langevin", "npt"):
            raise InputError(f"ensemble must be nve, langevin or npt, got {self.ensemble!r}")
        if self.temperature_end is not None and self.ensemble == "nve":
            raise InputError("a temperature ramp needs a thermostat: choose langevin or npt, not nve")
        for name in ("temperature", "temperature_end"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)} K")
        for name in ("timestep", "friction", "barostat_time", "every"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.ramp_steps is None:
            self.ramp_steps = self.steps

    def refuse_unused(self, given: Mapping[str, Any]) -> None:
        """Raises an InputError for an option that was given and has no meaning in this run."""
        for name, ensembles in ONLY.items():
            if name in given and self.ensemble not in ensembles:
                raise InputError(
                    f"{name} is of ensemble {' and '.join(ensembles)}, not of {self.ensemble}: leave it out"
                )
        if given.get("ramp_steps") is not None and self.temperature_end is None:
            raise InputError("ramp_steps needs temperature_end: give it, or leave ramp_steps out")

    def temperature_at(self, step: int) -> float:
        """Target temperature, K."""
        if self.temperature_end is None:
            return self.temperature
        return self.temperature + (self.temperature_end - self.temperature) * min(1.0, step / self.ramp_steps)


class Outcome(NamedTuple):
    """How a run ended."""

    step: int
    status: Literal["finished", "halted", "not finite"]
    sentence: str  # the same in words


def make_dynamics(atoms: Atoms, settings: Settings) -> MolecularDynamics:
    """The integrator of `settings.ensemble`, from ASE.

    Raises:
        InputError: npt for a structure that is not periodic in three directions.
    """
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    barostat: dict[str, Any] = {}
    if settings.ensemble == "npt":
        if not atoms.pbc.all():
            raise InputError(
                f"npt needs a structure periodic in three directions, got pbc {atoms.pbc.tolist()}"
            )
        barostat = {
            "externalstress": -settings.pressure * units.GPa,
            "hydrostatic": True,
            "P_tau": settings.barostat_time * PS,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")
        return LangevinBAOAB(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            T_tau=PS / settings.friction,
            rng=np.random.default_rng(settings.seed),
            **barostat,
        )


def draw_velocities(atoms: Atoms, settings: Settings) -> None:
    """Maxwell-Boltzmann velocities without translation and, for a molecule, without rotation."""
    rng = np.random.default_rng([settings.seed, 1])  # not the thermostat's numbers
    width = np.sqrt(atoms.get_masses() * units.kB * settings.temperature)
    atoms.set_momenta(width[:, None] * rng.normal(size=(len(atoms), 3)))
    if len(atoms) > 1:
        Stationary(atoms)
        if not atoms.pbc.any():
            ZeroRotation(atoms)


def run_md(
    calculator: Calculator,
    folder: str | os.PathLike,
    atoms: Atoms | None = None,
    restart: bool = False,
    **options,
) -> Outcome:
    """Run molecular dynamics in `folder`, or continue the run there; `options` are fields of `Settings`.

    A continued run is bitwise the run that was not interrupted. A run stops when a quantity of `halt` is
    exceeded (looked at every step; the frame is in halted.extxyz, and the run can be continued with a higher
    limit) or when energy or forces are not finite. Records, one every `every` steps, whose largest value of a
    quantity in `collect` is above its limit (and none above that of `halt`) are also written to
    collected.extxyz, for labelling.

    Raises:
        InputError: options that make no sense, a folder in use, a restart of another run.
        FileNotFoundError: a restart without a run to continue.
    """
    folder, model, given = Path(folder), calculator.metadata["weights_sha256"], dict(options)
    state: dict[str, Any] = {}
    if restart:
        atoms, state, barostat = read_restart(folder / "restart.npz")
        if state["model"] != model:
            raise InputError(
                f"the run in {folder} was made with another model: {state['model'][:12]}, not {model[:12]}"
            )
        for name in FIXED:
            before = state["settings"][name]
            if options.get(name, before) != before:
                raise InputError(f"the run in {folder} has {name} {before}: start a new one to change that")
        options = state["settings"] | options
    elif (folder / "restart.npz").exists():
        raise InputError(
            f"{folder} holds a run: continue it (`uqforce md MODEL -o {folder} --resume`), or choose another "
            "folder"
        )
    settings = Settings(**options)
    settings.refuse_unused(given)
    for quantity in settings.halt | settings.collect:
        if quantity not in WATCHED:
            raise InputError(f"halt and collect know {', '.join(WATCHED)}, not {quantity}")
        calculator.threshold(quantity, 0.0)  # refuses what the model does not carry
    if atoms is None:
        raise InputError("there is no structure to start from")
    if atoms.constraints:
        kind = type(atoms.constraints[0]).__name__
        raise InputError(f"the structure has constraints ({kind}), which are not supported: remove them")
    atoms = Atoms(**structure(atoms))  # without labels, which would appear in every frame
    atoms.calc = calculator
    atoms.get_potential_energy()  # what is wrong with the structure shows here
    if not restart and not atoms.get_momenta().any():
        draw_velocities(atoms, settings)

    dynamics = make_dynamics(atoms, settings)
    if restart:
        dynamics.nsteps = state["step"]
        if state["rng"] is not None:
            dynamics.rng.bit_generator.state = state["rng"]
        for name, value in barostat.items():
            setattr(dynamics, name, value)
    sizes = state.get("sizes")
    records = Records(folder, asdict(settings), settings.timestep, settings.collect, model, sizes)
    if restart:
        records.save_restart(atoms, dynamics.nsteps, dynamics)  # with the settings as changed
    try:
        return integrate(atoms, dynamics, settings, records)
    finally:
        records.close()


def integrate(atoms: Atoms, dynamics: MolecularDynamics, settings: Settings, records: Records) -> Outcome:
    """Step from `dynamics.nsteps` to `settings.steps`, unless something stops the run before."""
    start, begun, halted = dynamics.nsteps, time.perf_counter(), records.folder / "halted.extxyz"
    step = start

    def when() -> str:
        return f"step {step} ({step * settings.timestep / 1000:.4g} ps, {atoms.get_temperature():.0f} K)"

    bar = tqdm(total=settings.steps, initial=start, unit="step", disable=None)
    try:
        for _ in dynamics.irun(max(0, settings.steps - start)):
            step = dynamics.nsteps
            bar.update(step - bar.n)
            found = exceeded(atoms, atoms.calc.results, settings.halt)
            is_new = step > start or not records.continued
            if is_new and (step % settings.every == 0 or found or step == settings.steps):
                records.write(atoms, step, dynamics, collect=not found)
            if found:
                ase.io.write(halted, frame_with_results(atoms, step, step * settings.timestep / 1000))
                return Outcome(
                    step,
                    "halted",
                    f"halted at {when()}: {found}. The frame is in {halted}: label it and train on it, or "
                    f"continue with a higher limit (`uqforce md MODEL -o {records.folder} --resume ...`)",
                )
            if settings.temperature_end is not None:
                dynamics.set_temperature(temperature_K=settings.temperature_at(step + 1))
    except NotFiniteError as error:
        ase.io.write(halted, atoms, write_results=False)
        return Outcome(
            step,
            "not finite",
            f"stopped after {when()}: {error}. The structure is in {halted}, the last good state in "
            f"{records.folder / 'restart.npz'}",
        )
    finally:
        bar.close()
    rate = 1000 * (time.perf_counter() - begun) / max(1, step - start)
    conserved = drift(records.rows, len(atoms)) if settings.ensemble == "nve" else ""
    return Outcome(step, "finished", f"finished {when()}, {rate:.2f} ms per step{conserved}")


def drift(rows: list[dict[str, float]], num_atoms: int) -> str:
    """Slope of the total energy and the fluctuation about it."""
    if len(rows) < 3:
        return ""
    total = np.array([row["etot_eV"] for row in rows]) / num_atoms * 1000
    times = np.array([row["time_ps"] for row in rows])
    line = np.polynomial.Polynomial.fit(times, total, 1)
    slope, rest = line.deriv()(0.0), np.std(total - line(times))
    return f"; the total energy drifts by {slope:.3g} meV/atom/ps and fluctuates by {rest:.2g} meV/atom"


def md(
    model: str | os.PathLike | Potential | Ensemble | Calculator,
    start: str | os.PathLike | Atoms | None,
    output: str | os.PathLike,
    *,
    resume: bool = False,
    device: str = "auto",
    skin: float = 0.0,
    halt: Mapping[str, float | str] | None = None,
    collect: Mapping[str, float | str] | None = None,
    **options: Any,
) -> Outcome:
    """Run molecular dynamics in the folder `output` and watch the uncertainty of every atom.

    The folder gets trajectory.extxyz (positions A, velocities, energy eV, forces eV/A and uncertainties), a
    log and restart.npz; a resumed run is bitwise the run that was not interrupted.

    Args:
        model: an exported model (.pt), a model file (.uqf), a model in memory, or a `Calculator`.
        start: the structure, or a file that ASE reads (`FILE@3`: frame 3, else the last); None with `resume`.
        resume: go on with the run in `output`, with what `options` change.
        device, skin: see `Calculator`.
        halt: quantity of atoms ("nll", "llpr" eV, "forces_uncertainty", "forces_error" eV/A) -> limit above
            which the run stops; a number, or a quantile that the model stores, "q0.99", "q0.999" or "max".
        collect: the same, above which records are kept for labelling in collected.extxyz.
        options: fields of `uqforce.engines.md.Settings`: steps, ensemble ("langevin", "nve", "npt"),
            temperature and temperature_end (K), timestep (fs), friction (1/ps), pressure (GPa), seed, every,
            ...

    Returns how the run ended: `step`, `status` ("finished", "halted" or "not finite") and a sentence.

    Raises:
        InputError: a structure or options that make no sense, a folder in use, no run to resume.
        FileNotFoundError, ModelFileError: there is no such model or structure.

    Example:
        >>> import uqforce
        >>> end = uqforce.md("model.pt", "test.xyz", "run", steps=20, temperature=300, halt={"nll": "max"})
        >>> end.status in ("finished", "halted"), end.step <= 20
        (True, True)
    """
    known = [field.name for field in fields(Settings)]
    if unknown := set(options) - set(known):
        raise InputError(f"md has no option {', '.join(sorted(unknown))}: it has {', '.join(known)}")
    if resume == (start is not None):
        raise InputError("give a structure to start from, or resume (--resume) a run without one")
    calculator = model if isinstance(model, Calculator) else Calculator(model, device=device, skin=skin)
    for name, limits in (("halt", halt), ("collect", collect)):
        if limits is not None:
            options[name] = {
                quantity: calculator.threshold(quantity, limit) for quantity, limit in limits.items()
            }
    atoms = start if isinstance(start, Atoms) or start is None else read_structure(start)
    return run_md(calculator, output, atoms, resume, **options)


def read_structure(path: str | os.PathLike) -> Atoms:
    """The last frame of a file that ASE reads, or of `FILE@3` frame 3.

    Raises: FileNotFoundError, InputError.
    """
    name, _, _ = str(path).partition("@")
    if not Path(path).exists() and not Path(name).exists():
        raise FileNotFoundError(f"{name} does not exist: there is no structure to start from")
    try:
        return ase.io.read(path)
    except Exception as error:  # ASE's readers raise whatever a file makes them
        raise InputError(f"{path} cannot be read as a structure ({type(error).__name__}: {error})") from error
