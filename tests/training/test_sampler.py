"""Chains over a network's weights: the posterior's gradient, step sizes, samples, the whole run."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file

from tests.training.killed import metrics, run_killed
from uqforce.data import Dataset, collate, read_frames
from uqforce.errors import ConfigError, TrainingError
from uqforce.model import Potential, load_model
from uqforce.model.predict import predict
from uqforce.training import TrainConfig, checkpoint, template, train
from uqforce.training.chains import draws_of, joined_samples
from uqforce.training.config_sections import SamplerConfig
from uqforce.training.sampler import Sampler, SamplerSchedule

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
        ({"members": 2}, "members: 2: a sampler has chains, set sampler.chains"),
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


def test_a_sample_is_one_network(posterior):
    posterior["model"]["heads"] = 2
    with pytest.raises(ConfigError, match=r"model\.heads: 2: a sample is one network"):
        TrainConfig.parse(posterior)


def test_a_weighted_likelihood_is_no_posterior(posterior):
    posterior["loss"]["forces"]["weight"] = 100.0
    with pytest.raises(ConfigError, match=r"loss\.forces of kind likelihood and weight 100"):
        TrainConfig.parse(posterior)
    posterior["loss"]["forces"]["weight"] = 0.0
    config = TrainConfig.parse(posterior)
    assert (config.loss.energy.weight, config.ema, config.epochs) == (1.0, None, 7)
    assert TrainConfig.parse(config.model_dump(mode="json")) == config


def test_the_template_shows_the_fields():
    text = template(full=True)
    assert "sampler: null" in text
    for name in SamplerConfig.model_fields:
        assert f"#   {name}: " in text, name


# Each stops the process as `kill -9` does, in an epoch at whose end there is a sample, or after it.
MOMENTS = {
    "within a step, before D is frozen": """
        clip = Sampler._clip
        Sampler._clip = lambda self: die() if at(self, 1, 1) else clip(self)
    """,
    "within a step of a cycle": """
        clip = Sampler._clip
        Sampler._clip = lambda self: die() if at(self, 4, 2) else clip(self)
    """,
    "sample written, checkpoint not": """
        save = Sampler.save
        Sampler.save = lambda self: die() if at(self, 5, 0) else save(self)
    """,
}


def contents(directory: Path) -> dict[str, bytes]:
    """Every sample and the model they make."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.uqf")}


