"""Ensembles and heads in the hands of export, calculator, evaluation and info, as any model."""

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from tests.model.systems import make_potential
from uqforce.cli import main
from uqforce.engines.calculator import Calculator
from uqforce.errors import ConfigError
from uqforce.exporting.export import export
from uqforce.model import Ensemble, first_member, save_model
from uqforce.training import TrainConfig

MODELS = {
    "ensemble": lambda: Ensemble([make_potential(seed, noise="local") for seed in range(3)], ddof=1),
    "heads": lambda: make_potential(noise="total", heads=3),
    "ensemble without noise": lambda: Ensemble([make_potential(k, num_layers=2 + k) for k in (0, 1)]),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def file(model, tmp_path):
    save_model(model, tmp_path / "model.uqf")
    return tmp_path / "model.uqf"


def test_exported(model, tmp_path):
    """`export` itself compares the file in a fresh process with the model."""
    description = export(model, tmp_path / "model.pt")
    outputs = description["outputs"]
    parts = {"", "_epistemic"} | ({"_aleatoric"} if first_member(model).config.noise != "none" else set())
    for name in ("energy_uncertainty", "forces_uncertainty", "forces_covariance"):
        assert {name + part for part in parts} == {key for key in outputs if key.startswith(name)}
    assert {"energy_ensemble", "forces_ensemble", "virial_ensemble"} <= outputs.keys()
    members = getattr(model, "members", [model])
    assert description["num_layers"] == max(member.config.num_layers for member in members)


def test_exported_networks(model, tmp_path):
    """Without tables: autograd inside the file."""
    export(model, tmp_path / "model.pt", tabulation=0)


def test_calculator(file, model):
    atoms = molecule("CH3CH2OH")
    calculator = Calculator(file, device="cpu")
    energy, forces = calculator.get_property("energy", atoms), calculator.get_property("forces", atoms)
    results = calculator.results
    ensemble = results["forces_ensemble"]
    assert ensemble.shape == (len(results["energy_ensemble"]), len(atoms), 3)
    np.testing.assert_allclose(ensemble.mean(0), forces, atol=1e-12)
    assert results["energy_ensemble"].mean() == pytest.approx(energy)
    ddof = getattr(model, "ddof", 0)
    spread = ensemble.var(0, ddof=ddof).sum(1)
    np.testing.assert_allclose(results["forces_uncertainty_epistemic"] ** 2, spread / 3, atol=1e-12)
    assert results["energy_uncertainty_epistemic"] == pytest.approx(results["energy_ensemble"].std(ddof=ddof))


def test_command_line(file, model, tmp_path, capsys):
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(file, device="cpu")
    atoms.get_forces()
    frames = tmp_path / "frames.xyz"
    labelled = []
    for k in range(6):
        frame = atoms.copy()
        frame.rattle(0.05, seed=k)
        frame.info["energy"], frame.arrays["forces"] = -20.0 + k, np.random.default_rng(k).normal(size=(9, 3))
        labelled.append(frame)
    write(frames, labelled)
    assert main(["fit", str(file), str(frames), "--in-place", "--components", "1"]) == 0
    assert main(["eval", str(file), str(frames), "-o", str(tmp_path / "eval")]) == 0
    capsys.readouterr()
    assert main(["info", str(file), "--all"]) == 0
    said = capsys.readouterr().out
    assert "nll" in said and ("card.ensemble.members" in said or not isinstance(model, Ensemble))


def test_nequip_has_no_place_for_members(file, tmp_path, capsys):
    pytest.importorskip("nequip")
    assert main(["export", str(file), "-o", str(tmp_path / "model.ckpt"), "--format", "nequip-state"]) == 1
    assert "holds one energy" in capsys.readouterr().err


def test_training_starts_from_one_model(model, file):
    settings = {"data": {"train": "train.xyz"}, "model": {"start": str(file)}}
    if not isinstance(model, Ensemble):
        assert TrainConfig.parse(settings).model.heads == 3
        return
    with pytest.raises(ConfigError, match="start from a member"):
        TrainConfig.parse(settings)
