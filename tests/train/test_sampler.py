"""Chains over a network's weights: the posterior's gradient, step sizes, samples, the whole run."""

import math
from pathlib import Path

import pytest
import torch

from uqforce.data import Dataset, collate, read_frames
from uqforce.model import Potential
from uqforce.train import ConfigError, TrainConfig, template
from uqforce.train.loop import predict
from uqforce.train.sampler import Sampler, SamplerSchedule
from uqforce.train.sections import SamplerConfig

SAMPLER = {"burn_in": 3, "freeze": 2, "cycle": 2, "samples": 3, "prior_scale": 0.5}


@pytest.fixture
def posterior(settings) -> dict:
    """A configuration of chains of three samples and seven epochs, a second long."""
    for name in ("optimizer", "epochs", "ema"):
        del settings[name]
    settings["model"] |= {"noise": "total", "dtype": "float64"}
    settings["loss"] = {"energy": {"kind": "likelihood"}, "forces": {"kind": "likelihood"}}
    return {**settings, "sampler": SAMPLER}


def make_sampler(posterior: dict, frames_file: Path, directory: Path) -> Sampler:
    config = TrainConfig.parse(posterior)
    frames = read_frames(frames_file)
    data = [Dataset.build(part, ["Cu", "Au"], config.model.r_max) for part in (frames[:13], frames[13:])]
    torch.manual_seed(0)
    model = config.model.resolve(
        ["Cu", "Au"], avg_num_neighbors=12.0, scales=1.0, shifts={"Cu": 0.1, "Au": 0.2}
    )
    potential = Potential(model)
    potential.card = {"training": {}}
    directory.mkdir(exist_ok=True)
    return Sampler(config, potential, *data, directory, "hash")


def negative_log_likelihood(sampler: Sampler, frames: range) -> torch.Tensor:
    """Of the structures' energies and forces, from torch's distributions, summed."""
    total = torch.zeros((), dtype=torch.float64)
    for i in frames:
        batch = collate([sampler.train[i]])
        prediction = predict(sampler.potential, batch)
        energy = torch.distributions.Normal(prediction.energy, prediction.energy_uncertainty)
        forces = torch.distributions.MultivariateNormal(prediction.forces, prediction.forces_covariance)
        total = total - energy.log_prob(batch.energy).sum() - forces.log_prob(batch.forces).sum()
    return total


def test_the_batches_of_an_epoch_make_the_gradient_of_the_posterior(posterior, frames_file, tmp_path):
    """Batches of 5, 5 and 3 of 13 structures, at fixed weights: sum of |B| g is grad(-log posterior)."""
    sampler = make_sampler(posterior, frames_file, tmp_path)
    sampler.potential.train()
    gathered = [torch.zeros_like(p) for p in sampler.parameters]

    def gather():
        size = 3 if sampler.progress.step == 2 else 5
        torch._foreach_add_(gathered, [p.grad for p in sampler.parameters], alpha=size)

    sampler.optimizer.step = gather
    for step, frames in enumerate([range(5), range(5, 10), range(10, 13)]):
        sampler.progress.step = step
        sampler.train_step(list(frames))
    weights = [
        p for name, p in sampler.potential.named_parameters() if p.requires_grad and "gamma" not in name
    ]
    assert len(weights) == len(sampler.parameters) - 2  # which start at their prior's centre
    prior = sum(torch.distributions.Normal(0.0, 0.5).log_prob(p).sum() for p in weights)
    minus_log_posterior = negative_log_likelihood(sampler, range(13)) - prior
    expected = torch.autograd.grad(minus_log_posterior, sampler.parameters, allow_unused=True)
    for ours, wanted in zip(gathered, expected, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if wanted is None else wanted)


