"""The gradient of structures' scores with respect to positions, against finite differences."""

import numpy as np
import pytest
import torch

from tests.model.systems import evaluate, make_potential, random_system
from uqforce.evaluation.structure_scores import structure_scores
from uqforce.model import InferencePotential
from uqforce.uncertainty.nll_gradient import nll_gradient


def fitted(form: str, **fields):
    """A small potential with a mixture of two Gaussians around the features of a random system."""
    potential = make_potential(num_layers=2, **fields)
    features = evaluate(potential, random_system([9], True, seed=5)).features.double()
    d = features.shape[1]
    generator = torch.Generator().manual_seed(0)
    projection = None
    if form == "projected":
        projection = torch.linalg.qr(torch.randn(d, 2, dtype=torch.float64, generator=generator))[0]
        features = features @ projection
    k = features.shape[1]
    m = 4 if form == "per type" else 2
    factors = torch.randn(m, k, k, dtype=torch.float64, generator=generator).triu(1) + 3 * torch.eye(k)
    centres = features.mean(0) + torch.randn(m, k, dtype=torch.float64, generator=generator)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64).log().repeat(m // 2)
    counts = torch.tensor([1, 2, 1]) if form == "per type" else None
    potential.set_mixture(centres, factors, weights, projection, counts)
    return potential


def arguments(system):
    return system.positions, system.cell, system.pbc, system.atom_types, system.batch


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize("form", ["plain", "projected", "per type"])
@pytest.mark.parametrize("reduction", ["mean", "max", "sum"])
def test_gradient_is_the_derivative_of_the_score(reduction, form, tabulated):
    potential = fitted(form, noise="total")
    potential = InferencePotential(potential) if tabulated else potential
    system = random_system([6, 4], periodic=True)

    def scores(positions):
        nll = evaluate(potential, system._replace(positions=positions)).nll
        return getattr(structure_scores(nll, system.batch, 2), reduction)

    gradient = nll_gradient(potential, *arguments(system), reduction)
    h = 1e-5
    numerical = torch.zeros_like(gradient)
    for atom, axis in np.ndindex(*gradient.shape):
        for sign in (-1, 1):
            moved = system.positions.clone()
            moved[atom, axis] += sign * h
            numerical[atom, axis] += sign * scores(moved)[system.batch[atom]] / (2 * h)
    assert gradient.abs().max() > 1e-2
    torch.testing.assert_close(gradient, numerical, rtol=1e-6, atol=1e-6 * gradient.abs().max().item())


@pytest.mark.parametrize("tabulated", [False, True])
def test_prediction_beside_the_gradient_is_the_same(tabulated):
    potential = fitted("plain", noise="total")
    potential = InferencePotential(potential) if tabulated else potential
    system = random_system([5, 3], periodic=True)
    want = evaluate(potential, system)
    potential.forward = lambda graph: potential.with_nll_gradient(graph, "max")[0]
    for name, value in evaluate(potential, system).as_dict().items():
        torch.testing.assert_close(value, getattr(want, name), rtol=1e-13, atol=1e-13, msg=name)


def test_equivalent_atoms_share_the_gradient():
    """The gradient of the largest score of a symmetric molecule, that of its two ends, has its symmetry."""
    potential = fitted("plain")
    system = random_system([3], False)._replace(
        positions=torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [-1.1, 0, 0]], dtype=torch.float64),
        atom_types=torch.tensor([1, 0, 0]),
    )
    centre = evaluate(potential, system).features[:1]
    potential.set_mixture(centre, torch.eye(centre.shape[1])[None], torch.zeros(1))
    nll = evaluate(potential, system).nll
    assert nll[1] == nll[2] > nll[0]
    gradient = nll_gradient(potential, *arguments(system))
    assert gradient[1].abs().max() > 1e-3
    torch.testing.assert_close(gradient[1], -gradient[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[0], torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_atoms_without_neighbours():
    system = random_system([1], periodic=False)
    for potential in (fitted("plain"), InferencePotential(fitted("plain"))):
        assert torch.equal(nll_gradient(potential, *arguments(system)), torch.zeros(1, 3).double())


def test_what_cannot_be():
    system = random_system([3], periodic=False)
    with pytest.raises(ValueError, match="no mixture"):
        nll_gradient(make_potential(num_layers=2), *arguments(system))
    potential = fitted("plain")
    with pytest.raises(RuntimeError, match="'mean', 'max' or 'sum', got 'median'"):
        nll_gradient(potential, *arguments(system), "median")
    with pytest.raises(RuntimeError, match="eval"):
        nll_gradient(potential.train(), *arguments(system))
