"""Members of an ensemble: one command, each resumable, in processes to the bit as in turn, one file."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from uqforce.cli import main
from uqforce.data import Dataset
from uqforce.errors import TrainingError
from uqforce.model import Ensemble, load_model
from uqforce.model.predict import predict, predict_members
from uqforce.training import TrainConfig, train
from uqforce.training.loss import measure, measure_members
from uqforce.training.runs import member_config


@pytest.fixture
def settings(settings) -> dict:
    return {**settings, "epochs": 2, "members": 2, "threads": 1}


def models(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.uqf")}


@pytest.fixture(scope="module")
def of_serial(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serial") / "run"


@pytest.fixture
def serial(settings, write_config, of_serial) -> Path:
    """Directory of two members trained one after another by the command line, once for all tests."""
    if not of_serial.exists():
        assert main(["train", write_config({**settings, "output": str(of_serial)}, "serial.yaml")]) == 0
    return of_serial


def test_two_members_and_their_ensemble(serial, settings):
    ensemble = load_model(serial / "ensemble.uqf")
    assert isinstance(ensemble, Ensemble) and len(ensemble.members) == 2
    made = ensemble.card["ensemble"]
    assert made["kind"] == "independent" and [m["seed"] for m in made["training"]] == [0, 1]
    assert all(0 < m["validation_loss"] < 1e6 for m in made["training"])
    members = [load_model(serial / f"member_0{k}" / "best.uqf") for k in range(2)]
    for mine, theirs in zip(ensemble.members, members):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    weights = [member.network.type_embedding for member in members]
    assert not torch.equal(*weights)

    batch = Dataset(serial / "data" / "validation.store")[0]
    together, apart = predict(ensemble, batch), [predict(member, batch) for member in members]
    assert torch.equal(together.energy_ensemble, torch.stack([p.energy for p in apart]))
    torch.testing.assert_close(together.forces, (apart[0].forces + apart[1].forces) / 2)
    report = json.loads((serial / "report.json").read_text())
    assert {"train", "validation"} == report.keys()


def test_the_first_member_is_the_model_that_one_run_trains(serial, settings, tmp_path):
    one = train(TrainConfig.parse({**settings, "members": 1, "output": str(tmp_path / "one")}))
    assert one == tmp_path / "one" / "best.uqf"
    assert one.read_bytes() == (serial / "member_00" / "best.uqf").read_bytes()


def test_members_in_processes_equal_members_in_turn(serial, settings, write_config, tmp_path, capfd):
    directory = tmp_path / "parallel"
    config = write_config({**settings, "output": str(directory), "parallel": 2}, "parallel.yaml")
    assert main(["train", config]) == 0
    assert models(directory) == models(serial)
    for member in ("member_00", "member_01"):
        assert "epoch 2/2" in (directory / member / "train.log").read_text()
    assert "epoch" not in capfd.readouterr().out


def test_killed_members_resume_to_bitwise_the_same_end(serial, settings, write_config):
    """Killed in the second member's second epoch; the first is complete and trains no further."""
    config = write_config(settings)
    code = f"""
        import os, signal
        from uqforce.cli import main
        from uqforce.training.loop import Trainer
        clip = Trainer._clip
        def clip_or_die(self):
            if (self.config.seed, self.progress.epoch, self.progress.step) == (1, 1, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            return clip(self)
        Trainer._clip = clip_or_die
        main(["train", {config!r}])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    killed = Path(settings["output"])
    assert not (killed / "ensemble.uqf").exists()
    first = (killed / "member_00" / "metrics.csv").read_text()
    assert main(["train", config]) == 0
    assert (killed / "member_00" / "metrics.csv").read_text() == first
    assert models(killed) == models(serial)


def test_processes_of_members_end_with_the_command(settings, write_config):
    config = write_config({**settings, "parallel": 2, "epochs": 100_000})
    command = [sys.executable, "-m", "uqforce.cli", "train", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        started = []
        for line in iter(run.stdout.readline, ""):
            if ": process " in line:
                started.append(int(line.split("process ")[1].split(",")[0]))
            if len(started) == 2:
                break
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in started):
        assert time.monotonic() < end, "a member trains on without its parent"
        time.sleep(0.1)


def test_a_member_that_fails_is_named_and_the_others_go_on(settings, write_config, capfd):
    """The second member's checkpoint is no checkpoint."""
    damaged = Path(settings["output"]) / "member_01" / "checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"member_01 \(exit status 1, see .*member_01/train\.log\)"):
        train(TrainConfig.parse({**settings, "parallel": 2}))
    assert "truncated or damaged" in (damaged.parent / "train.log").read_text()
    assert (damaged.parents[1] / "member_00" / "best.uqf").exists()
    capfd.readouterr()


def test_more_members_later(serial, settings):
    more = Path(settings["output"])
    shutil.copytree(serial, more, symlinks=True)
    train(TrainConfig.parse({**settings, "members": 3}))
    assert (more / "member_01" / "best.uqf").read_bytes() == (serial / "member_01" / "best.uqf").read_bytes()
    assert len(load_model(more / "ensemble.uqf").members) == 3


def test_members_share_the_neighbour_lists(serial):
    assert (serial / "member_00" / "data").resolve() == (serial / "data").resolve()
    assert (serial / "data" / "train.store").is_file()


def test_a_member_is_a_run_of_its_own(settings):
    member = member_config(TrainConfig.parse({**settings, "seed": 5, "uncertainty": "ensemble"}), 1)
    assert (member.seed, member.members, member.output) == (6, 1, f"{settings['output']}/member_01")
    assert TrainConfig.parse(member.model_dump(mode="json")) == member


def test_heads_are_trained_by_the_mean_of_their_losses(settings):
    """and each as by itself: the gradient of a head's readout is its own model's over the number of heads."""
    settings |= {"members": 1, "uncertainty": "heads"}
    settings["model"] |= {"heads": 3, "noise": "local"}
    settings["loss"] = {"energy": {"kind": "likelihood"}, "forces": {"kind": "likelihood"}}
    config = TrainConfig.parse(settings)
    path = train(config)
    heads = load_model(path).train()
    assert heads.network.readout.last.weight.shape == (4, 3)
    batch = Dataset(path.parent / "data" / "validation.store")[0]
    apart = predict_members(heads, batch)
    assert len(apart) == 3 and len({one.energy.item() for one in apart}) == 3
    terms = measure_members(apart, batch, config.loss).terms
    torch.testing.assert_close(terms, sum(measure(one, batch, config.loss).terms for one in apart) / 3)
    of_last = heads.network.readout.last.weight
    (together,) = torch.autograd.grad(terms.sum(), of_last, retain_graph=True)
    for k, one in enumerate(apart):
        loss = measure(one, batch, config.loss).terms.sum()
        (alone,) = torch.autograd.grad(loss, of_last, retain_graph=True)
        assert alone[:, [j for j in range(3) if j != k]].abs().max() == 0
        torch.testing.assert_close(together[:, k], alone[:, k] / 3)
    mean = predict(heads, batch)
    torch.testing.assert_close(mean.forces, torch.stack([one.forces for one in apart]).mean(0))
