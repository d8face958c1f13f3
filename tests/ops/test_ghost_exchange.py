"""The ops of parallel engines where there is none; tests/lammps runs them in LAMMPS."""

import pytest
import torch

from uqforce.model import InferencePotential, ModelConfig, Potential

ops = torch.ops.uqforce
CALLS = {
    "ghost_exchange": lambda d: ops.ghost_exchange(torch.zeros(3, 4, device=d), 5),
    "ghost_exchange_vjp": lambda d: ops.ghost_exchange_vjp(torch.zeros(2, 5, 4, device=d), 3),
    "sum_over_ranks": lambda d: ops.sum_over_ranks(torch.zeros(2, dtype=torch.float64, device=d)),
}
SHAPES = {"ghost_exchange": [5, 4], "ghost_exchange_vjp": [2, 3, 4], "sum_over_ranks": [2]}


@pytest.mark.parametrize("name", CALLS)
def test_outside_of_an_engine(name):
    with pytest.raises(NotImplementedError, match=f"{name} is called outside of a parallel engine"):
        CALLS[name]("cpu")


@pytest.mark.parametrize("name", CALLS)
def test_shapes(name):
    assert list(CALLS[name]("meta").shape) == SHAPES[name]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.ghost_exchange(torch.zeros(3, 4), 2),
            ValueError,
            "x has 3 rows, more than num_atoms = 2",
        ),
        (lambda: ops.ghost_exchange(torch.zeros(3, 4).int(), 3), TypeError, "x is Int"),
        (
            lambda: ops.ghost_exchange_vjp(torch.zeros(2, 3, 4), 4),
            ValueError,
            "num_owned is 4, expected 0 to 3",
        ),
        (lambda: ops.ghost_exchange_vjp(torch.zeros(3, 4), 3), ValueError, "cotangents has shape"),
        (lambda: ops.sum_over_ranks(torch.zeros(1)), TypeError, "values is Float, expected Double"),
    ],
)
def test_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_domain_needs_an_engine():
    """Never a silent identity: features of ghosts that nobody brought would be wrong."""
    config = ModelConfig(type_names=["H"], r_max=3.0, num_layers=2, l_max=1, num_features=[4])
    model = InferencePotential(Potential(config).eval())
    edges = torch.tensor([[0, 0], [1, 2]])
    with pytest.raises(NotImplementedError, match="outside of a parallel engine"):
        model.domain(torch.eye(3)[:2], edges, torch.zeros(3, dtype=torch.int64), 1, True)


def test_the_energies_of_ghosts_do_not_count():
    """A domain of n own atoms: their energies, and the derivatives of these alone, by finite differences."""
    config = ModelConfig(type_names=["H", "O"], r_max=3.0, num_layers=2, l_max=1, num_features=[4], zbl=True,
                         dtype="float64")  # fmt: skip
    model = InferencePotential(Potential(config).eval())
    edges, types = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]]), torch.tensor([0, 1, 1])
    vec = torch.tensor([[1.0, 0, 0], [0, 1.2, 0], [-1.0, 0, 0], [0, -1.2, 0]], dtype=torch.float64)
    whole = model(vec, edges, types, torch.zeros_like(types), 1)
    for n in (0, 1, 2, 3):
        domain = model.domain(vec, edges, types, n, False)
        assert torch.equal(domain.energies, whole.energies[:n])
        slopes = torch.zeros(12, dtype=torch.float64)
        for k, step in enumerate(1e-5 * torch.eye(12, dtype=torch.float64)):
            ahead, behind = (
                model.domain(vec + sign * step.view(4, 3), edges, types, n, False) for sign in (1, -1)
            )
            slopes[k] = (ahead.energies.sum() - behind.energies.sum()) / 2e-5
        torch.testing.assert_close(domain.edge_gradient.flatten(), slopes, rtol=1e-6, atol=1e-6)
    assert torch.equal(domain.edge_gradient, whole.edge_gradient)