@pytest.fixture(scope="module")
def of_whole(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def whole(posterior, of_whole) -> Path:
    """Directory of two chains run in one go, made once for all tests."""
    if not of_whole.exists():
        posterior = {**posterior, "sampler": {**SAMPLER, "chains": 2}, "output": str(of_whole)}
        assert train(TrainConfig.parse(posterior)) == of_whole / "ensemble.uqf"
    return of_whole


def test_a_bayesian_network_end_to_end(whole, frames_file):
    chains = [whole / "samples" / f"chain_{chain:02d}" for chain in range(2)]
    for chain in chains:
        assert sorted(path.name for path in chain.glob("*.uqf")) == [f"sample_{k:03d}.uqf" for k in range(3)]
        rows = metrics(chain)
        assert [row["temperature"] == "nan" for row in rows] == [True] + 6 * [False]
        assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    ensemble = load_model(whole / "ensemble.uqf")
    assert len(ensemble.members) == 6 and ensemble.ddof == 1
    card = ensemble.card["ensemble"]
    assert (card["kind"], card["chains"], card["samples"]) == ("bayes", 2, 3)
    assert [training["epoch"] for training in card["training"]] == 2 * [3, 5, 7]

    # the law of total variance over the samples' own predictions
    data = Dataset.build(read_frames(frames_file), ["Au", "Cu"], ensemble.config.r_max)
    batch = collate([data[0], data[1]])
    each = [predict(load_model(chain / f"sample_{k:03d}.uqf"), batch) for chain in chains for k in range(3)]
    together = predict(ensemble, batch)
    energy = torch.stack([p.energy for p in each])
    variance = torch.stack([p.energy_uncertainty.square() for p in each]).mean(0) + energy.var(0)
    torch.testing.assert_close(together.energy, energy.mean(0))
    torch.testing.assert_close(together.energy_uncertainty.square(), variance)
    trace = torch.stack([p.forces for p in each]).var(0).sum(1) / 3
    torch.testing.assert_close(together.forces_uncertainty_epistemic.square(), trace)
    draws = draws_of(ensemble, data, chains=2)
    assert draws["forces"].shape == (2, 3, 17 * 4 * 3)
    torch.testing.assert_close(draws["energy"][1, 2, :2], each[5].energy)
    assert trace.min() > 0 and "R-hat" in (whole / "train.log").read_text()
    assert json.loads((whole / "diagnostics.json").read_text())["chains"] == 2


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_chain_resumes_to_bitwise_the_same_samples(posterior, whole, moment, write_config):
    """The first of the two chains; what the preconditioner and the noise need is in the checkpoint."""
    path = write_config({**posterior, "sampler": {**SAMPLER, "chains": 1}})
    run_killed(path, f"from uqforce.training.sampler import Sampler\n{textwrap.dedent(MOMENTS[moment])}")
    train(TrainConfig.load(path))
    killed, chain = Path(posterior["output"]), Path("samples") / "chain_00"
    assert contents(killed / chain) == contents(whole / chain)
    assert metrics(killed / chain) == metrics(whole / chain)
    states = [checkpoint.load(run / chain / checkpoint.NAME)["optimizer"] for run in (killed, whole)]
    assert all(torch.equal(*noise) for noise in zip(*(state["noise"].values() for state in states)))


def test_chains_and_samples_may_be_added_and_run_in_processes(posterior, whole):
    """One chain of two samples, then two of three in processes: what one go makes."""
    train(TrainConfig.parse({**posterior, "sampler": {**SAMPLER, "samples": 2}, "threads": 1}))
    more = {**posterior, "sampler": {**SAMPLER, "chains": 2}, "threads": 1, "parallel": 2}
    train(TrainConfig.parse(more))
    ours, theirs = contents(Path(posterior["output"])), contents(whole)
    assert ours.keys() == theirs.keys() and len(ours) == 7
    assert all(ours[name] == theirs[name] for name in theirs if name.startswith("samples"))


def test_chains_that_time_ended_are_joined_as_far_as_they_came(posterior, whole):
    config = TrainConfig.parse({**posterior, "sampler": {**SAMPLER, "chains": 2, "samples": 9}})
    runs = [
        config.model_copy(update={"output": str(whole / "samples" / f"chain_{chain:02d}")})
        for chain in (0, 1)
    ]
    assert len(joined_samples(runs).members) == 6
    with pytest.raises(TrainingError, match=r"1 chain\(s\) with 0 sample\(s\) when max_minutes"):
        joined_samples([config])


def test_a_molecule(tmp_path):
    """Ethanol of ASE's EMT, by the word alone: it learns, and the report says how well the chains agree."""
    random = np.random.default_rng(0)
    frames = []
    for _ in range(20):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, rng=random)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(tmp_path / "ethanol.xyz", frames)
    settings = {
        "output": str(tmp_path / "run"),
        "uncertainty": "bayes",
        "data": {"train": str(tmp_path / "ethanol.xyz"), "split": {"validation": 5}},
        "model": {"r_max": 3.0, "num_layers": 2, "num_features": [8], "radial_mlp_width": 16},
        "sampler": {"burn_in": 60, "samples": 4, "cycle": 5, "chains": 2, "lr_final": 1e-3},
    }
    config = TrainConfig.parse(settings)
    assert (config.model.noise, config.epochs, config.ema) == ("white", 75, None)
    ensemble = load_model(train(config))
    rows = metrics(tmp_path / "run" / "samples" / "chain_01")
    last, first = (float(rows[k]["validation_forces_rmse (meV/A)"]) for k in (-1, 0))
    assert last < 0.5 * first
    said = json.loads((tmp_path / "run" / "diagnostics.json").read_text())
    assert said["forces"]["r_hat"]["median"] > 1 and 1 < said["energy"]["effective_samples"]["median"] < 12
    assert all(0.8 < temperature < 1.5 for temperature in said["temperature"])
    data = Dataset.build(read_frames(tmp_path / "ethanol.xyz"), ensemble.config.type_names, 3.0)
    said = predict(ensemble, collate([data[0]]))
    assert said.forces_uncertainty_epistemic.min() > 0 and said.forces_uncertainty_aleatoric.min() > 0


def test_two_processes_make_the_samples_of_one(posterior, write_config, tmp_path):
    """Shares of 3 and 2 structures, and of 1 and none in the last step: prior and noise are counted once."""
    posterior["data"]["split"] = {"validation": 4, "train": 11}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "uqforce.cli"]
    directories = [tmp_path / "one", tmp_path / "two"]
    train(TrainConfig.parse({**posterior, "output": str(directories[0])}))
    path = write_config({**posterior, "output": str(directories[1])})
    done = subprocess.run(
        [sys.executable, *launch, "train", path], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    one, two = (load_file(directory / "ensemble.uqf") for directory in directories)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9, msg=name)