def test_step_sizes():
    config = SamplerConfig(burn_in=2, cycle=4, lr=1e-2, lr_final=1e-4, lr_cycle=1e-3)
    schedule = SamplerSchedule(config, steps_per_epoch=2)
    burn_in = [schedule.lr(k) for k in range(4)]
    assert burn_in == pytest.approx([1e-2 * 100 ** (-k / 3) for k in range(4)])
    # Zhang et al., ICLR 2020: lr / 2 (cos(pi mod(k - 1, 8) / 8) + 1), k = 1, 2, ...
    cycle = [0.5e-3 * (math.cos(math.pi * k / 8) + 1) for k in range(8)]
    assert cycle[0] == 1e-3 and cycle[4] == pytest.approx(5e-4) and 0 < cycle[7] < 4e-5
    assert [schedule.lr(4 + k) for k in range(16)] == pytest.approx(cycle + cycle)


def test_samples_are_taken_where_cycles_end():
    config = SamplerConfig(burn_in=10, cycle=4, samples=3)
    taken = {epoch: config.sample_after(epoch) for epoch in range(1, config.epochs + 1)}
    assert {epoch: number for epoch, number in taken.items() if number is not None} == {10: 0, 14: 1, 18: 2}
    assert config.epochs == 18 and config.freeze_epochs == 7
    assert SamplerConfig(burn_in=1, samples=2).freeze_epochs == 1


def test_the_prior_is_centred_on_the_model_to_start_from(posterior, frames_file, tmp_path):
    first = make_sampler(posterior, frames_file, tmp_path / "first")
    first.rows.append({"epoch": 0})
    first.save_model("start.uqf")
    posterior["model"] = {"start": str(tmp_path / "first" / "start.uqf")}
    sampler = make_sampler(posterior, frames_file, tmp_path / "second")
    names = [name for name, p in sampler.potential.named_parameters() if p.requires_grad]
    assert len(names) == len(sampler.prior.centres)
    for name, parameter, centre in zip(names, sampler.parameters, sampler.prior.centres, strict=True):
        if name.startswith("noise.head"):
            assert not centre.any() and parameter.any() == ("shift" not in name)
        else:
            assert torch.equal(centre, parameter), name
    assert any(name.startswith("network.") for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"lr": 0.02}}, "optimizer: sampler takes its place, leave it out"),
        ({"schedule": {"kind": "cosine"}}, "schedule: sampler takes its place"),
        ({"clip": 1.0}, "clip: sampler takes its place"),
        ({"ema": 0.9}, "ema: 0.9: samples are no means"),
        ({"epochs": 8}, "epochs: 8: sampler's burn_in, samples and cycle make 7"),
        ({"loss": {"energy": {"kind": "likelihood"}}}, "loss.forces of kind mse and weight 1"),
        ({"sampler": {**SAMPLER, "samples": 1}}, "at least two samples"),
        ({"sampler": {**SAMPLER, "freeze": 4}}, "freeze: 4 is after the first sample: at most burn_in, 3"),
        ({"sampler": {**SAMPLER, "temprature": 1}}, "no such field, did you mean 'temperature'"),
        ({"sampler": {**SAMPLER, "alpha": 2}}, "Input should be less than or equal to 1 (friction"),
    ],
)  # fmt: skip
def test_contradictions_are_named(posterior, change, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig.parse({**posterior, **change})
    assert message in str(error.value)


def test_a_weighted_likelihood_is_no_posterior(posterior):
    posterior["loss"]["forces"]["weight"] = 100.0
    with pytest.raises(ConfigError, match=r"loss\.forces of kind likelihood and weight 100"):
        TrainConfig.parse(posterior)
    posterior["loss"]["forces"]["weight"] = 0.0
    config = TrainConfig.parse(posterior)
    assert (config.loss.energy.weight, config.ema, config.epochs) == (1.0, None, 7)
    assert TrainConfig.parse(config.model_dump(mode="json")) == config


def test_the_template_shows_the_fields():
    text = template()
    assert "sampler: null" in text
    for name in SamplerConfig.model_fields:
        assert f"#   {name}: " in text, name
