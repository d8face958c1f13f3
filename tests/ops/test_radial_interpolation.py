"""The radial interpolation: its case of the six tests, and how well it stands for a radial network."""

from functools import partial

import pytest
import torch

from tests.ops.op_case import OpCase, assert_close
from uqforce.ops import radial_interpolation
from uqforce.reference.radial_interpolation import radial_interpolation as reference

SIZES = [(8, 1, 5), (9, 16, 7), (40, 37, 200), (256, 192, 300)]  # R, W, E


def random_inputs(rows, columns, edges, dtype=torch.float64, device="cpu", seed=0):
    """Positions within, at and beyond the ends."""
    generator = torch.Generator().manual_seed(seed)
    table, slope = torch.randn(2, rows, columns, dtype=torch.float64, generator=generator)
    x = 1.1 * torch.rand(edges, 1, dtype=torch.float64, generator=generator)
    x[:4] = torch.tensor([[0.0], [1.0], [1.5], [1.0 - 1e-6]], dtype=torch.float64)[: len(x)]
    return table.to(device, dtype), slope.to(device, dtype), x.to(device, dtype)


def polynomials(rows: int, x):
    """1 .. x^7 and their slopes at the nodes and at x: table and slope fit each other exactly."""
    powers = torch.arange(8, dtype=torch.float64, device=x.device)

    def at(y):
        return y**powers, powers * y ** (powers - 1).clamp(min=0)

    return at(torch.linspace(0, 1, rows, dtype=torch.float64, device=x.device)[:, None]), at(x)


def tiny():
    x = torch.linspace(0.03, 0.97, 6, dtype=torch.float64)[:, None]
    return *polynomials(10, x)[0], x


def calls(table, slope, x):
    """Every schema of the interpolation, with arguments of its own."""
    grad = torch.randn_like(radial_interpolation(table, slope, x))
    for cotangents in ([slope, x], [None, x]):
        yield "radial_interpolation_double_backward", (*cotangents, grad, slope, x, [True] * 3)
    table, slope, x, grad = (t.clone().requires_grad_() for t in (table, slope, x, grad))
    yield "radial_interpolation", (table, slope, x)
    for needs in ([True, True], [False, True]):
        yield "radial_interpolation_backward", (grad, slope, x, needs)


OP_CASES = [
    OpCase(
        radial_interpolation,
        reference,
        differentiable=(0, 1, 2),
        samples={str(sizes): partial(random_inputs, *sizes) for sizes in SIZES},
        tiny={"polynomials": tiny},
        edges={
            f"{columns} columns {edges} edges": partial(random_inputs, 30, columns, edges)
            for columns, edges in ((0, 3), (3, 0), (1, 1), (3, 70_000))
        },
        many={"150 columns": partial(random_inputs, 64, 150, 3000)},
        called={f"{edges} edges": partial(random_inputs, 10, 3, edges) for edges in (0, 5)},
        calls=calls,
        tolerance={torch.float32: 3e-5, torch.float64: 1e-12},
        edge_tolerance={torch.float32: 1e-4, torch.float64: 1e-12},
        isa_eps=100,
    )
]


def test_polynomials_are_exact():
    """Of degree 7 and less, with their slopes, also in the windows at both ends."""
    x = torch.linspace(0, 0.999, 500, dtype=torch.float64)[:, None].requires_grad_()
    (table, slope), (expected, expected_slope) = polynomials(20, x.detach())
    value = radial_interpolation(table, slope, x)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    (derivative,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(derivative, expected_slope.sum(1, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("needed", [(0,), (2,), (1, 2)])
def test_gradients_of_some_inputs(needed, device):
    tensors = random_inputs(12, 5, 30, device=device)

    def gradients(function):
        inputs = [t.detach().requires_grad_(k in needed) for k, t in enumerate(tensors)]
        out = function(*inputs)
        grad = torch.ones_like(out).requires_grad_()
        first = torch.autograd.grad(out, [inputs[k] for k in needed if k != 1], grad, create_graph=True)
        wanted = [grad, *[inputs[k] for k in needed if k != 0]]
        return *first, *torch.autograd.grad(sum(t.square().sum() for t in first), wanted)

    assert_close(gradients(radial_interpolation), gradients(reference), 1e-12)


def test_nan_stays_nan(device):
    table, slope, x = random_inputs(12, 5, 30, device=device)
    x[7] = torch.nan
    out = radial_interpolation(table, slope, x)
    assert out[7].isnan().all() and not out[8:].isnan().any()


def test_bad_arguments():
    table, slope, x = random_inputs(10, 3, 6, torch.float32)
    with pytest.raises(ValueError, match="slope has 7 rows"):
        radial_interpolation(table[:7], slope[:7], x)
    with pytest.raises(ValueError, match=r"table has shape \[9, 3\], expected \[10, 3\]"):
        radial_interpolation(table[:9], slope, x)
    with pytest.raises(ValueError, match=r"x has shape \[6\], expected \[any, 1\]"):
        radial_interpolation(table, slope, x[:, 0])
    with pytest.raises(TypeError, match="x is Double but slope is Float"):
        radial_interpolation(table, slope, x.double())
    with pytest.raises(TypeError, match="slope is Half"):
        radial_interpolation(table.half(), slope.half(), x.half())


def test_negative_lengths(device, cuda_kernels):
    """An error; on CUDA, where to look at values would stall the stream, NaN."""
    table, slope, x = random_inputs(10, 3, 6, device=device)
    if cuda_kernels:
        assert torch.equal(radial_interpolation(table, slope, x - 1).isnan(), (x < 1).expand(-1, 3))
        return
    with pytest.raises(ValueError, match=r"x\[0\] is -1: a length is not negative"):
        radial_interpolation(table, slope, x - 1)
