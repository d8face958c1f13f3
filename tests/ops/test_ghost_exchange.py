"""The ops of parallel engines, of the six tests those that need no engine; tests/lammps runs them in LAMMPS.

They have no autograd: `InferencePotential.domain` calls their transposes itself.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from uqforce.model import Graph, InferencePotential, ModelConfig, Potential

ops = torch.ops.uqforce
CALLS = {
    "ghost_exchange": lambda d: ops.ghost_exchange(torch.zeros(3, 4, device=d), 5),
    "ghost_exchange_vjp": lambda d: ops.ghost_exchange_vjp(torch.zeros(2, 5, 4, device=d), 3),
}
SHAPES = {"ghost_exchange": [5, 4], "ghost_exchange_vjp": [2, 3, 4]}
# A process that has all atoms has no ghosts: nothing is exchanged.
ALONE = {
    "ghost_exchange": lambda x: ops.ghost_exchange(x, x.shape[0]),
    "ghost_exchange_vjp": lambda x: ops.ghost_exchange_vjp(x[None], x.shape[0])[0],
    "sum_over_ranks": lambda x: ops.sum_over_ranks(x.double()).to(x.dtype),
}


@pytest.mark.parametrize("name", CALLS)
def test_outside_of_an_engine(name):
    with pytest.raises(NotImplementedError, match=f"{name} is called with 2 ghosts outside of a parallel"):
        CALLS[name]("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALONE)
def test_one_process_without_ghosts(name, dtype):
    """The same values in memory of their own; contiguous or not, none, one, many."""
    values = torch.randn(70_000, 8, dtype=dtype)
    for x in (values, values[:, ::2], values.t()[:5].t(), values[:1], values[:0], values[:, :0]):
        out = ALONE[name](x)
        assert torch.equal(out, x) and out.is_contiguous()
        out.add_(1.0)
        assert torch.equal(x, ALONE[name](x))


@pytest.mark.parametrize("name", ALONE)
def test_opcheck(name):
    x = torch.randn(3, 4, dtype=torch.float64)
    arguments = {"ghost_exchange": (x, 3), "ghost_exchange_vjp": (x[None], 3), "sum_over_ranks": (x,)}[name]
    torch.library.opcheck(getattr(ops, name).default, arguments)


def test_script_save_load(fresh_process, tmp_path):
    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.ops.uqforce.ghost_exchange(x, x.shape[0])
            return torch.ops.uqforce.sum_over_ranks(
                torch.ops.uqforce.ghost_exchange_vjp(rows[None], x.shape[0])
            )

    path, out = tmp_path / "layer.pt", tmp_path / "out"
    torch.jit.save(torch.jit.script(Layer()), str(path))
    run = """
        x = torch.arange(6, dtype=torch.float64).view(2, 3)
        torch.save(torch.jit.load(sys.argv[1])(x), sys.argv[2])
    """
    fresh_process(run, path, out)
    assert torch.equal(torch.load(out), torch.arange(6, dtype=torch.float64).view(1, 2, 3))


@pytest.mark.parametrize("name", CALLS)
def test_shapes(name):
    assert list(CALLS[name]("meta").shape) == SHAPES[name]
    with FakeTensorMode():
        assert list(CALLS[name]("cuda").shape) == SHAPES[name] and CALLS[name]("cuda").device.type == "cuda"


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


def share(vec, edges, types, n: int, exchange: bool, numbers=None) -> Graph:
    """A process's share of a structure, n atoms its own."""
    batch = torch.zeros(n, dtype=torch.int64)
    return Graph(vec, edges, types, batch, 1, parallel=True, exchange=exchange, numbers=numbers)


def test_a_share_needs_an_engine():
    """No identity where there are ghosts: their features, which nobody brought, would be wrong."""
    config = ModelConfig(type_names=["H"], r_max=3.0, num_layers=2, l_max=1, num_features=[4])
    model = InferencePotential(Potential(config).eval())
    edges = torch.tensor([[0, 0], [1, 2]])
    with pytest.raises(NotImplementedError, match="ghosts outside of a parallel engine"):
        model.forward(share(torch.eye(3)[:2], edges, torch.zeros(3, dtype=torch.int64), 1, True))


def test_the_energies_of_ghosts_do_not_count():
    """A domain of n own atoms: their energies, and the derivatives of these alone, by finite differences."""
    config = ModelConfig(type_names=["H", "O"], r_max=3.0, num_layers=2, l_max=1, num_features=[4], zbl=True,
                         dtype="float64")  # fmt: skip
    model = InferencePotential(Potential(config).eval())
    edges, types = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]]), torch.tensor([0, 1, 1])
    vec = torch.tensor([[1.0, 0, 0], [0, 1.2, 0], [-1.0, 0, 0], [0, -1.2, 0]], dtype=torch.float64)
    whole = model(vec, edges, types, torch.zeros_like(types), 1)
    for n in (0, 1, 2, 3):
        domain = model.forward(share(vec, edges, types, n, False))
        assert torch.equal(domain["energies"], whole.energies[:n])
        slopes = torch.zeros(12, dtype=torch.float64)
        for k, step in enumerate(1e-5 * torch.eye(12, dtype=torch.float64)):
            ahead, behind = (
                model.forward(share(vec + sign * step.view(4, 3), edges, types, n, False)) for sign in (1, -1)
            )
            slopes[k] = (ahead["energies"].sum() - behind["energies"].sum()) / 2e-5
        torch.testing.assert_close(domain["edge_gradient"].flatten(), slopes, rtol=1e-6, atol=1e-6)
    assert torch.equal(domain["edge_gradient"], whole.edge_gradient)


@pytest.mark.parametrize("noise", ["total", "local", "local-deep", "white"])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_process_without_atoms(noise, exchange):
    config = ModelConfig(
        type_names=["H"], r_max=3.0, num_layers=2, l_max=1, num_features=[4], noise=noise, heads=2
    )
    model, none = InferencePotential(Potential(config).eval()), torch.zeros(0, dtype=torch.int64)
    domain = model.forward(share(torch.zeros(0, 3), none.view(2, 0), none, 0, exchange, none))
    assert domain["energies"].shape == domain["forces_uncertainty"].shape == (0,)
