"""A run with dropout: masks drawn from the run's generator, and their heads at its end."""

import pytest
import torch

from uqforce.errors import ConfigError
from uqforce.model import load_model
from uqforce.training import TrainConfig, train


@pytest.fixture
def dropout(settings) -> dict:
    del settings["loss"]
    return {**settings, "uncertainty": "dropout", "epochs": 2, "dropout_samples": 3}


def test_a_run_leaves_its_masks_as_heads(dropout):
    config = TrainConfig.parse(dropout)
    assert (config.model.dropout, config.model.noise, config.loss.forces.kind) == (
        1 / 64,
        "white",
        "likelihood",
    )
    dropout["model"]["dropout"] = 0.25
    path = train(TrainConfig.parse(dropout))
    best, heads = load_model(path.with_name("best.uqf")), load_model(path)
    assert path.name == "ensemble.uqf" and heads.config.heads == 3 and best.config.dropout == 0.25
    ratio = heads.network.readout.last.weight / best.network.readout.last.weight
    torch.testing.assert_close(ratio.unique(), torch.tensor([0.0, 1 / 0.75]))


def test_a_resumed_run_draws_the_same_masks(dropout, tmp_path):
    straight = train(TrainConfig.parse({**dropout, "output": str(tmp_path / "straight")}))
    train(TrainConfig.parse({**dropout, "epochs": 1}))
    assert train(TrainConfig.parse(dropout)).read_bytes() == straight.read_bytes()


def test_a_posterior_has_no_dropout(dropout):
    with pytest.raises(ConfigError, match=r"model\.dropout: 0\.1: a posterior has none"):
        TrainConfig.parse({**dropout, "uncertainty": "bayes", "model": {**dropout["model"], "dropout": 0.1},
                           "optimizer": {}, "ema": None, "epochs": 750})  # fmt: skip
