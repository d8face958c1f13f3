"""A killed run, resumed, ends bitwise where an uninterrupted one does; changed configurations are refused."""

from pathlib import Path

import pytest
import torch

from tests.training.killed import metrics, run_killed
from uqforce.cli import main
from uqforce.errors import CheckpointError, TrainingError
from uqforce.training import TrainConfig, checkpoint, train

# Each stops the process as `kill -9` does, at a moment of the second epoch.
MOMENTS = {
    "within a step": """
        from uqforce.training.loop import Trainer
        clip = Trainer._clip
        Trainer._clip = lambda self: die() if at(self, 1, 1) else clip(self)
    """,
    "half a checkpoint written": """
        from uqforce.files import atomically
        from uqforce.training import checkpoint
        def half(path, content):
            with atomically(path) as place:
                place.write_bytes(content[: len(content) // 2])
                die()
        from uqforce.training.loop import Trainer
        save = Trainer.save
        def save_or_die(self):
            if at(self, 1, 2):
                checkpoint.write_atomically = half
            save(self)
        Trainer.save = save_or_die
    """,
    "best model written, checkpoint not": """
        from uqforce.training.loop import Trainer
        save = Trainer.save
        Trainer.save = lambda self: die() if at(self, 2, 0) else save(self)
    """,
}


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Directory of a run of one go, made once for all moments."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_to_bitwise_the_same_end(settings, write_config, whole, moment, caplog):
    if not whole.exists():
        train(TrainConfig.parse({**settings, "output": str(whole)}))
    run_killed(write_config(settings), MOMENTS[moment])
    killed = Path(settings["output"])
    caplog.clear()
    train(TrainConfig.parse(settings))
    assert "resuming from" in caplog.text
    for name in ("best.uqf", "last.uqf"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert metrics(killed) == metrics(whole)
    assert len(metrics(killed)) == 3
    states = [checkpoint.load(directory / checkpoint.NAME) for directory in (killed, whole)]
    for part in ("model", "ema", "optimizer", "schedule", "tally", "rng"):
        assert same_state(states[0][part], states[1][part]), part
    assert not list(killed.glob(".*"))


def test_a_run_may_be_prolonged(settings, tmp_path):
    """Two epochs, then `epochs: 3`: the end of a run of three epochs."""
    train(TrainConfig.parse({**settings, "epochs": 2}))
    train(TrainConfig.parse(settings))
    other = str(tmp_path / "other")
    train(TrainConfig.parse({**settings, "output": other}))
    assert metrics(settings["output"]) == metrics(other)


def test_a_finished_run_trains_no_further(config, caplog):
    train(config)
    before = checkpoint.load(Path(config.output) / checkpoint.NAME)
    caplog.clear()
    train(config)
    assert "3 epochs and 0 steps done" in caplog.text
    assert same_state(before["model"], checkpoint.load(Path(config.output) / checkpoint.NAME)["model"])


def test_a_changed_configuration_is_refused_naming_the_fields(settings, caplog):
    train(TrainConfig.parse({**settings, "epochs": 1}))
    changed = {**settings, "optimizer": {"lr": 0.007}, "batch_size": 4}
    with pytest.raises(
        CheckpointError, match=r"batch_size: 5 in the checkpoint, 4 now\n.*optimizer\.lr: 0\.005.*0\.007"
    ):
        train(TrainConfig.parse(changed))
    train(TrainConfig.parse(changed), allow_changed_config=True)
    assert "changed since the checkpoint: optimizer.lr" in caplog.text
    assert len(metrics(settings["output"])) == 3


def test_changed_frames_are_refused(settings, frames_file, tmp_path):
    train(TrainConfig.parse({**settings, "epochs": 1}))
    other = tmp_path / "other.xyz"
    other.write_text(frames_file.read_text().replace("energy=", "energy=0.1 old_energy="))
    changed = {**settings, "data": {**settings["data"], "train": str(other)}}
    with pytest.raises(CheckpointError, match="data: the training or validation frames"):
        train(TrainConfig.parse(changed))


def test_moved_frames_are_not_changed_frames(settings, frames_file, tmp_path):
    train(TrainConfig.parse({**settings, "epochs": 1}))
    moved = tmp_path / "moved.xyz"
    moved.write_bytes(frames_file.read_bytes())
    train(TrainConfig.parse({**settings, "epochs": 2, "data": {**settings["data"], "train": str(moved)}}))
    assert len(metrics(settings["output"])) == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(settings):
    train(TrainConfig.parse({**settings, "epochs": 1}))
    path = Path(settings["output"]) / checkpoint.NAME
    wild = TrainConfig.parse({**settings, "optimizer": {"lr": 1e30}, "checkpoint": {"every_steps": None}})
    with pytest.raises(
        TrainingError, match=r"epoch 2, step 2: the loss is (nan|inf).*checkpoint\.pt holds.*lr"
    ):
        train(wild, allow_changed_config=True)
    kept = checkpoint.load(path)
    assert kept["progress"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["model"].values())


def test_a_truncated_checkpoint_is_one_sentence_on_the_command_line(settings, write_config, capsys):
    path = write_config({**settings, "epochs": 1})
    assert main(["train", path]) == 0
    damaged = Path(settings["output"]) / checkpoint.NAME
    damaged.write_bytes(damaged.read_bytes()[:1000])
    capsys.readouterr()
    assert main(["train", path]) == 1
    error = capsys.readouterr().err
    assert error.startswith("uqforce train: ")
    assert "truncated" in error and checkpoint.BACKUP in error
    assert "Traceback" not in error
    (Path(settings["output"]) / checkpoint.BACKUP).replace(damaged)
    assert main(["train", path]) == 0
