"""Molecular dynamics that watches the uncertainty of every atom: `uqforce md`."""

import argparse
import os
import time
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from uqforce.engines.arguments import EXIT_HALTED, EXIT_NOT_FINITE, WATCHED
from uqforce.engines.calculator import Calculator, exceeded
from uqforce.engines.records import Records, frame_with_results, read_restart, structure
from uqforce.errors import InputError, NotFiniteError

PS = 1000 * units.fs
FIXED = ("ensemble", "timestep", "seed")


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

    def temperature_at(self, step: int) -> float:
        """Target temperature, K."""
        if self.temperature_end is None:
            return self.temperature
        return self.temperature + (self.temperature_end - self.temperature) * min(1.0, step / self.ramp_steps)


class Outcome(NamedTuple):
    step: int
    exit_code: int
    sentence: str


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
    folder, model = Path(folder), calculator.metadata["weights_sha256"]
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
            f"{folder} holds a run: continue it (`uqforce md MODEL {folder}`) or choose another folder"
        )
    settings = Settings(**options)
    for quantity in settings.halt | settings.collect:
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
                    EXIT_HALTED,
                    f"halted at {when()}: {found}. The frame is in {halted}: label it and train on it, or "
                    f"continue with a higher limit (`uqforce md MODEL {records.folder} ...`)",
                )
            if settings.temperature_end is not None:
                dynamics.set_temperature(temperature_K=settings.temperature_at(step + 1))
    except NotFiniteError as error:
        ase.io.write(halted, atoms, write_results=False)
        return Outcome(
            step,
            EXIT_NOT_FINITE,
            f"stopped after {when()}: {error}. The structure is in {halted}, the last good state in "
            f"{records.folder / 'restart.npz'}",
        )
    finally:
        bar.close()
    rate = 1000 * (time.perf_counter() - begun) / max(1, step - start)
    conserved = drift(records.rows, len(atoms)) if settings.ensemble == "nve" else ""
    return Outcome(step, 0, f"finished {when()}, {rate:.2f} ms per step{conserved}")


def drift(rows: list[dict[str, float]], num_atoms: int) -> str:
    """Slope of the total energy and the fluctuation about it."""
    if len(rows) < 3:
        return ""
    total = np.array([row["etot_eV"] for row in rows]) / num_atoms * 1000
    times = np.array([row["time_ps"] for row in rows])
    line = np.polynomial.Polynomial.fit(times, total, 1)
    slope, rest = line.deriv()(0.0), np.std(total - line(times))
    return f"; the total energy drifts by {slope:.3g} meV/atom/ps and fluctuates by {rest:.2g} meV/atom"


def run(args: argparse.Namespace) -> int:
    given = vars(args)
    calculator = Calculator(args.model, device=args.device, skin=args.skin)
    options = {f.name: given[f.name] for f in fields(Settings) if f.name in given}
    for action in ("halt", "collect"):
        limits = {
            quantity: given[f"{action}_{quantity}"] for quantity in WATCHED if f"{action}_{quantity}" in given
        }
        if limits:
            options[action] = {key: calculator.threshold(key, value) for key, value in limits.items()}
    if Path(args.start).is_dir():
        if given.get("output", args.start) != args.start:
            raise InputError(f"the run in {args.start} is continued there: leave out -o {args.output}")
        outcome = run_md(calculator, args.start, restart=True, **options)
    elif "output" in given:
        outcome = run_md(calculator, args.output, ase.io.read(args.start), **options)
    else:
        raise InputError("a new run needs a folder: give -o FOLDER")
    print(outcome.sentence)
    return outcome.exit_code
