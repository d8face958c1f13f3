"""Compiled steps: the numbers of the plain ones, whatever the batch, and what they refuse."""

import csv

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from uqforce.data import Dataset, collate, read_frames
from uqforce.errors import ConfigError
from uqforce.model import ModelConfig, Potential
from uqforce.model.predict import predict_members
from uqforce.training import TrainConfig, train
from uqforce.training.compiled import CompiledStep
from uqforce.training.config_sections import LossConfig
from uqforce.training.loss import measure_members

LOSS = LossConfig(energy={"kind": "huber", "delta": 0.1}, forces={"weight": 10.0}, stress={"weight": 1.0})


@pytest.fixture(scope="module")
def dataset(frames_file) -> Dataset:
    return Dataset.build(read_frames(frames_file), ["Cu", "Au"], 3.5)


@pytest.fixture(scope="module")
def potential() -> Potential:
    torch.manual_seed(0)
    config = ModelConfig(
        type_names=["Cu", "Au"], r_max=3.5, num_layers=2, num_features=[4], radial_mlp_width=8, heads=2,
        avg_num_neighbors=12.0, per_type_energy_scales_trainable=True, dtype="float64", zbl=True,
    )  # fmt: skip
    return Potential(config)


@pytest.fixture(scope="module")
def compiled(potential, dataset) -> CompiledStep:
    # 16 atoms: no length that only some batches have
    return CompiledStep(potential, LOSS, collate([dataset[k] for k in range(4)]))


def frames(dataset, name, directory):
    if name == "one structure":
        return collate([dataset[5]])
    if name == "many":
        return collate([dataset[k] for k in range(13)])
    if name == "missing labels":
        batch = collate([dataset[k] for k in range(3)])
        some = torch.tensor([True, False, True])
        return batch._replace(has_energy=some, has_forces=~some, has_stress=some.roll(1))
    atoms = Atoms("CuAu", [[0, 0, 0], [50, 0, 0]])
    atoms.calc = SinglePointCalculator(atoms, energy=0.5, forces=np.zeros((2, 3)))
    write(directory / "alone.xyz", atoms)
    alone = Dataset.build(read_frames(directory / "alone.xyz"), ["Cu", "Au"], 3.5)[0]
    return collate([alone, dataset[2]]) if name == "not periodic" else alone


@pytest.mark.parametrize("name", ["one structure", "many", "missing labels", "not periodic", "no neighbours"])
def test_equals_the_plain_step(compiled, potential, dataset, name, tmp_path):
    batch, factors = frames(dataset, name, tmp_path), torch.tensor([0.3, 2.0, 0.7], dtype=torch.float64)
    with torch.no_grad():  # as after a step of the optimiser
        for parameter in compiled.trained:
            parameter.mul_(1.01)
    tally, gradients = compiled(batch, factors)
    measured = measure_members(predict_members(potential, batch), batch, LOSS)
    torch.testing.assert_close(tally, measured.tally, rtol=1e-11, atol=1e-11)
    wanted = torch.autograd.grad((measured.terms * factors).sum(), compiled.trained)
    scale = max(gradient.abs().max().item() for gradient in wanted)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-9, atol=1e-11 * scale)
    again = compiled(batch, factors)
    assert all(torch.equal(a, b) for a, b in zip([tally, *gradients], [again[0], *again[1]]))


def test_trains_every_weight(compiled, potential):
    assert set(map(id, compiled.trained)) == {id(p) for p in potential.parameters() if p.requires_grad}


def test_a_run_is_the_plain_run(settings, tmp_path):
    # Of 8 frames the edges are so many that radial networks are interpolated. A run may go on compiled.
    settings |= {"batch_size": 8, "epochs": 4}
    plain, other = str(tmp_path / "plain"), str(tmp_path / "other")
    train(TrainConfig.parse(settings | {"output": plain}))
    train(TrainConfig.parse(settings | {"output": other, "epochs": 1}))
    train(TrainConfig.parse(settings | {"output": other, "compile": True}))
    assert "steps compiled in" in (tmp_path / "other" / "train.log").read_text()
    rows = {}
    for directory in (plain, other):
        with open(f"{directory}/metrics.csv", newline="") as file:
            table = [dict(row) for row in csv.DictReader(file)]
        rows[directory] = [{k: float(v) for k, v in row.items() if k != "seconds (s)"} for row in table]
    assert rows[other] == [pytest.approx(row, rel=1e-3) for row in rows[plain]]


@pytest.mark.parametrize("field, value", [("noise", "local"), ("dropout", 0.1)])
def test_refuses_what_it_does_not_know(settings, field, value):
    settings["model"][field] = value
    with pytest.raises(ConfigError, match=rf"model\.{field}: {value}, set compile: false"):
        TrainConfig.parse(settings | {"compile": True})


def test_says_that_there_is_no_compiler(potential, dataset, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler.*set compile: false"):
        CompiledStep(potential, LOSS, collate([dataset[0], dataset[1]]))
