"""Effective sample size and R-hat on processes whose values are known."""

import math

import pytest
import torch

from uqforce.evaluation.diagnostics import effective_sample_size, r_hat


def autoregressive(phi: float, chains: int, draws: int, quantities: int, seed: int = 0) -> torch.Tensor:
    """Stationary AR(1) chains [C, S, Q] of variance 1: x' = phi x + sqrt(1 - phi^2) xi."""
    noise = torch.randn(
        draws, chains, quantities, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    x, out = noise[0], []
    for xi in noise:
        out.append(x := phi * x + math.sqrt(1 - phi**2) * xi if out else x)
    return torch.stack(out, 1)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_autoregressive_chains(phi):
    """C S (1 - phi) / (1 + phi) independent draws."""
    draws = autoregressive(phi, chains=4, draws=10_000, quantities=50)
    size = effective_sample_size(draws)
    assert size.shape == (50,)
    exact = 4 * 10_000 * (1 - phi) / (1 + phi)
    assert size.mean().item() == pytest.approx(exact, rel=0.05)


def test_the_mean_is_as_exact_as_the_size_says():
    """Variance of the mean of all draws against 1 / size, over 2000 quantities."""
    draws = autoregressive(0.8, chains=2, draws=500, quantities=2000)
    error = draws.mean((0, 1)).square().mean().item()
    assert 1 / effective_sample_size(draws).mean().item() == pytest.approx(error, rel=0.1)


def test_chains_that_have_not_met_are_worth_little():
    draws = autoregressive(0.0, chains=4, draws=1000, quantities=1)[..., 0]
    apart = draws + 10.0 * torch.arange(4.0)[:, None]
    assert effective_sample_size(draws) > 3500
    assert effective_sample_size(apart) < 10


@pytest.mark.parametrize("ranked", [False, True])
def test_r_hat_of_chains_of_one_law_is_one(ranked):
    value = r_hat(autoregressive(0.5, chains=4, draws=4000, quantities=20), ranked)
    assert value.shape == (20,)
    assert value.min().item() > 0.999 and value.max().item() < 1.01


def test_r_hat_of_shifted_chains():
    """Chains of variance 1 with means 0 and delta, halved: between-variance delta^2 / 3 over four halves."""
    delta, draws = 3.0, autoregressive(0.0, chains=2, draws=20_000, quantities=1)[..., 0]
    shifted = draws + delta * torch.arange(2.0)[:, None]
    value = r_hat(shifted, ranked=False)
    assert value.shape == ()
    assert value.item() == pytest.approx(math.sqrt(1 + delta**2 / 3), rel=0.01)
    # a drift within the chains is seen by halving them, even in a single one
    drifting = draws[:1] + torch.linspace(0, 5, 20_000)
    assert r_hat(drifting).item() > 1.5


def test_unequal_spreads_are_seen_by_ranks_only():
    draws = autoregressive(0.0, chains=4, draws=2000, quantities=1)[..., 0]
    unequal = draws * torch.tensor([1.0, 1.0, 1.0, 10.0])[:, None]
    assert r_hat(unequal, ranked=False).item() < 1.02
    assert r_hat(unequal).item() > 1.1


def test_ranks_do_not_mind_heavy_tails():
    """A Cauchy law has no variance; a monotone map of the draws changes nothing of the location's part."""
    draws = autoregressive(0.0, chains=4, draws=1000, quantities=1)[..., 0]
    heavy = torch.tan(math.pi * (torch.special.ndtr(draws) - 0.5))
    assert r_hat(heavy).item() < 1.01


def test_draws_that_do_not_vary_have_no_value():
    still = torch.ones(2, 8, 3)
    assert r_hat(still, ranked=False).isnan().all() and effective_sample_size(still).isnan().all()
    assert r_hat(still).isnan().all()


@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 2, 3, 4)])
def test_wrong_shapes_are_named(shape):
    for function in (r_hat, effective_sample_size):
        with pytest.raises(ValueError, match="4 draws or more"):
            function(torch.zeros(shape))
