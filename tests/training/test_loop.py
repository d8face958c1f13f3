"""Whole runs on tiny data, and the parts of the loop: schedules, averaging, clipping, missing labels."""

import csv
import json
import math
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from uqforce.cli import main
from uqforce.data import Dataset, collate, read_frames
from uqforce.errors import ConfigError
from uqforce.model import Potential, load_model
from uqforce.model.predict import evaluating, predict
from uqforce.training import TrainConfig, template, train
from uqforce.training.config_sections import ScheduleConfig
from uqforce.training.loop import Trainer
from uqforce.training.report import write_report
from uqforce.training.schedule import Schedule


def rows(directory: str | Path) -> list[dict[str, float]]:
    with open(Path(directory) / "metrics.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def trainer(config, frames_file, tmp_path) -> Trainer:
    """A trainer of the tiny model on 13 frames, before its first step."""
    frames = read_frames(frames_file)
    data = [Dataset.build(part, ["Cu", "Au"], config.model.r_max) for part in (frames[:13], frames[13:])]
    torch.manual_seed(0)
    model = config.model.resolve(
        ["Cu", "Au"], avg_num_neighbors=12.0, scales=1.0, shifts={"Cu": 0.1, "Au": 0.2}
    )
    return Trainer(config, Potential(model), *data, tmp_path, "hash")


@pytest.mark.parametrize("kind", ["mse", "huber", "likelihood"])
@pytest.mark.parametrize("optimizer", ["amsgrad", "adamw"])
def test_training_learns(settings, kind, optimizer):
    one = {"kind": kind, "delta": 0.1}
    settings["loss"] = {"energy": one, "forces": {**one, "weight": 10.0}}
    settings["model"]["noise"] = "total" if kind == "likelihood" else "none"
    settings |= {"epochs": 20, "optimizer": {"kind": optimizer, "lr": 0.01}, "ema": None}
    train(TrainConfig.parse(settings))
    history = rows(settings["output"])
    assert len(history) == 20
    for part in ("train", "validation"):
        assert history[-1][f"{part}_loss"] < history[0][f"{part}_loss"]
        assert history[-1][f"{part}_forces_rmse (meV/A)"] < 0.7 * history[0][f"{part}_forces_rmse (meV/A)"]


def test_a_run_leaves_its_report(settings, frames_file, caplog):
    settings["data"] |= {"test": {"same": str(frames_file)}, "allow_duplicates": True}
    best = train(TrainConfig.parse(settings))
    directory = Path(settings["output"])
    shown = caplog.text
    for part in ("meV/atom", "meV/A", "validation", "energies of isolated atoms (eV): Cu 0.1000, Au 0.2000"):
        assert part in shown
    assert (directory / "report.txt").read_text().strip() in shown
    report = json.loads((directory / "report.json").read_text())
    assert list(report) == ["train", "validation", "same"]
    assert (report["same"]["structures"], report["same"]["atoms"]) == (17, 68)
    assert list(report["same"]["errors"]) == ["energy_per_atom", "forces", "forces_per_type", "stress"]
    assert set(report["same"]["errors"]["forces_per_type"]) == {"Cu", "Au"}
    for name in ("parity.png", "learning_curves.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG")
    assert "epoch 3/3" in (directory / "train.log").read_text()
    assert TrainConfig.load(directory / "config.yaml") == TrainConfig.parse(settings)
    epoch, validation = min((row["validation_loss"], row["epoch"]) for row in rows(directory))[::-1]
    potential = load_model(best)
    made = potential.card["training"]
    assert (made["epoch"], made["validation_loss"]) == (epoch, pytest.approx(validation))
    assert (made["frames"], made["validation_frames"], made["files"]) == (13, 4, ["train.xyz"])


def test_report_errors_are_those_of_the_saved_model(config, frames_file, tmp_path):
    potential = load_model(train(config))
    types, cutoff = potential.config.type_names, potential.config.r_max
    atoms = ase.io.read(frames_file, ":")
    dataset = Dataset.build(read_frames(frames_file), types, cutoff)
    write_report(potential, {"all": dataset}, tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["all"]["errors"]
    energy, forces, stress, symbols = [], [], [], []
    for i, frame in enumerate(atoms):
        predicted = predict(potential, collate([dataset[i]]))
        energy.append((predicted.energy.item() - frame.get_potential_energy()) / len(frame))
        forces.append(predicted.forces.numpy() - frame.get_forces())
        stress.append(-predicted.virial[0].numpy() / frame.get_volume() - frame.get_stress(voigt=False))
        symbols += frame.get_chemical_symbols()
    gold = np.concatenate(forces)[np.array(symbols) == "Au"]
    for errors, residual in (
        (found["energy_per_atom"], energy),
        (found["forces"], np.concatenate(forces)),
        (found["forces_per_type"]["Au"], gold),
        (found["stress"], stress),
    ):
        assert errors["mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-6)
        assert errors["rmse"] == pytest.approx(np.sqrt(np.square(residual).mean()), rel=1e-6)


def test_the_template_trains(frames_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.xyz").write_bytes(frames_file.read_bytes())
    assert main(["template"]) == 0
    text = capsys.readouterr().out
    assert text == template()
    small = {"epochs": "1", "num_features": "[4]", "num_layers": "1", "l_max": "1"}
    for name, value in small.items():
        # what the word of `uncertainty` sets stands in comments
        text, count = re.subn(rf"^(?:# )?( *{name}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
        assert count == 1
    (tmp_path / "config.yaml").write_text(text)
    assert main(["train", "config.yaml"]) == 0
    assert len(rows("training")) == 1


def without_labels(frames_file: Path, path: Path, every: int, label: str) -> str:
    """The frames with `label` removed from every `every`-th."""
    frames = ase.io.read(frames_file, ":")
    for frame in frames[::every]:
        del frame.calc.results[label]
    ase.io.write(path, frames)
    return str(path)


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_missing_labels_are_an_error(settings, write_config, frames_file, tmp_path, capsys, label):
    settings["data"]["train"] = without_labels(frames_file, tmp_path / "part.xyz", 1, label)
    assert main(["train", write_config(settings)]) == 1
    error = capsys.readouterr().err
    assert re.search(rf"frames have no {label}", error)
    assert "Traceback" not in error


def test_missing_labels_may_be_allowed(settings, frames_file, tmp_path):
    settings["data"] |= {
        "train": without_labels(frames_file, tmp_path / "part.xyz", 2, "forces"),
        "allow_missing_labels": True,
    }
    train(TrainConfig.parse(settings))
    assert all(math.isfinite(value) for row in rows(settings["output"]) for value in row.values())


def test_an_unlabelled_property_without_weight_is_left_out(settings, frames_file, tmp_path):
    settings["data"]["train"] = without_labels(frames_file, tmp_path / "part.xyz", 1, "stress")
    settings["loss"]["stress"]["weight"] = 0.0
    train(TrainConfig.parse(settings))
    row = rows(settings["output"])[-1]
    assert math.isnan(row["train_stress_rmse (meV/A^3)"])
    assert math.isfinite(row["train_loss"])


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("isolated_energies", {"Cu": 0.1}, r"isolated_energies: .*lacks Au"),
        ("test", {"hot": "nowhere.xyz"}, r"nowhere\.xyz does not exist"),
    ],
)
def test_data_that_does_not_fit_is_an_error(settings, field, value, message):
    settings["data"][field] = value
    with pytest.raises(ValueError, match=message):
        train(TrainConfig.parse(settings))


def test_time_ends_a_run_between_epochs(settings, caplog):
    settings |= {"max_minutes": 1e-6, "epochs": 50}
    train(TrainConfig.parse(settings))
    assert len(rows(settings["output"])) == 1
    assert "stopped after epoch 1 of 50" in caplog.text


def test_the_average_is_an_exponential_mean_of_the_weights(trainer):
    trainer.potential.train()
    expected = None
    for step in range(4):
        trainer.train_step([step, step + 1])
        now = [p.detach().clone() for p in trainer.parameters]
        expected = now if expected is None else [0.9 * a + 0.1 * b for a, b in zip(expected, now)]
    averaged = [
        p for p, q in zip(trainer.judged.parameters(), trainer.potential.parameters()) if q.requires_grad
    ]
    torch.testing.assert_close(averaged, expected)


def test_clipping_bounds_the_gradient(trainer):
    trainer.potential.train()
    trainer.train_step([0, 1])
    free = trainer.progress.norm_sum
    trainer.config = trainer.config.model_copy(update={"clip": free / 3})
    trainer.optimizer.zero_grad()
    sum(p.sum() for p in trainer.parameters).backward()
    norm = trainer._clip()
    after = math.sqrt(sum(p.grad.square().sum().item() for p in trainer.parameters))
    assert after == pytest.approx(min(norm, free / 3), rel=1e-4)
    assert norm > free / 3


def test_evaluation_leaves_the_potential_as_it_was(trainer):
    trainer.potential.train()
    flags = [p.requires_grad for p in trainer.potential.parameters()]
    with evaluating(trainer.potential):
        prediction = predict(trainer.potential, collate([trainer.train[0]]))
        assert not any(value.requires_grad for value in prediction.as_dict().values())
    assert trainer.potential.training
    assert [p.requires_grad for p in trainer.potential.parameters()] == flags
    assert True in flags and False in flags


def schedule(**fields) -> Schedule:
    return Schedule(ScheduleConfig(**fields), lr=0.1, steps_per_epoch=10)


def test_constant_schedule_with_warmup():
    rates = schedule(kind="constant", warmup_epochs=0.5)
    assert [rates.lr(step) for step in range(7)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])


def test_cosine_schedule_equals_torch():
    rates = schedule(kind="cosine", horizon=3, final_factor=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.01)
    for step in range(30):
        assert rates.lr(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        expected.step()
    assert rates.lr(1000) == pytest.approx(0.01)


def test_plateau_schedule_equals_torch():
    rates = schedule(kind="plateau", patience=2, factor=0.5, final_factor=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=2, factor=0.5, threshold=0.0, min_lr=0.01
    )
    random = np.random.default_rng(0)
    for epoch in range(40):
        loss = float(random.random() / (1 + epoch // 10))
        rates.end_epoch(loss)
        expected.step(loss)
        assert rates.lr(10 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_wrong_configuration_is_a_sentence_on_the_command_line(write_config, capsys):
    path = write_config({"model": {"r_max": 5.0}})
    assert main(["train", path]) == 1
    error = capsys.readouterr().err
    assert "data: missing" in error and "Traceback" not in error
    with pytest.raises(ConfigError):
        TrainConfig.load(path)
