"""Molecular dynamics: conservation, thermostat, halting, exact restart."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from uqforce.engines.calculator import Calculator
from uqforce.engines.md import Settings, draw_velocities, make_dynamics, run_md
from uqforce.errors import InputError
from uqforce.exporting.export import export
from uqforce.model import save_model

ROOT = Path(__file__).parents[2]
COLD = {"temperature": 30.0, "timestep": 0.2}  # a random model has no chemistry: keep it slow


@pytest.fixture
def calculator(potential) -> Calculator:
    return Calculator(potential, device="cpu")


def log(folder) -> dict[str, np.ndarray]:
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_nve_conserves_energy_to_second_order(calculator, molecule, tmp_path):
    """Velocity Verlet's error falls with the square of the time step: forces are the energy's derivative."""
    spread = []
    for timestep in (0.2, 0.1):
        run_md(calculator, tmp_path / str(timestep), molecule.copy(), ensemble="nve", timestep=timestep,
               temperature=30.0, steps=int(20 / timestep), every=1)  # fmt: skip
        total = log(tmp_path / str(timestep))["etot_eV"]
        spread.append(np.std(total))
        assert np.ptp(log(tmp_path / str(timestep))["epot_eV"]) > 100 * spread[-1]
    assert spread[1] < 0.3 * spread[0]


def test_the_closing_sentence_gives_the_drift(calculator, molecule, tmp_path):
    outcome = run_md(calculator, tmp_path, molecule, ensemble="nve", steps=20, every=5, **COLD)
    assert outcome.status == "finished"
    assert "finished step 20 (0.004 ps" in outcome.sentence and "meV/atom/ps" in outcome.sentence


def test_records(calculator, crystal, tmp_path):
    run_md(calculator, tmp_path, crystal, steps=7, every=3, **COLD)
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    table = log(tmp_path)
    assert [frame.info["step"] for frame in frames] == list(table["step"]) == [0, 3, 6, 7]
    np.testing.assert_allclose(table["time_ps"], [0, 0.0006, 0.0012, 0.0014])
    for frame, nll, epot in zip(frames, table["nll_max"], table["epot_eV"]):
        fresh = frame.copy()
        fresh.calc = calculator
        assert frame.get_potential_energy() == pytest.approx(epot, rel=1e-10)
        np.testing.assert_allclose(frame.get_forces(), fresh.get_forces(), atol=1e-5)  # the file has 8 digits
        np.testing.assert_allclose(frame.get_stress(), fresh.get_stress(), atol=1e-6)
        np.testing.assert_allclose(frame.arrays["nll"], calculator.results["nll"], atol=1e-4)
        assert frame.arrays["nll"].max() == pytest.approx(nll, abs=1e-6)
        assert frame.arrays["forces_uncertainty"].shape == (12,)
        assert frame.info["energy_uncertainty"] > 0
        assert frame.has("momenta")
    np.testing.assert_allclose(table["etot_eV"], table["epot_eV"] + table["ekin_eV"])


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
def test_restart_is_bitwise_the_uninterrupted_run(potential, crystal, tmp_path, ensemble):
    options = {"ensemble": ensemble, "every": 4, "seed": 3, **COLD}
    if ensemble == "langevin":
        options |= {"temperature_end": 90.0, "ramp_steps": 40}

    def run(folder, steps, **more):
        calculator = Calculator(potential, device="cpu")  # a new process has no old neighbour list
        return run_md(calculator, tmp_path / folder, crystal.copy(), steps=steps, **options | more)

    run("whole", 40)
    run("parts", 18)
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "parts", killed)
    for name in ("trajectory.extxyz", "log.csv", "collected.extxyz"):
        with (killed / name).open("a") as file:
            file.write("half a rec")  # written after the restart file when the process was killed
    for folder in ("parts", "killed"):
        run(folder, 40, restart=True)
        whole, found = np.load(tmp_path / "whole/restart.npz"), np.load(tmp_path / folder / "restart.npz")
        assert set(whole) == set(found)
        for name in set(whole) - {"state"}:
            assert np.array_equal(whole[name], found[name]), name
    assert (killed / "trajectory.extxyz").read_bytes() == (tmp_path / "parts/trajectory.extxyz").read_bytes()
    last = [(tmp_path / f / "log.csv").read_text().splitlines()[-5:] for f in ("whole", "parts", "killed")]
    assert last[0] == last[1] == last[2]
    whole, parts = (ase.io.read(tmp_path / f / "trajectory.extxyz", ":") for f in ("whole", "parts"))
    parts = [frame for frame in parts if frame.info["step"] != 18]
    assert [frame.info["step"] for frame in parts] == [frame.info["step"] for frame in whole]
    assert all(np.array_equal(a.arrays["nll"], b.arrays["nll"]) for a, b in zip(whole, parts))


@pytest.mark.parametrize("suffix", ["pt", "uqf"])
def test_restart_in_another_process_is_bitwise_the_same(make_potential, molecule, tmp_path, suffix):
    potential = make_potential("float32")
    save_model(potential, tmp_path / "model.uqf")
    export(potential, tmp_path / "model.pt")
    ase.io.write(tmp_path / "start.xyz", molecule)

    def command(*arguments):
        program = [sys.executable, "-m", "uqforce.cli", "md", f"model.{suffix}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    start = ["start.xyz", "--temperature", "30", "--timestep", "0.2", "--every", "3"]
    command(*start, "-o", "whole", "--steps", "9")
    command(*start, "-o", "parts", "--steps", "6")
    command("-o", "parts", "--resume", "--steps", "9")
    for name in ("trajectory.extxyz", "log.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    whole, parts = (np.load(tmp_path / folder / "restart.npz") for folder in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in ("positions", "momenta"))


def test_restart_refuses_another_run(calculator, make_potential, molecule, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to continue"):
        run_md(calculator, tmp_path / "run", restart=True)
    with pytest.raises(InputError, match="no structure to start from"):
        run_md(calculator, tmp_path / "run")
    run_md(calculator, tmp_path / "run", molecule, steps=2, **COLD)
    with pytest.raises(InputError, match="holds a run: continue it"):
        run_md(calculator, tmp_path / "run", molecule, steps=2)
    with pytest.raises(InputError, match="has ensemble langevin: start a new one"):
        run_md(calculator, tmp_path / "run", restart=True, ensemble="nve")
    with pytest.raises(InputError, match=r"has timestep 0\.2: start a new one"):
        run_md(calculator, tmp_path / "run", restart=True, timestep=0.5)
    other = Calculator(make_potential(mixture=False), device="cpu")
    with pytest.raises(InputError, match="made with another model"):
        run_md(other, tmp_path / "run", restart=True)
    content = (tmp_path / "run/restart.npz").read_bytes()
    (tmp_path / "run/restart.npz").write_bytes(content[:-200])
    with pytest.raises(InputError, match="is damaged"):
        run_md(calculator, tmp_path / "run", restart=True)


def test_halts_above_the_limit_and_goes_on_with_a_higher_one(calculator, molecule, tmp_path):
    hot = {"temperature": 30.0, "temperature_end": 3000.0, "timestep": 0.2, "every": 50}
    run_md(calculator, tmp_path / "free", molecule.copy(), steps=60, **hot | {"every": 1})
    scores = log(tmp_path / "free")["nll_max"]
    limit = np.sort(scores)[-20]
    first = int(np.flatnonzero(scores > limit)[0])

    outcome = run_md(calculator, tmp_path / "run", molecule.copy(), steps=60, halt={"nll": limit}, **hot)
    assert (outcome.status, outcome.step) == ("halted", first)
    assert f"halted at step {first} " in outcome.sentence and "nll of atom" in outcome.sentence
    frame = ase.io.read(tmp_path / "run/halted.extxyz")
    assert frame.info["step"] == first and frame.arrays["nll"].max() > limit
    assert log(tmp_path / "run")["step"][-1] == first

    outcome = run_md(calculator, tmp_path / "run", restart=True, halt={})
    assert (outcome.status, outcome.step) == ("finished", 60)
    assert log(tmp_path / "run")["epot_eV"][-1] == log(tmp_path / "free")["epot_eV"][-1]


def test_frames_between_the_limits_are_collected(calculator, molecule, tmp_path):
    run_md(calculator, tmp_path / "free", molecule.copy(), steps=40, every=4, temperature=300.0)
    scores = log(tmp_path / "free")["nll_max"]
    lower, upper = np.sort(scores)[[3, -2]]
    run_md(calculator, tmp_path / "run", molecule.copy(), steps=40, every=4, temperature=300.0,
           collect={"nll": lower}, halt={"nll": upper})  # fmt: skip
    collected = ase.io.read(tmp_path / "run/collected.extxyz", ":")
    table = log(tmp_path / "run")
    between = (table["nll_max"] > lower) & (table["nll_max"] <= upper)
    assert [frame.info["step"] for frame in collected] == list(table["step"][between])
    assert len(collected) > 0 and table["nll_max"][-1] > upper


def test_limits_on_what_the_model_lacks(make_potential, molecule, tmp_path):
    plain = Calculator(make_potential(mixture=False, noise="none"), device="cpu")
    with pytest.raises(InputError, match="does not carry it"):
        run_md(plain, tmp_path, molecule, steps=1, halt={"nll": 3.0})


def test_stops_when_forces_are_not_finite(calculator, molecule, tmp_path, monkeypatch):
    module, calls = calculator.module, []

    def breaks(*arguments):
        out = module(*arguments)
        calls.append(0)
        if len(calls) == 8:  # of step 7: one call before
            out["energy"][0] = torch.nan
        return out

    monkeypatch.setattr(calculator, "module", breaks)
    outcome = run_md(calculator, tmp_path, molecule, ensemble="nve", steps=20, every=2, **COLD)
    assert outcome.status == "not finite"
    assert "stopped after step 6" in outcome.sentence and "not finite" in outcome.sentence
    assert np.isfinite(ase.io.read(tmp_path / "halted.extxyz").positions).all()
    assert run_md(calculator, tmp_path, restart=True).step == 20


def test_velocities(molecule, crystal):
    many = ase.build.bulk("Cu", cubic=True).repeat(6)
    draw_velocities(many, Settings(temperature=500.0))
    assert many.get_temperature() == pytest.approx(500.0, rel=0.05)
    for atoms in (molecule, crystal, many):
        draw_velocities(atoms, Settings(temperature=500.0))
        assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-10
    assert np.abs(molecule.get_angular_momentum()).max() < 1e-10
    lone = ase.Atoms("Ar")
    draw_velocities(lone, Settings(temperature=500.0))
    assert lone.get_temperature() > 0
    again = molecule.copy()
    draw_velocities(again, Settings(temperature=500.0))
    assert np.array_equal(again.get_momenta(), molecule.get_momenta())


def test_labels_of_the_start_do_not_travel(calculator, molecule, tmp_path):
    molecule.info["REF_energy"] = 1.0
    molecule.arrays["REF_forces"] = np.ones((9, 3))
    run_md(calculator, tmp_path, molecule, steps=1, **COLD)
    last = ase.io.read(tmp_path / "trajectory.extxyz")
    assert "REF_energy" not in last.info and "REF_forces" not in last.arrays


def test_constraints_are_refused(calculator, molecule, tmp_path):
    molecule.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match=r"has constraints \(FixAtoms\), which are not supported"):
        run_md(calculator, tmp_path, molecule, steps=1)


def test_a_run_killed_after_its_first_record(calculator, molecule, tmp_path):
    run_md(calculator, tmp_path, molecule, steps=0, **COLD)
    run_md(calculator, tmp_path, restart=True, steps=2)
    assert list(log(tmp_path)["step"]) == [0, 2]


def test_velocities_of_the_structure_are_kept(calculator, molecule, tmp_path):
    molecule.set_momenta(np.full((9, 3), 0.01))
    run_md(calculator, tmp_path, molecule, ensemble="nve", steps=0)
    assert np.array_equal(ase.io.read(tmp_path / "trajectory.extxyz").get_momenta(), np.full((9, 3), 0.01))


def test_npt_reaches_temperature_and_pressure():
    """Copper under 5 GPa with ASE's EMT: the signs and units of the barostat."""
    atoms = ase.build.bulk("Cu", cubic=True).repeat(2)
    atoms.calc = EMT()
    volume = atoms.get_volume()
    settings = Settings(
        ensemble="npt", temperature=300, pressure=5.0, timestep=5.0, friction=5.0, barostat_time=0.5
    )
    draw_velocities(atoms, settings)
    dynamics = make_dynamics(atoms, settings)
    dynamics.run(200)
    pressure, temperature = [], []
    for _ in dynamics.irun(600):
        pressure.append(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / ase.units.GPa)
        temperature.append(atoms.get_temperature())
    assert np.mean(pressure) == pytest.approx(5.0, abs=0.5)
    assert np.mean(temperature) == pytest.approx(300, rel=0.1)
    assert atoms.get_volume() < 0.99 * volume


def test_settings():
    ramp = Settings(steps=100, temperature=300, temperature_end=500)
    assert [ramp.temperature_at(step) for step in (0, 50, 100, 200)] == [300, 400, 500, 500]
    with pytest.raises(InputError, match="ensemble must be nve, langevin or npt, got 'nvt'"):
        Settings(ensemble="nvt")
    with pytest.raises(InputError, match="needs a thermostat"):
        Settings(ensemble="nve", temperature_end=400)
    with pytest.raises(InputError, match="temperature must not be negative, got -1"):
        Settings(temperature=-1)
    with pytest.raises(InputError, match="timestep must be positive, got 0"):
        Settings(timestep=0)
    with pytest.raises(InputError, match="periodic in three directions"):
        make_dynamics(ase.build.molecule("H2O"), Settings(ensemble="npt"))
