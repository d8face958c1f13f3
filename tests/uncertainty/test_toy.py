"""The one-dimensional toy of the documentation learns the process that its labels come from."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "examples" / "coherent_noise.py"


@pytest.fixture(scope="module")
def toy():
    spec = importlib.util.spec_from_file_location("coherent_noise", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_process_has_the_stated_moments(toy):
    x = torch.tensor([0.2, 1.1], dtype=torch.float64).repeat(40_000, 1)
    parts = zip(x.split(2000), [torch.Generator().manual_seed(k) for k in range(20)])
    energy, force = (torch.cat(p) for p in zip(*(toy.sample(part, g, features=50) for part, g in parts)))
    sigma, slope = toy.spread(x[0]), toy.derivative(toy.spread, x[0]).detach()
    torch.testing.assert_close(energy.std(0), sigma, rtol=0.02, atol=0)
    torch.testing.assert_close(force.std(0), (slope**2 + toy.GAMMA**2 * sigma**2).sqrt(), rtol=0.02, atol=0)
    together = ((energy - energy.mean(0)) * (force - force.mean(0))).mean(0)
    torch.testing.assert_close(together, -sigma * slope, rtol=0, atol=0.02 * float(sigma.max() * force.std()))


def test_gamma_and_both_standard_deviations_are_learned(toy):
    model, *_ = toy.fit(points=800, steps=200)
    assert model.log_gamma.exp().item() == pytest.approx(toy.GAMMA, rel=0.1)
    grid = torch.linspace(-1.8, 1.8, 100, dtype=torch.float64)
    exact = (toy.derivative(toy.spread, grid) ** 2 + (toy.GAMMA * toy.spread(grid)) ** 2).sqrt()
    for found, want in ((model.sigma(grid), toy.spread(grid)), (model.force_sigma(grid), exact)):
        assert (found - want).square().mean().sqrt() < 0.12 * want.square().mean().sqrt()
