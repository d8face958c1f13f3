"""The demo's data are what their README says, and its configuration is one that trains."""

from pathlib import Path

import numpy as np
import pytest

from uqforce.data import check_leakage, read_frames
from uqforce.training import TrainConfig

DEMO = Path(__file__).parents[1] / "examples" / "demo"
FRAMES = {"train_300K": 300, "valid_300K": 50, "test_300K": 100, "test_600K": 100, "test_1000K": 100}


@pytest.fixture(scope="module")
def sets():
    return {name: read_frames(DEMO / "data" / f"{name}.xyz.xz") for name in FRAMES}


def test_sets_are_complete_and_disjoint(sets):
    assert {name: len(frames) for name, frames in sets.items()} == FRAMES
    for frames in sets.values():
        assert all(len(frame) == 22 and frame.forces.shape == (22, 3) for frame in frames)
        assert all(frame.energy is not None for frame in frames)
    check_leakage(sets)


def test_labels_are_those_of_gfn2(sets, monkeypatch):
    pytest.importorskip("tblite")
    monkeypatch.syspath_prepend(str(DEMO))
    from make_data import label

    for frames in sets.values():
        again = label(frames[0].positions, frames[0].symbols, 0.0)
        assert again.get_potential_energy() == pytest.approx(frames[0].energy, abs=2e-6)
        np.testing.assert_allclose(again.get_forces(), frames[0].forces, atol=2e-4)


def test_configuration_is_valid():
    config = TrainConfig.load(DEMO / "train.yaml")
    assert all((DEMO.parents[1] / path).is_file() for path in [*config.data.train, *config.data.validation])
