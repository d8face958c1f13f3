"""Training that starts from a model file: all of it, or new heads on a frozen network."""

from pathlib import Path

import pytest
import torch

from tests.model.systems import make_potential
from uqforce.errors import ConfigError
from uqforce.model import load_model, sample_structure, save_model
from uqforce.training import TrainConfig, train

LIKELIHOOD = {"energy": {"kind": "likelihood"}, "forces": {"kind": "likelihood", "weight": 1.0}}


@pytest.fixture
def source(tmp_path) -> Path:
    """A model file with a projected mixture, an imported card, and scales that were trained."""
    potential = make_potential(
        type_names=["Au", "Cu", "H"],
        num_layers=2,
        l_max=1,
        num_features=[4, 3],
        dtype="float32",
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.15,
    )
    potential.network.scale_shift.scales.data *= 1.5
    d = potential.network.num_last_features
    potential.set_mixture(torch.zeros(1, 1), torch.eye(1).unsqueeze(0), torch.zeros(1), torch.eye(d)[:, :1])
    potential.card = {"imported": {"from": "nequip 0.19.1"}, "thresholds": {"nll": {"max": 3.0}}}
    save_model(potential, tmp_path / "source.uqf")
    return tmp_path / "source.uqf"


@pytest.fixture
def tuning(settings, source) -> dict:
    del settings["data"]["isolated_energies"]
    return {**settings, "model": {"start": str(source)}, "epochs": 2}


def with_head(tuning: dict, **model) -> dict:
    return {**tuning, "model": {**tuning["model"], "noise": "total", **model}, "loss": LIKELIHOOD}


def test_the_file_is_the_configuration(tuning, source):
    model = TrainConfig.parse(tuning).model
    assert (model.r_max, model.num_features, model.type_names) == (3.5, [4, 3], ["Au", "Cu", "H"])
    assert model.per_type_energy_scales == dict.fromkeys(["Au", "Cu", "H"], 1.5)
    source.unlink()  # what was understood needs no file to be understood again
    again = TrainConfig.parse({**tuning, "model": model.model_dump(mode="json")})
    assert again.model == model


def test_fine_tuning(tuning, source):
    before = load_model(source)
    after = load_model(train(TrainConfig.parse({**tuning, "optimizer": {"lr": 1e-12}})))
    for name, value in before.network.state_dict().items():  # such steps change nothing that is not zero
        torch.testing.assert_close(after.network.state_dict()[name], value, rtol=1e-5, atol=1e-8)
    assert after.card["imported"] == {"from": "nequip 0.19.1"}
    assert after.card["start"]["file"] == "source.uqf" and not after.card["start"]["frozen"]
    assert after.mixture.means.shape[0] == 0 and "thresholds" not in after.card
    tuned = load_model(train(TrainConfig.parse({**tuning, "output": tuning["output"] + "2"})))
    assert not torch.equal(tuned.network.type_embedding, before.network.type_embedding)


def test_a_new_head_on_a_frozen_network(tuning, source):
    before, after = load_model(source), load_model(train(TrainConfig.parse(with_head(tuning, freeze=True))))
    for name, value in {
        **before.network.state_dict(),
        **before.mixture.state_dict(prefix="mixture."),
    }.items():
        own = after.mixture.state_dict(prefix="mixture.") | dict(after.network.state_dict())
        assert torch.equal(own[name], value), name
    case = sample_structure(before)
    ours, theirs = after(*case), before(*case)
    assert torch.equal(ours.energies, theirs.energies) and torch.equal(ours.nll, theirs.nll)
    torch.testing.assert_close(ours.forces, theirs.forces)
    assert ours.energy_uncertainty.numel() == 2 and after.card["thresholds"] == before.card["thresholds"]
    still = {**with_head(tuning, freeze=True), "output": tuning["output"] + "2", "optimizer": {"lr": 1e-12}}
    untrained = load_model(train(TrainConfig.parse(still)))
    assert (untrained.noise.head.last.weight - after.noise.head.last.weight).abs().max() > 1e-3


def test_a_rigidity_stays_with_features_and_scales_and_never_goes_silently(tuning, source, caplog):
    model = load_model(source)
    factor = torch.randn(model.network.num_last_features, model.network.num_last_features)
    model.rigidity.store(factor)
    model.card["llpr"] = {"structures": 3}
    save_model(model, source)
    kept = load_model(train(TrainConfig.parse(with_head(tuning, freeze=True))))
    case = sample_structure(model)
    assert torch.equal(kept.rigidity.factor, factor.double()) and kept.card["llpr"] == {"structures": 3}
    assert torch.equal(kept(*case).llpr, model(*case).llpr) and len(kept(*case).llpr) > 0
    assert "llpr is left out" not in caplog.text
    ways = {"energy scales are others": {"freeze": True, "per_type_energy_scales": 2.0}, "features will": {}}
    for number, (why, changed) in enumerate(ways.items()):
        settings = {**with_head(tuning, **changed), "output": f"{tuning['output']}{number}", "epochs": 1}
        lost = load_model(train(TrainConfig.parse(settings)))
        assert lost.rigidity.factor is None and "llpr" not in lost.card
        assert f"its llpr is left out, since the {why}" in caplog.text


def test_a_new_head_on_a_free_network(tuning, source):
    after = load_model(train(TrainConfig.parse(with_head(tuning))))
    assert not torch.equal(after.network.type_embedding, load_model(source).network.type_embedding)
    # a head that is there is taken over
    again = with_head(tuning, start=str(Path(tuning["output"]) / "best.uqf"), freeze=True)
    again |= {"output": tuning["output"] + "2", "optimizer": {"lr": 1e-12}}
    head = load_model(train(TrainConfig.parse(again))).noise
    for ours, theirs in zip(head.parameters(), after.noise.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_energies_of_the_configuration_count(tuning, source):
    tuning["model"]["per_type_energy_shifts"] = {"Au": 1.0, "Cu": 2.0, "H": 3.0}
    after = load_model(train(TrainConfig.parse({**tuning, "epochs": 1})))
    assert after.network.scale_shift.shifts.tolist() == [1.0, 2.0, 3.0]
    assert after.network.scale_shift.scales.tolist() == [1.5] * 3


def test_resumed_bitwise(tuning):
    tuning = with_head(tuning, freeze=True)
    straight = load_model(train(TrainConfig.parse({**tuning, "output": tuning["output"] + "2"})))
    train(TrainConfig.parse({**tuning, "epochs": 1}))
    resumed = load_model(train(TrainConfig.parse(tuning)))
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"start": "missing.uqf"}, "model: model file missing.uqf does not exist"),
        ({"preset": "S"}, "preset: S and start exclude each other"),
        ({"freeze": True}, "set noise: local"),
        ({"freeze": True, "noise": "total"}, "loss.energy.kind or loss.forces.kind: likelihood"),
        ({"start": None, "freeze": True, "r_max": 3.5}, "name one"),
        (
            {"per_type_energy_shifts": {"Au": 0.0, "Cu": 0.0}},
            "per_type_energy_shifts: {'Au': 0.0, 'Cu': 0.0} lacks H",
        ),
        ({"num_layers": 3}, "model.num_layers: 3, but"),
        ({"r_max": 3.0}, "model.r_max: 3.0, but"),
    ],
)
def test_contradictions_are_named(tuning, model, message):
    with pytest.raises(ConfigError) as error:
        train(TrainConfig.parse({**tuning, "model": {**tuning["model"], **model}}))
    assert message in str(error.value)
