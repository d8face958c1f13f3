"""The zoo: recipes that can be read, cards with hashes, and shipped models that are what their cards say."""

import hashlib
import importlib.util
import json
import re
import shutil
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from uqforce import Calculator
from uqforce.engines.evaluate import evaluate
from uqforce.model import load_model
from uqforce.training import TrainConfig

ZOO = Path(__file__).parents[1] / "zoo"
NAMES = sorted(path.parent.name for path in ZOO.glob("*/train.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_and_card(name, monkeypatch):
    monkeypatch.setenv("UQFORCE_DATA", "data")
    config = TrainConfig.load(ZOO / name / "train.yaml")
    assert config.output == f"runs/{name}" and config.data.test
    card = (ZOO / name / "card.md").read_text()
    for entry in ("**Data**", "**Licence**", "AUROC", "sha256 of the weights", *config.data.test):
        assert entry in card, entry


def test_silicon():
    path = ZOO / "silicon" / "model.uqf"
    digest = re.search(r"of `model.uqf` `(\w+)`", (ZOO / "silicon" / "card.md").read_text())[1]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    limits = load_model(path).card["thresholds"]["nll"]
    calculator = Calculator(path, device="cpu")
    found = {}
    for length in (5.37, 5.47, 5.57, 4.9):  # A; PBE says 5.47
        crystal = ase.build.bulk("Si", "diamond", a=length)
        crystal.calc = calculator
        found[length] = crystal.get_potential_energy(), crystal.calc.results["nll"].max()
    assert min(found, key=lambda length: found[length][0]) == 5.47
    assert found[5.47][1] < limits["q0.99"] and found[4.9][1] > limits["max"]


def test_card_of_a_stored_evaluation(tmp_path, monkeypatch):
    """What `uqforce eval` writes is what the card reads: numbers of a set whose errors are known."""
    spec = importlib.util.spec_from_file_location("zoo_make", ZOO / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setenv("UQFORCE_DATA", str(tmp_path))
    config = TrainConfig.load(ZOO / "silicon" / "train.yaml")
    ((name, (path,)),) = config.data.test.items()

    model, random, frames = ZOO / "silicon" / "model.uqf", np.random.default_rng(0), []
    calculator = Calculator(model, device="cpu")
    for _ in range(2):
        crystal = ase.build.bulk("Si", cubic=True, a=5.47)
        crystal.rattle(0.1, rng=random)
        calculator.calculate(crystal)
        error = np.full((8, 3), 0.01)
        error[:3] = 0.15  # of 16 atoms, 6 above 0.1 eV/A and none above 0.2
        labels = {"energy": calculator.results["energy"], "forces": calculator.results["forces"] + error}
        crystal.calc = SinglePointCalculator(crystal, **labels)
        frames.append(crystal)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, frames)
    evaluate(model, [path], tmp_path / "eval", device="cpu")
    shutil.copy(model, tmp_path / "model.uqf")

    card = make.card(config, tmp_path)
    force_rmse = 1e3 * np.sqrt((6 * 0.15**2 + 10 * 0.01**2) / 16)
    assert f"| {name} | 2 |" in card and f" / {force_rmse:.2f} |" in card
    score = json.loads((tmp_path / "eval/evaluation.json").read_text())["sets"][path]["uncertainty"]["nll"]
    ranks = re.search(rf"^\| {name} \| (\S+) \(6 of 16\) \| - \(0 of 16\) \| .* \|$", card, re.M)
    assert ranks and float(ranks[1]) == pytest.approx(score["auroc_0.1"], abs=1e-3)
