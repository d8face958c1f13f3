"""gamma recovered from simulated labels; the joint covariance of energy and forces of a simulated process."""

import math

import pytest
import torch

from tests.model.systems import CUTOFF, TYPES, evaluate, make_potential, random_system
from uqforce.data import Dataset, Frame
from uqforce.errors import NoiseError
from uqforce.uncertainty.gamma_fit import Residuals, block_gamma, fit_gamma, joint_gamma

DOUBLE = torch.float64


def simulated(structures: int, atoms: int, gamma: float, project: bool) -> Residuals:
    """Residuals of noise `total` in structures of various variances and slopes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    batch = torch.arange(structures).repeat_interleave(atoms)
    sigma = 0.1 + torch.rand(structures, generator=generator, dtype=DOUBLE)
    slope, eps = normal(structures, atoms, 3), normal(structures)
    own = gamma * normal(structures, atoms, 3)  # grad eps
    if project:
        slope, own = slope - slope.mean(1, keepdim=True), own - own.mean(1, keepdim=True)
    forces = eps[:, None, None] * slope + sigma[:, None, None] * own
    none = torch.zeros(0, dtype=DOUBLE)
    return Residuals(
        forces.flatten(0, 1), none, none, none, batch, -sigma * eps, sigma.square(), slope.flatten(0, 1)
    )


@pytest.mark.parametrize("project", [False, True])
def test_gamma_of_total_noise_is_recovered(project):
    """2.30 from 3000 structures of 5 atoms: 36 000 or more components, so 4 standard errors are 1.5 %."""
    found = joint_gamma(simulated(3000, 5, 2.30, project), project)
    assert found == pytest.approx(2.30, rel=0.015)
    if project:  # what the mean over all 3N components would say
        assert joint_gamma(simulated(3000, 5, 2.30, project)) < 2.30 * 0.92


def test_gamma_of_blocks_is_recovered():
    generator = torch.Generator().manual_seed(1)
    roots = torch.randn(20_000, 3, 3, generator=generator, dtype=DOUBLE)
    blocks, variance = roots @ roots.mT, torch.rand(20_000, generator=generator, dtype=DOUBLE) + 0.2
    factor = torch.linalg.cholesky(blocks + (1.7**2 * variance)[:, None, None] * torch.eye(3, dtype=DOUBLE))
    residual = (factor @ torch.randn(20_000, 3, 1, generator=generator, dtype=DOUBLE)).squeeze(2)
    assert block_gamma(residual, blocks, variance) == pytest.approx(1.7, rel=0.02)

    def nll(gamma):
        total = blocks + (gamma**2 * variance)[:, None, None] * torch.eye(3, dtype=DOUBLE)
        zero = torch.zeros(3, dtype=DOUBLE)
        return -float(torch.distributions.MultivariateNormal(zero, total).log_prob(residual).sum())

    best = block_gamma(residual, blocks, variance)
    assert nll(best) < min(nll(best * 1.001), nll(best / 1.001))


def test_gamma_that_nothing_determines_is_an_error():
    with pytest.raises(NoiseError, match="slopes of the variance alone exceed"):
        block_gamma(
            torch.zeros(5, 3, dtype=DOUBLE),
            torch.eye(3, dtype=DOUBLE).repeat(5, 1, 1),
            torch.ones(5).double(),
        )


@pytest.mark.parametrize("total", [True, False], ids=["total", "local"])
def test_covariance_of_energy_and_forces_of_a_simulated_process(total):
    """E = mu + sum_j sigma_j eps_j and F = -grad E, processes of random cosines: the formulas to 1 %."""
    gamma, samples = 1.3, 400_000
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(2, 6, generator=generator, dtype=DOUBLE)  # two atoms, six coordinates
    position = torch.randn(6, generator=generator, dtype=DOUBLE)
    sigma = 0.3 + (weights @ position).square()  # of each atom
    slope = 2 * (weights @ position)[:, None] * weights  # [atom, coordinate]
    whose = torch.arange(6) // 3
    if total:  # one process of all coordinates
        sigma, slope = sigma.square().sum().sqrt()[None], (sigma[:, None] * slope).sum(0)[None] / sigma.norm()
        moves = torch.ones(1, 6, dtype=DOUBLE)
    else:  # atom j's own process moves with atom j
        moves = (whose == torch.arange(2)[:, None]).double()
    processes = len(sigma)
    frequency = gamma * torch.randn(samples, processes, 6, generator=generator, dtype=DOUBLE) * moves
    phase = 2 * math.pi * torch.rand(samples, processes, generator=generator, dtype=DOUBLE)
    phase = phase + frequency @ position
    eps, slope_of_eps = math.sqrt(2) * phase.cos(), -math.sqrt(2) * phase.sin()[:, :, None] * frequency
    energy = (eps * sigma).sum(1, keepdim=True)
    forces = -(eps[:, :, None] * slope + sigma[:, None] * slope_of_eps).sum(1)
    sample = torch.cat([energy, forces], 1)
    found = sample.T @ sample / samples
    want = torch.zeros(7, 7, dtype=DOUBLE)
    want[0, 0] = sigma.square().sum()
    want[1:, 0] = want[0, 1:] = -(sigma[:, None] * slope).sum(0)
    own = gamma**2 * (sigma.square()[:, None] * moves).sum(0)
    want[1:, 1:] = slope.T @ slope + torch.diag(own)
    assert (found - want).abs().max() < 0.01 * want.abs().max()


@pytest.mark.parametrize("noise", ["total", "local"])
def test_gamma_of_a_model_is_fitted_to_labels_of_its_noise(noise):
    """Labels drawn from the model's own covariance give its gamma back, of every type in `local`."""
    potential = make_potential(num_layers=2, l_max=1, num_features=[6, 4], noise=noise)
    log_gamma = potential.noise.gamma.log_gamma if noise == "total" else potential.noise.process.log_gamma
    true = torch.tensor([1.4]) if noise == "total" else torch.tensor([[0.6, 1.1, 2.0]])
    log_gamma.data.copy_(true.log())
    generator, frames = torch.Generator().manual_seed(4), []
    for k in range(60):
        system = random_system([20], periodic=True, seed=k)
        p = evaluate(potential, system)
        eps, own = (torch.randn(*size, generator=generator, dtype=DOUBLE) for size in ((1,), (20, 3)))
        sigma = p.energy_uncertainty
        if noise == "total":
            force = eps * p.energy_forces_covariance / sigma + true * sigma * own
        else:
            force = (torch.linalg.cholesky(p.forces_covariance) @ own.unsqueeze(2)).squeeze(2)
        frames.append(
            Frame(
                torch.tensor([1, 6, 8])[system.atom_types].numpy(),
                positions=system.positions.numpy(),
                cell=system.cell[0].numpy(),
                pbc=system.pbc[0].numpy(),
                source=("memory", k),
                energy=float(p.energy + eps * sigma),
                forces=(p.forces + force).numpy(),
                stress=None,
            )
        )
    log_gamma.data.zero_()
    found = fit_gamma(potential, Dataset.build(frames, TYPES, CUTOFF))
    torch.testing.assert_close(found, true.double(), rtol=0.06, atol=0)  # 4 standard errors of the rarest
    assert torch.equal(found, log_gamma.exp())
    with pytest.raises(NoiseError, match="no constant gamma to fit"):
        fit_gamma(make_potential(noise="white"), Dataset.build(frames, TYPES, CUTOFF))
