"""The verbs from the command line, from a model file to a halted run."""

import json

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from uqforce.cli import EXIT, main
from uqforce.engines.calculator import Calculator
from uqforce.model import save_model


def test_the_whole_way(potential, molecule, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(potential, "model.uqf")
    molecule.calc = Calculator(potential, device="cpu")
    labels = {"energy": molecule.get_potential_energy(), "forces": molecule.get_forces() + 0.1}
    molecule.calc = SinglePointCalculator(molecule, **labels)
    ase.io.write("data.extxyz", molecule)

    assert main(["export", "model.uqf", "-o", "model.pt"]) == 0
    assert "equal to the Python model to 1e-06" in capsys.readouterr().out
    assert main(["info", "model.pt"]) == 0
    assert "H C O" in capsys.readouterr().out
    assert main(["eval", "model.pt", "data.extxyz", "-o", "evaluation"]) == 0
    assert "100.00" in capsys.readouterr().out  # meV/A, the error put in
    report = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert report["sets"]["data.extxyz"]["errors"]["forces"]["mae"] == pytest.approx(0.1, rel=1e-6)

    options = ["--steps", "6", "--every", "2", "--temperature", "30", "--temperature-end", "60"]
    assert main(["md", "model.pt", "-o", "run", "data.extxyz", *options]) == 0
    assert "finished step 6" in capsys.readouterr().out
    lowest = min(frame.arrays["nll"].max() for frame in ase.io.read("run/trajectory.extxyz", ":"))
    more = ["md", "model.pt", "-o", "run", "--resume"]
    assert main([*more, "--steps", "12", "--halt", f"nll={lowest - 1e3}"]) == EXIT["halted"]
    assert "halted at step 6" in capsys.readouterr().out
    assert main([*more, "--halt", "nll=1e9", "--collect", "nll=q0.99"]) == 0
    state = json.loads(str(np.load("run/restart.npz")["state"]))
    assert state["step"] == 12
    assert state["settings"]["collect"] == {"nll": 12.5} and state["settings"]["ramp_steps"] == 6


def write_labelled(path: str) -> None:
    molecule = ase.Atoms("COH", positions=[[0, 0, 0], [1.2, 0, 0], [0, 1.1, 0]])
    molecule.calc = SinglePointCalculator(molecule, energy=0.0, forces=np.ones((3, 3)))
    ase.io.write(path, molecule)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export missing.uqf -o x.pt", "missing.uqf does not exist"),
        ("info missing.pt", "missing.pt"),
        ("md model.uqf xenon.xyz -o run", "does not know Xe"),
        ("md model.uqf nan.xyz -o run", "position"),
        ("md model.uqf -o run", "give a structure to start from"),
        ("md model.uqf -o run --resume", "no run to continue"),
        ("md model.uqf xenon.xyz -o run --resume", "give a structure to start from"),
        ("md model.uqf none.xyz -o run", "none.xyz does not exist"),
        ("md model.uqf model.uqf -o run", "cannot be read as a structure"),
        ("md model.uqf xenon.xyz -o run --halt nll=q7", "'q7' on nll is not stored"),
        ("md model.uqf labelled.xyz -o run --halt energy_uncertainty=1", "halt and collect know"),
        ("md model.uqf labelled.xyz -o run --pressure 1", "pressure is of ensemble npt"),
        ("md model.uqf labelled.xyz -o run --ramp-steps 1", "needs temperature_end"),
        ("md model.uqf xenon.xyz -o run --timestep 0", "timestep must be positive"),
        ("eval model.uqf xenon.xyz -o x", "neither energy nor forces"),
        ("eval model.uqf xenon.xyz -o x --device gpu", "must be 'auto', 'cpu', 'cuda' or"),
        ("info .", ".: is a directory"),
        ("export model.uqf -o x.pt --tabulation 1e-30", "allow a larger tolerance"),
        ("fit model.uqf labelled.xyz -o missing/x.uqf --components 1", "missing"),
        ("fit model.uqf labelled.xyz --in-place --components 99", "99"),
        ("fit model.uqf labelled.xyz --in-place --score llpr --regulariser -1", "must be positive"),
        ("fit model.uqf labelled.xyz --in-place --regulariser 1", "regulariser: no setting of score mixture"),
        ("fit model.uqf labelled.xyz --in-place --score llpr --seed 1", "seed: no setting of score llpr"),
        ("calibrate model.uqf labelled.xyz --in-place --kind conformal --level 2", "level"),
        ("calibrate model.uqf labelled.xyz --in-place --level 0.5", "level has no meaning for"),
        ("calibrate model.uqf xenon.xyz --in-place", "xenon.xyz"),
        ("calibrate model.uqf labelled.xyz", "give either -o FILE"),
        ("fit model.uqf labelled.xyz -o x.uqf --in-place", "give either -o FILE"),
        ("fit model.uqf labelled.xyz -o model.uqf", "model.uqf exists"),
        ("export model.uqf -o xenon.xyz", "xenon.xyz exists"),
        ("template -o xenon.xyz", "xenon.xyz exists"),
        ("eval model.uqf labelled.xyz -o x --key enrgy=E", "no label is called 'enrgy'"),
        ("eval model.uqf labelled.xyz -o x --unit energy=cal", "unknown energy unit 'cal'"),
        ("import model.uqf -o x.uqf", "model.uqf"),
        ("train missing.yaml", "missing.yaml"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(potential, tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    save_model(potential, "model.uqf")
    ase.io.write("xenon.xyz", ase.Atoms("Xe"))
    write_labelled("labelled.xyz")
    ase.io.write("nan.xyz", ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, np.nan]]))
    assert main(command.split()) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"uqforce {command.split()[0]}: ") and message in said


def test_a_pair_needs_an_equals_sign(capsys):
    assert main(["eval", "m", "d", "-o", "x", "--key", "energy"]) == EXIT["usage"]
    assert "'energy' is not of the form LABEL=NAME" in capsys.readouterr().err
