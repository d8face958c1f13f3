"""Dropout of the last features: in training by chance, at evaluation as heads."""

import pytest
import torch

from tests.model.systems import make_potential
from uqforce.model import Graph, ModelConfig, dropout_heads, sample_structure
from uqforce.model.dropout import dropout_masks
from uqforce.model.potential import Potential

NOISES = ["none", "total", "local", "white"]


def dropped(noise: str, **fields) -> Potential:
    return make_potential(num_features=[6, 4], l_max=1, num_layers=2, dropout=0.3, noise=noise, **fields)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_head_is_the_model_with_its_mask(noise, depth):
    """Energies, forces and noise of each head, and of the model whose features its mask multiplies."""
    potential = dropped(noise, readout_mlp_hidden_layers_depth=depth)
    heads = dropout_heads(potential, samples=5, seed=1)
    assert heads.config.heads == 5 and heads.card["ensemble"]["kind"] == "dropout"
    masks = dropout_masks(5, potential.network.num_last_features, 0.3, seed=1)
    assert (masks == 0).any() and not (masks[0] == masks).all()
    case = sample_structure(potential)
    batch = case[3]
    predictions = heads.of_members(Graph(*case))
    for mask, ours in zip(masks.to(potential.network.dtype), predictions, strict=True):
        potential.dropout_factors = lambda *_, mask=mask: mask.expand(len(batch), -1)
        theirs = potential(*case)
        for name in ("energies", "forces", "virial", "energy_uncertainty", "forces_covariance"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
    together = heads(*case)
    torch.testing.assert_close(together.forces, torch.stack([p.forces for p in predictions]).mean(0))
    assert together.energy_uncertainty_epistemic.min() > 0


def test_scores_are_those_of_the_model():
    """A mixture for each type, and the rigidity, are of the features: masks change neither."""
    potential = dropped("none")
    d, types = potential.network.num_last_features, len(potential.config.type_names)
    means = torch.randn(2 * types, d, dtype=torch.float64)
    potential.set_mixture(
        means,
        torch.eye(d, dtype=torch.float64).repeat(2 * types, 1, 1),
        torch.full((2 * types,), 0.5, dtype=torch.float64).log(),
        counts=torch.full((types,), 2),
    )
    potential.rigidity.store(torch.eye(d))
    case = sample_structure(potential)
    heads, model = dropout_heads(potential, samples=3)(*case), potential(*case)
    assert torch.equal(heads.nll, model.nll) and torch.equal(heads.llpr, model.llpr)


def test_masks_in_training():
    """Zero or 1 / (1 - p), one for all atoms of a structure, of the right frequency; none at evaluation."""
    potential = dropped("none").train()
    case = sample_structure(potential)
    torch.manual_seed(0)
    batch = torch.arange(2000).repeat_interleave(2)
    factors = potential.dropout_factors(batch, 2000)
    assert torch.equal(factors[::2], factors[1::2])
    torch.testing.assert_close(factors.unique(), torch.tensor([0.0, 1 / 0.7], dtype=factors.dtype))
    assert (factors == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    first, second = (potential(*case).energy for _ in range(2))
    assert not torch.equal(first, second)
    potential.eval()
    assert potential.dropout_factors(batch, 2000) is None
    assert torch.equal(potential(*case).energy, potential(*case).energy)


def test_forces_in_training_are_of_the_masked_energy():
    potential = dropped("total").train()
    edge_vec, *rest = sample_structure(potential)
    mask = potential.dropout_factors(rest[2], rest[3])
    potential.dropout_factors = lambda *_: mask
    step = 1e-4 * torch.randn(edge_vec.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there, back = (potential(edge_vec + sign * step, *rest).energy.sum() for sign in (1, -1))
    slope = (potential(edge_vec, *rest).edge_gradient * step).sum()
    torch.testing.assert_close((there - back) / 2, slope, rtol=1e-5, atol=0)


def test_a_scripted_model_trains_with_masks():
    scripted = torch.jit.script(dropped("white").train())
    case = Graph(*sample_structure(dropped("white")))
    assert not torch.equal(scripted(case)["energy"], scripted(case)["energy"])


def test_what_does_not_go_is_named():
    with pytest.raises(ValueError, match=r"8 samples of a model with dropout 0\.0"):
        dropout_heads(make_potential(num_features=[6, 4], l_max=1, num_layers=2), 8)
    with pytest.raises(ValueError, match=r"dropout 0\.1 and heads 2 exclude each other"):
        ModelConfig(type_names=["H"], r_max=3.0, dropout=0.1, heads=2)
