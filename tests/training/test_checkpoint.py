"""Checkpoint files: complete or absent, damage found, no code run, generators restored."""

import hashlib
import os
import pickle
import random

import numpy as np
import pytest
import torch

from uqforce.errors import CheckpointError
from uqforce.training import checkpoint
from uqforce.training.checkpoint import BACKUP, NAME

STATE = {"model": {"weight": torch.arange(1000.0)}, "progress": {"epoch": 3}, "ema": None}


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_round_trip_keeps_a_backup(tmp_path):
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, {**STATE, "progress": {"epoch": 4}})
    new, old = checkpoint.load(tmp_path / NAME), checkpoint.load(tmp_path / BACKUP)
    assert (new["progress"]["epoch"], old["progress"]["epoch"]) == (4, 3)
    assert torch.equal(new["model"]["weight"], STATE["model"]["weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NAME, BACKUP])


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failure_while_writing_leaves_a_complete_checkpoint(tmp_path, monkeypatch, moment):
    checkpoint.save(tmp_path, STATE)

    def fail(*arguments):
        raise OSError("no space left on device")

    if moment == "write":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        rename = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: fail() if str(b).endswith(NAME) else rename(a, b))
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, {**STATE, "progress": {"epoch": 4}})
    assert checkpoint.load(checkpoint.find(tmp_path))["progress"]["epoch"] == 3


def test_nothing_to_find(tmp_path):
    assert checkpoint.find(tmp_path) is None


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -1000])
def test_a_truncated_file_is_one_sentence_naming_the_backup(tmp_path, keep):
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, STATE)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=f"truncated or damaged.*{BACKUP}") as error:
        checkpoint.load(tmp_path / NAME)
    assert "\n" not in str(error.value)
    checkpoint.load(tmp_path / BACKUP)


def test_a_flipped_bit_is_found(tmp_path):
    checkpoint.save(tmp_path, STATE)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()[400:440])] ^= 1
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum.*remove"):
        checkpoint.load(tmp_path / NAME)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_somebodys_pickle_is_refused_unless_trusted(tmp_path, form):
    path, witness = tmp_path / NAME, tmp_path / "ran"
    content = {"format_version": 1, "payload": Payload(witness)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"could run code.*--trust"):
        checkpoint.load(path)
    assert not witness.exists()


def test_trust_logs_the_hash_first(tmp_path, monkeypatch):
    path, witness, lines = tmp_path / NAME, tmp_path / "ran", []
    torch.save({"format_version": 1, "payload": Payload(witness)}, path)

    def echo(line):
        assert not witness.exists()
        lines.append(line)

    monkeypatch.setattr(checkpoint.log, "warning", echo)
    checkpoint.load(path, trust=True)
    assert witness.exists()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in lines[0]


def test_another_file_and_a_newer_format_are_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / NAME)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / NAME)
    torch.save({"format_version": 99, "uqforce_version": "9.9"}, tmp_path / NAME)
    with pytest.raises(CheckpointError, match=r"format 99.*9\.9.*upgrade"):
        checkpoint.load(tmp_path / NAME)


def test_generators_go_on_where_they_were(tmp_path):
    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),
            np.random.randn(1).tolist(),
            random.random(),
        )

    draw()
    checkpoint.save(tmp_path, {"rng": checkpoint.rng_state()})
    expected = draw()
    draw()
    checkpoint.set_rng_state(checkpoint.load(tmp_path / NAME)["rng"])
    assert draw() == expected
