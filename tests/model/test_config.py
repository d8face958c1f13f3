"""Configurations of models: presets, and errors that name the value."""

import pytest

from uqforce.model import ModelConfig


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"type_names": ["H", "Xx"]}, "Xx"),
        ({"type_names": ["H", "H"]}, "twice"),
        ({"num_features": [8, 4]}, "num_features"),
        ({"per_type_energy_shifts": {"H": -1.0}}, "per_type_energy_shifts"),
        ({"avg_num_neighbors": 0.0}, "positive"),
        ({"per_edge_type_cutoff": {"N": 2.0}}, "'N'"),
        ({"per_edge_type_cutoff": {"H": 9.0}}, "9.0"),
        ({"r_max": -1.0}, "r_max"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_configurations_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"type_names": ["H", "C", "O"], "r_max": 4.0, "l_max": 2, **fields})


def test_presets():
    config = ModelConfig.from_preset("m", type_names=["Si"], r_max=5.0, num_layers=3)
    assert (config.num_layers, config.l_max, config.num_features) == (3, 2, [128, 64, 32])
    assert config.hidden_irreps() == "128x0e + 64x1o + 32x2e"
    with pytest.raises(ValueError, match="S, M, L, XL"):
        ModelConfig.from_preset("Q", type_names=["Si"], r_max=5.0)
