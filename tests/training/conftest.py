"""Tiny real training: copper-gold crystals labelled by ASE's EMT, and a model of a few hundred weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ase.io import write

from tests.small_crystals import crystals
from uqforce.training import TrainConfig

FRAMES = 17


@pytest.fixture(scope="session")
def frames_file(tmp_path_factory) -> Path:
    """17 labelled frames of 4 atoms; 13 train and 4 validate under `settings`."""
    path = tmp_path_factory.mktemp("crystals") / "train.xyz"
    write(path, crystals(FRAMES, seed=0))
    return path


@pytest.fixture
def settings(frames_file, tmp_path) -> dict:
    """A configuration that trains in a second: 3 steps per epoch, the last of 3 frames."""
    return {
        "output": str(tmp_path / "run"),
        "data": {
            "train": str(frames_file),
            "split": {"validation": 4},
            "isolated_energies": {"Cu": 0.1, "Au": 0.2},
        },
        "model": {"r_max": 3.5, "num_layers": 2, "num_features": [4], "parity": False, "radial_mlp_width": 8},
        "loss": {"forces": {"weight": 10.0}, "stress": {"weight": 1.0}},
        "optimizer": {"lr": 0.005},
        "checkpoint": {"every_steps": 1},
        "ema": 0.9,
        "epochs": 3,
    }


@pytest.fixture
def config(settings) -> TrainConfig:
    return TrainConfig.parse(settings)


@pytest.fixture
def write_config(tmp_path) -> Callable[..., str]:
    """`write_config(settings, name)` writes a YAML file for the command line and returns its path."""

    def write_yaml(settings: dict, name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return write_yaml
