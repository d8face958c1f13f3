"""The sampler's law on targets where it is known, AMSGrad as its limit, and resumption."""

import copy
import math

import pytest
import torch

from uqforce.training.prior import GaussianPrior
from uqforce.training.sghmc import SGHMC

NUM_DATA = 1000
CURVATURES = torch.tensor([10.0, 1e2, 1e3, 1e4, 1e5, 1e6])


def gaussian_chains(number: int) -> torch.Tensor:
    """Chains [number, 6] that start from the target of `CURVATURES`; weights are elementwise independent."""
    start = torch.randn(number, 6, generator=torch.Generator().manual_seed(1))
    return (start / CURVATURES.sqrt()).requires_grad_(True)


def step(sampler: SGHMC, theta: torch.Tensor) -> None:
    theta.grad = theta.detach() * CURVATURES / NUM_DATA
    sampler.step()


def frozen_chains(lr: float, chains: int = 20_000, **options) -> tuple[SGHMC, torch.Tensor, torch.Tensor]:
    """Sampler with D frozen after 200 steps, chains in their exact stationary law, and its variances.

    D, and with it the law, differs from chain to chain.
    """
    theta = gaussian_chains(chains)
    sampler = SGHMC([theta], lr, NUM_DATA, freeze_step=200, **options)
    for _ in range(200):
        step(sampler, theta)
    mass = sampler.state[theta]["mass"].view_as(theta)
    temperature = options.get("temperature", 1.0)
    law = temperature / CURVATURES / (1 - 0.1 * lr * CURVATURES / (2 * 1.9 * mass * NUM_DATA))
    with torch.no_grad():
        theta.normal_(generator=torch.Generator().manual_seed(2)).mul_(law.sqrt())
    return sampler, theta, law


@pytest.mark.parametrize(("lr", "temperature"), [(1e-2, 1.0), (1e-3, 1.0), (1e-2, 0.25)])
def test_variances_over_five_decades_follow_the_exact_law(lr, temperature):
    sampler, theta, law = frozen_chains(lr, temperature=temperature)
    mean_ratio, draws = torch.zeros(6), 0
    for t in range(400):
        step(sampler, theta)
        if t >= 100 and t % 20 == 0:
            mean_ratio += (theta.detach().square() / law).mean(0)
            draws += 1
    for curvature, ratio in zip(CURVATURES.tolist(), (mean_ratio / draws).tolist(), strict=True):
        assert ratio == pytest.approx(1.0, abs=0.03), f"curvature {curvature}"
    if temperature == 1.0:  # the step size that the law corrects for is there to be seen, at 1e-2
        assert (law * CURVATURES)[:, -1].mean().item() > (1.1 if lr == 1e-2 else 1.01)
        assert sampler.kinetic_temperature() == pytest.approx(1.0, abs=0.1)


def end_of_cycle_variances(rescale: bool) -> torch.Tensor:
    """Variances over those of the target at the ends of four cycles of 200 steps, the first left out."""
    sampler, theta, _ = frozen_chains(1e-3, rescale=rescale)
    found = []
    for _ in range(4):
        for k in range(200):
            sampler.param_groups[0]["lr"] = 0.5e-3 * (1 + math.cos(math.pi * k / 200))
            step(sampler, theta)
        found.append((theta.detach().square() * CURVATURES).mean(0))
    return torch.stack(found[1:]).mean(0)


def test_cycles_end_in_the_target_with_the_momentum_rescaled():
    with_rescaling = end_of_cycle_variances(True)
    assert with_rescaling.min().item() > 0.985 and with_rescaling.max().item() < 1.02
    without = end_of_cycle_variances(False)
    assert ((without - 1).abs() > 0.1).sum().item() >= 5, without


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_it_is_amsgrad(dtype):
    """Adam with both debiasings and a learning rate that varies, over several tensors and chunks."""
    shapes = [(7, 11), (40_000,), (1,), ()]
    make = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, dtype=dtype, generator=make) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    sampler = SGHMC(ours, 0.01, NUM_DATA, eps=1e-8, temperature=0.0, rescale=False)
    adam = torch.optim.Adam(theirs, 0.01, betas=(0.9, 0.999), eps=1e-8, amsgrad=True)
    for t in range(30):
        for optimizer in (sampler, adam):
            optimizer.param_groups[0]["lr"] = 0.01 * 0.9**t
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, dtype=dtype, generator=make) * (1 + t % 5)
            b.grad = a.grad.clone()
        sampler.step()
        adam.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert all((a - before).abs().max() > 0.01 for a, before in zip(ours[:2], start))


def test_a_frozen_preconditioner_is_constant():
    theta = gaussian_chains(10)
    sampler = SGHMC([theta], 1e-3, NUM_DATA, freeze_step=5)
    for t in range(1, 21):
        if t > 5:
            theta.data *= 10  # gradients that would move it
        step(sampler, theta)
        state = sampler.state[theta]
        assert ("mass" in state) == (t >= 5) == ("square" not in state)
        if t == 5:
            mass = state["mass"].clone()
    assert torch.equal(state["mass"], mass)


