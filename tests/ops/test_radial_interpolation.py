"""The six tests of the radial interpolation, and how well it stands for a radial network."""

import pytest
import torch

from tests.ops.derivatives import assert_close
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


def second_order(function, table, slope, x):
    """Value, first derivatives, and the derivatives of a function of them: all three ops."""
    generator = torch.Generator().manual_seed(1)

    def random_like(tensor):
        return torch.randn(tensor.shape, dtype=torch.float64, generator=generator).to(tensor)

    table, slope, x = (t.detach().requires_grad_() for t in (table, slope, x))
    out = function(table, slope, x)
    grad = random_like(out).requires_grad_()
    first = torch.autograd.grad(out, [table, x], grad, create_graph=True)
    second = torch.autograd.grad(first, [grad, slope, x], [random_like(t) for t in first])
    return out, *first, *second


@pytest.mark.parametrize(("rows", "columns", "edges"), SIZES)
def test_equals_reference(rows, columns, edges, device, dtype):
    inputs = random_inputs(rows, columns, edges, dtype, device)
    results = second_order(radial_interpolation, *inputs)
    assert all(t.dtype == dtype for t in results)
    tolerance = {torch.float32: 3e-5, torch.float64: 1e-12}[dtype]
    assert_close(results, second_order(reference, *(t.double() for t in inputs)), tolerance)


def polynomials(rows: int, x):
    """1 .. x^7 and their slopes at the nodes and at x: table and slope fit each other exactly."""
    powers = torch.arange(8, dtype=torch.float64, device=x.device)

    def at(y):
        return y**powers, powers * y ** (powers - 1).clamp(min=0)

    return at(torch.linspace(0, 1, rows, dtype=torch.float64, device=x.device)[:, None]), at(x)


def test_gradients(device):
    x = torch.linspace(0.03, 0.97, 6, dtype=torch.float64, device=device)[:, None].requires_grad_()
    (table, slope), _ = polynomials(10, x.detach())
    inputs = (table.requires_grad_(), slope.requires_grad_(), x)
    assert torch.autograd.gradcheck(radial_interpolation, inputs)
    assert torch.autograd.gradgradcheck(radial_interpolation, inputs)


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


def test_third_derivative_is_refused():
    table, slope, x = (t.requires_grad_() for t in random_inputs(10, 3, 6))
    (first,) = torch.autograd.grad(radial_interpolation(table, slope, x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), slope, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice, not three times"):
        second.square().sum().backward()


@pytest.mark.parametrize("edges", [0, 5])
def test_opcheck(edges, device):
    table, slope, x = (t.requires_grad_() for t in random_inputs(10, 3, edges, device=device))
    grad = torch.randn(edges, 3, dtype=torch.float64, device=device, requires_grad=True)
    library = torch.ops.uqforce
    torch.library.opcheck(library.radial_interpolation, (table, slope, x))
    for needs in ([True, True], [False, True]):
        torch.library.opcheck(library.radial_interpolation_backward, (grad, slope, x, needs))
    detached = [t.detach() for t in (grad, slope, x)]
    for cotangents in (detached[1:], [None, detached[2]]):
        torch.library.opcheck(
            library.radial_interpolation_double_backward, (*cotangents, *detached, [True] * 3)
        )


class Layer(torch.nn.Module):
    def forward(self, table: torch.Tensor, slope: torch.Tensor, x: torch.Tensor):
        return radial_interpolation(table, slope, x)


def test_script_save_load(fresh_process, tmp_path):
    torch.jit.script(Layer()).save(tmp_path / "layer.pt")
    inputs = random_inputs(20, 7, 50)
    torch.save(list(inputs), tmp_path / "inputs.pt")
    fresh_process(
        """
        layer = torch.jit.load("layer.pt")
        table, slope, x = (t.requires_grad_() for t in torch.load("inputs.pt", weights_only=True))
        out = layer(table, slope, x)
        first = torch.autograd.grad(out.square().sum(), [table, x], create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), [table, slope, x])
        torch.save([t.detach() for t in (out, *first, *second)], "results.pt")
        """
    )
    table, slope, x = (t.requires_grad_() for t in inputs)
    out = radial_interpolation(table, slope, x)
    first = torch.autograd.grad(out.square().sum(), [table, x], create_graph=True)
    second = torch.autograd.grad(sum(t.square().sum() for t in first), [table, slope, x])
    loaded = torch.load(tmp_path / "results.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded, (out, *first, *second), strict=True))


@pytest.mark.parametrize(("columns", "edges"), [(0, 3), (3, 0), (1, 1), (3, 70_000)])
def test_edges(columns, edges, dtype, device):
    """No columns, no edges, one of each, more than 65 535."""
    inputs = random_inputs(30, columns, edges, dtype, device)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    results = second_order(radial_interpolation, *inputs)
    assert_close(results, second_order(reference, *(t.double() for t in inputs)), tolerance)


def test_non_contiguous_and_expanded(device):
    table, slope, x = random_inputs(12, 5, 30, device=device)
    expected = second_order(radial_interpolation, table, slope, x)
    strided = [torch.stack([t, t + 1], dim=-1)[..., 0] for t in (table, slope, x)]
    assert all(map(torch.equal, second_order(radial_interpolation, *strided), expected))
    leaf = table.detach().requires_grad_()
    out = radial_interpolation(leaf, slope, x)
    (expanded,) = torch.autograd.grad(out.sum(), leaf, retain_graph=True)  # cotangent of stride 0
    (dense,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    assert torch.equal(expanded, dense)


def test_nan_stays_nan(device):
    table, slope, x = random_inputs(12, 5, 30, device=device)
    x[7] = torch.nan
    out = radial_interpolation(table, slope, x)
    assert out[7].isnan().all() and not out[8:].isnan().any()


def test_bitwise_the_same_twice_and_for_any_number_of_threads(dtype, device):
    inputs = random_inputs(64, 150, 3000, dtype, device)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            results.append(second_order(radial_interpolation, *inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


ALL_OPS = """
table, slope, x, grad, ddtable, ddx = inputs
library = torch.ops.uqforce
results = [library.radial_interpolation(table, slope, x)]
results += library.radial_interpolation_backward(grad, slope, x, [True] * 2)
results += library.radial_interpolation_double_backward(ddtable, ddx, grad, slope, x, [True] * 3)
"""


@pytest.mark.cpu_kernels
def test_every_instruction_set(dtype, every_instruction_set):
    table, slope, x = random_inputs(40, 37, 200, dtype)
    grad = radial_interpolation(table, slope, x)
    arguments = [table, slope, x, grad, table.sin(), x.sin()]
    first, *others = every_instruction_set(ALL_OPS, arguments)
    for other in others:
        assert_close(other, first, 100 * torch.finfo(dtype).eps)


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
