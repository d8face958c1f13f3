"""The inference form: explicit derivatives equal autograd's, and the potential is kept but for the tables."""

import pytest
import torch

from tests.model import systems
from tests.model.systems import assert_same, evaluate, make_potential, random_system
from uqforce.model import InferencePotential
from uqforce.model.gate import Gate
from uqforce.model.linear import ScalarMLP
from uqforce.model.noise.terms import Head

pytestmark = pytest.mark.usefixtures("on_device")

VARIANTS = {
    "plain": {"parity": False},
    "parity": {"parity": True, "noise": "total"},
    "options": {
        "noise": "total",
        "zbl": True,
        "readout_mlp_hidden_layers_depth": 2,
        "radial_mlp_depth": 2,
        "type_embed_num_features": 2,
        "per_edge_type_cutoff": {"H": 2.5, "O": {"H": 3.0, "C": 3.5, "O": 2.0}},
        "avg_num_neighbors": {"H": 8.0, "C": 9.0, "O": 10.0},
    },
    "one layer": {"num_layers": 1, "l_max": 1, "num_features": [6, 5]},
    "scalars": {"l_max": 0, "num_features": [6]},
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request, on_device):
    potential = make_potential(**VARIANTS[request.param])
    return potential, InferencePotential(potential)


@pytest.mark.parametrize("sizes", [[7, 1, 12], [0, 3], [0], [1]])
@pytest.mark.parametrize("periodic", [True, False])
def test_equals_the_potential(pair, sizes, periodic):
    potential, inference = pair
    system = random_system(sizes, periodic)
    want, got = evaluate(potential, system), evaluate(inference, system)
    assert got.as_dict().keys() == want.as_dict().keys()
    for name, b in want.as_dict().items():
        a = getattr(got, name)
        assert a.shape == b.shape and a.dtype == b.dtype, name
        if b.numel():
            bound = 1e-8 * max(1.0, b.abs().max().item())  # the tables' 1e-10, amplified by every layer
            torch.testing.assert_close(
                a, b, rtol=0, atol=bound, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_forces_are_the_derivative_of_the_tabulated_energy():
    """With tables so coarse that the energy is another one, central differences agree all the same."""
    potential = make_potential(parity=False)
    coarse = InferencePotential(potential, tolerance=1.0)
    system = random_system([9], True)
    out = evaluate(coarse, system)
    assert (out.forces - evaluate(potential, system).forces).abs().max() > 1e-6
    step, energies = 1e-4, []
    for sign in (1, -1):
        positions = system.positions.clone()
        positions[4, 1] += sign * step
        energies.append(evaluate(coarse, system._replace(positions=positions)).energy.item())
    assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(out.forces[4, 1].item(), rel=1e-6)


def test_float32_error_is_the_rounding_of_float32():
    potential = make_potential(dtype="float32")
    inference = InferencePotential(potential)
    exact = make_potential()
    exact.load_state_dict(potential.state_dict())
    system = random_system([20, 20], True)
    want = evaluate(exact, system).forces
    error = {name: (evaluate(model, system).forces - want).abs().max() / want.abs().max()
             for name, model in (("network", potential), ("tables", inference))}  # fmt: skip
    assert error["tables"] < 10 * max(error["network"], 1e-6)


def test_tabulation_says_what_it_costs():
    potential = make_potential(parity=False)
    rough, fine = InferencePotential(potential, 1e-3), InferencePotential(potential, 1e-7)
    assert rough.tabulation["tolerance"] == 1e-3
    assert all(a < b for a, b in zip(rough.tabulation["intervals"], fine.tabulation["intervals"]))
    for found in (rough.tabulation, fine.tabulation):
        assert max(found["weights_error"]) <= found["tolerance"]
        assert 0 < found["energy_error"] <= found["tolerance"]
        assert 0 < found["forces_error"] <= found["tolerance"]
    with pytest.raises(ValueError, match="layer 0: 1024 intervals leave an error of"):
        InferencePotential(potential, 1e-18)


def test_scripted_is_the_same_to_the_bit(pair):
    _, inference = pair
    scripted = torch.jit.freeze(torch.jit.script(inference.to(systems.device)))
    system = random_system([7, 12], True)
    assert_same(evaluate(scripted, system), evaluate(inference, system))


def test_mixture_and_no_gradients_are_kept():
    potential = make_potential()
    d = potential.network.num_last_features
    identity = torch.eye(d, dtype=torch.float64)[None]
    potential.set_mixture(
        torch.zeros(1, d, dtype=torch.float64), identity, torch.zeros(1, dtype=torch.float64)
    )
    system = random_system([5], True)
    want = evaluate(potential, system)
    inference = InferencePotential(potential.cpu())
    with torch.no_grad():
        got = evaluate(inference, system)
    assert not any(tensor.requires_grad for tensor in got.as_dict().values())
    torch.testing.assert_close(got.nll, want.nll)


@pytest.mark.parametrize(
    ("module", "dim_in", "dim_out"),
    [
        (Gate("5x0e + 3x0o", "4x1o + 2x1e + 3x2e"), 8 + 9 + 18 + 15, 8 + 18 + 15),
        (Gate("5x0e", ""), 5, 5),
        (ScalarMLP([4, 6, 5, 3], torch.float64), 4, 3),
        (ScalarMLP([4, 3], torch.float64), 4, 3),
        (ScalarMLP([4, 6, 5, 3], torch.float64, "mish"), 4, 3),
        (ScalarMLP([4, 6, 5, 3], torch.float64, "gelu"), 4, 3),
        (ScalarMLP([4, 6, 5, 3], torch.float64, "none"), 4, 3),
    ],
)
def test_vjp_equals_autograd(module, dim_in, dim_out):
    x = torch.randn(6, dim_in, dtype=torch.float64, requires_grad=True)
    cotangents = torch.randn(3, 6, dim_out, dtype=torch.float64)
    out = module(x)
    got = module.vjp(x.detach(), cotangents)
    for k in range(3):
        torch.testing.assert_close(got[k], torch.autograd.grad(out, x, cotangents[k], retain_graph=True)[0])


def test_slope_of_a_head_equals_autograd():
    head = Head(2, [5, 4, 3, 1], 3, torch.float64)
    x, types = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.arange(6) % 3
    torch.nn.init.normal_(head.shift)
    value, slope = head.with_gradient(x.detach(), types)
    want = head(x, types)
    torch.testing.assert_close(value, want)
    for m in range(2):
        torch.testing.assert_close(slope[m], torch.autograd.grad(want[m].sum(), x, retain_graph=True)[0])