def test_posterior_of_bayesian_linear_regression():
    """Gaussian likelihood and prior, gradients of batches by autograd; mean and covariance in closed form."""
    make = torch.Generator().manual_seed(0)
    n, d, chains, spread, scale = 64, 3, 2000, 0.5, 2.0
    x = torch.randn(n, d, dtype=torch.float64, generator=make) @ torch.tensor(
        [[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 3.0]], dtype=torch.float64
    )
    true = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = x @ true + spread * torch.randn(n, dtype=torch.float64, generator=make)
    centre = torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64)
    precision = x.T @ x / spread**2 + torch.eye(d, dtype=torch.float64) / scale**2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (x.T @ y / spread**2 + centre / scale**2)

    weights = torch.zeros(chains, d, dtype=torch.float64, requires_grad=True)
    prior = GaussianPrior([weights], scale, [centre.expand(chains, d)])
    sampler = SGHMC([weights], 0.05, n, freeze_step=300)
    draws = []
    for t in range(1200):
        sampler.zero_grad()
        batch = torch.randint(n, (chains, 32), generator=make)  # each chain its own
        residual = y[batch] - torch.einsum("cbd,cd->cb", x[batch], weights)
        (0.5 * (residual / spread).square().sum() / 32).backward()
        prior.add_gradient_(n)
        if t > 300:
            sampler.param_groups[0]["lr"] = 3e-3
        sampler.step()
        if t >= 600 and t % 50 == 0:
            draws.append(weights.detach().clone())
    draws = torch.cat(draws)
    deviation = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean) / deviation).abs().max().item() < 0.02
    relative = (torch.cov(draws.T) - covariance) / torch.outer(deviation, deviation)
    assert relative.abs().max().item() < 0.03
    assert (covariance[0, 1] / deviation[0] / deviation[1]).abs().item() > 0.5  # which is not elementwise


def test_the_prior_is_the_gradient_of_its_energy():
    parameters = [
        torch.randn(3, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(4, requires_grad=True),
    ]
    centres = [torch.randn(3, 2, dtype=torch.float64), torch.zeros(4)]
    prior = GaussianPrior(parameters, 0.3, centres)
    densities = [
        torch.distributions.Normal(c, 0.3).log_prob(p).sum() for p, c in zip(parameters, centres, strict=True)
    ]
    at_centre = sum(torch.distributions.Normal(c, 0.3).log_prob(c).sum() for c in centres)
    assert prior.energy() == pytest.approx((at_centre - sum(densities)).item(), rel=1e-6)
    expected = torch.autograd.grad([-sum(densities) / 50], parameters)
    parameters[0].grad = torch.ones(3, 2, dtype=torch.float64)
    prior.add_gradient_(50)
    torch.testing.assert_close(parameters[0].grad - 1, expected[0])
    torch.testing.assert_close(parameters[1].grad, expected[1])


@pytest.mark.parametrize("moment", [3, 6])
def test_a_restored_sampler_goes_on_bitwise(moment):
    """Before and after D is frozen, two dtypes, through copies of the states."""

    def run(sampler, weights, steps):
        for t in steps:
            for p in weights:
                p.grad = torch.sin(7 * p.detach() + t)
            sampler.param_groups[0]["lr"] = 1e-3 / t
            sampler.step()

    def fresh(values):
        weights = [torch.nn.Parameter(value.clone()) for value in values]
        return SGHMC(weights, 1e-3, 10, freeze_step=5, seed=4), weights

    start = [torch.linspace(0, 1, 13), torch.linspace(0, 1, 5, dtype=torch.float64), torch.ones(2, 3)]
    whole, ends = fresh(start)
    run(whole, ends, range(1, 11))
    first, weights = fresh(start)
    run(first, weights, range(1, moment + 1))
    kept, state = [p.detach().clone() for p in weights], copy.deepcopy(first.state_dict())
    second, weights = fresh(kept)
    second.load_state_dict(state)
    run(second, weights, range(moment + 1, 11))
    for a, b in zip(ends, weights, strict=True):
        assert torch.equal(a, b)
    other = SGHMC([torch.nn.Parameter(start[0].clone())], 1e-3, 10, seed=5)
    run(other, other.param_groups[0]["params"], range(1, 11))
    assert not torch.equal(other.param_groups[0]["params"][0], ends[0])


def test_a_weight_without_gradient_moves_by_noise_alone():
    weights = [torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1000))]
    sampler = SGHMC(weights, 1e-3, 10)
    weights[0].grad = torch.ones(4)
    sampler.step()
    assert weights[1].grad is None and weights[1].detach().std().item() > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.0), ("num_data", 0), ("alpha", 1.5), ("beta", 1.0), ("eps", 0.0), ("freeze_step", 0),
     ("temperature", -1.0)],
)  # fmt: skip
def test_arguments_out_of_range_are_named(name, value):
    arguments = {"lr": 1e-3, "num_data": 10, name: value}
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        SGHMC([torch.zeros(2, requires_grad=True)], **arguments)
    with pytest.raises(ValueError, match=r"scale must be positive, got -1\.0"):
        GaussianPrior([], -1.0, [])
