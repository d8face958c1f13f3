"""Coherent noise in one dimension: energies and forces whose errors are one differentiable process.

    python examples/coherent_noise.py docs/figures/coherent_noise.png

Labels at 2000 points: a double well plus sigma(x) eps(x), every eps a sample of a Gaussian process of inverse
length scale GAMMA, and the forces are the derivatives of these energies. A network of x gives mean and
variance; the likelihood of energy and force together (Jorgensen et al., arXiv:2312.04174) teaches it both
and gamma.
"""

import math
import sys

import torch
from torch import Tensor, nn

GAMMA = 4.0


def well(x: Tensor) -> Tensor:
    return 0.5 * (x.square() - 1.0).square()


def spread(x: Tensor) -> Tensor:
    return 0.06 + 0.3 * torch.exp(-2.0 * (x - 0.6).square())


def derivative(function, x: Tensor) -> Tensor:
    """function'(x), differentiable."""
    x = x if x.requires_grad else x.detach().requires_grad_(True)
    return torch.autograd.grad(function(x).sum(), x, create_graph=True)[0]


def sample(x: Tensor, generator: torch.Generator, features: int = 200) -> tuple[Tensor, Tensor]:
    """Energies and forces [paths, points] with one sample of the process for each path; x [paths, points].

    eps(x) = sqrt(2/features) sum cos(w x + b), w normal of width GAMMA: the squared-exponential kernel.
    """
    size = (len(x), 1, features)
    frequency = GAMMA * torch.randn(size, generator=generator, dtype=x.dtype)
    phase = 2.0 * math.pi * torch.rand(size, generator=generator, dtype=x.dtype)

    def energy(x: Tensor) -> Tensor:
        eps = math.sqrt(2.0 / features) * torch.cos(frequency * x[:, :, None] + phase).sum(2)
        return well(x) + spread(x) * eps

    return energy(x).detach(), -derivative(energy, x).detach()


class Model(nn.Module):
    """Mean and standard deviation of the energy at x, and gamma."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
        self.network = nn.Sequential(*sizes).double()
        self.log_gamma = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def mean(self, x: Tensor) -> Tensor:
        return self.network(x[:, None])[:, 0]

    def sigma(self, x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(self.network(x[:, None])[:, 1]) + 1e-3

    def force_sigma(self, x: Tensor) -> Tensor:
        """sqrt(sigma'^2 + gamma^2 sigma^2)."""
        own = torch.exp(self.log_gamma) * self.sigma(x)
        return (derivative(self.sigma, x).square() + own.square()).sqrt()

    def nll(self, x: Tensor, energy: Tensor, force: Tensor) -> Tensor:
        """-log p(E) p(F | E), mean over labels: the force is isotropic once the energy's error is known."""
        sigma, slope = self.sigma(x), derivative(self.sigma, x)
        of_energy = energy - self.mean(x)
        of_force = force + derivative(self.mean, x) + of_energy / sigma * slope
        own = torch.exp(self.log_gamma) * sigma
        terms = (of_energy / sigma).square() + (of_force / own).square() + 2.0 * (sigma.log() + own.log())
        return 0.5 * terms.mean() + math.log(2.0 * math.pi)


def fit(points: int = 2000, steps: int = 300, seed: int = 0) -> tuple[Model, Tensor, Tensor, Tensor]:
    """A model of labels at random points, every point its own sample of the process, and these labels."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x = 4.0 * torch.rand(points, 1, generator=generator, dtype=torch.float64) - 2.0
    energy, force = (labels.squeeze(1) for labels in sample(x, generator))
    model, x = Model(), x.squeeze(1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = model.nll(x, energy, force)
        value.backward()
        return value

    optimizer.step(loss)
    return model, x, energy, force


def draw(path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, x, energy, force = fit()
    grid = torch.linspace(-2.0, 2.0, 400, dtype=torch.float64)
    paths = sample(grid.repeat(4, 1), torch.Generator().manual_seed(1))
    mean, mean_force = model.mean(grid).detach(), -derivative(model.mean, grid).detach()
    exact_force = (derivative(spread, grid).square() + (GAMMA * spread(grid)).square()).sqrt().detach()
    without = derivative(model.sigma, grid).abs().detach()
    panels = (
        ("energy", energy, paths[0], mean, model.sigma(grid).detach(), spread(grid)),
        ("force", force, paths[1], mean_force, model.force_sigma(grid).detach(), exact_force),
    )
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    for column, (name, labels, of_paths, centre, sigma, exact) in zip(axes.T, panels):
        above, below = column
        above.plot(x, labels, ".", ms=2, color="0.6", label="labels")
        above.plot(grid, of_paths.T, lw=0.7, color="C1", label=["samples of the process", *[None] * 3])
        above.plot(grid, centre, color="C0", label="mean")
        above.fill_between(grid, centre - 2 * sigma, centre + 2 * sigma, alpha=0.25, label=r"$\pm 2\sigma$")
        above.set_title(name)
        below.plot(grid, sigma, color="C0", label="predicted")
        below.plot(grid, exact, "--", color="k", label="true")
        if name == "force":
            below.plot(grid, without, ":", color="C3", label=r"$|\sigma'|$ alone")
        below.set_xlabel("x")
        below.set_ylim(bottom=0)
        above.legend(fontsize=7), below.legend(fontsize=7)
    axes[0, 0].set_ylabel("label"), axes[1, 0].set_ylabel("standard deviation")
    figure.suptitle(f"gamma learned {model.log_gamma.exp():.2f}, true {GAMMA:.2f}")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    draw(sys.argv[1])
