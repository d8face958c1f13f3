"""The zoo: recipes that can be read, cards with hashes, and shipped models that are what their cards say."""

import hashlib
import re
from pathlib import Path

import ase.build
import pytest

from uqforce import Calculator
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
