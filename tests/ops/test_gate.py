"""The six tests of the gate, and its equality with e3nn's."""

import e3nn.nn
import pytest
import torch

from tests.ops.derivatives import assert_close
from uqforce.ops import GateSpec, gate
from uqforce.ops.gate import second_moment_factor
from uqforce.ops.irreps import from_e3nn, to_e3nn
from uqforce.reference.gate import gate as reference

SPECS = {
    "no parity": GateSpec("32x0e", "16x1o + 5x2e"),
    "both parities": GateSpec("7x0e + 3x0o", "4x1o + 9x1e + 17x2e + 1x3o"),
    "scalars only": GateSpec("40x0e", ""),
    "one channel of each": GateSpec("1x0e + 1x0o", "1x1o + 1x4e"),
}
FACTORS = second_moment_factor("silu"), second_moment_factor("tanh")


def random_rows(rows, columns, dtype=torch.float64, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, columns, dtype=torch.float64, generator=generator)).to(device, dtype)


def second_order(function, x, spec):
    """Values, first derivatives, and the derivatives of a function of them."""
    x = x.detach().requires_grad_()
    out = function(x, spec.flat, *FACTORS)
    grad = torch.linspace(-1, 2, out.numel()).view_as(out).to(out).requires_grad_()
    (first,) = torch.autograd.grad(out, x, grad, create_graph=True)
    second = torch.autograd.grad(first, [grad, x], torch.cos(x.detach()))
    return out, first, *second


def rows_of(spec, rows, dtype=torch.float64, device="cpu"):
    return random_rows(rows, spec.irreps_in.dim, dtype, device)


@pytest.mark.parametrize("name", SPECS)
def test_equals_reference(name, device, dtype):
    spec = SPECS[name]
    x = rows_of(spec, 45, dtype, device)
    results = second_order(gate, x, spec)
    assert all(t.dtype == dtype for t in results)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert_close(results, second_order(reference, x.double(), spec), tolerance)


def test_equals_e3nn(device):
    silu, tanh = torch.nn.functional.silu, torch.tanh
    theirs = e3nn.nn.Gate("6x0e + 2x0o", [silu, tanh], "9x0e", [silu], "4x1o + 5x2e").to(device)
    spec = GateSpec("6x0e + 2x0o", "4x1o + 5x2e")
    x = rows_of(spec, 20, device=device)
    assert spec.irreps_in == theirs.irreps_in.simplify() and spec.irreps_out == theirs.irreps_out
    expected = from_e3nn(theirs(to_e3nn(x, spec.irreps_in)), spec.irreps_out)
    torch.testing.assert_close(gate(x, spec.flat, *FACTORS), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 1e-30, 20.0, -20.0, 200.0, -200.0, 1e30])
def test_extreme_scalars(value, dtype, device):
    """Where exponentials vanish or overflow, the functions and their derivatives stay finite and right."""
    spec = SPECS["both parities"]
    x = torch.full((2, spec.irreps_in.dim), value, dtype=dtype, device=device)
    x[:, spec.flat[3] :] = 0.5
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    for a, b in zip(second_order(gate, x, spec), second_order(reference, x.double(), spec), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_gradients(name, device):
    spec = SPECS[name]
    x = rows_of(spec, 2, device=device).requires_grad_()

    def function(x):
        return gate(x, spec.flat, *FACTORS)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_many_cotangents(dtype, device):
    """K at once are each one's own, bit for bit; they have no derivative."""
    spec = SPECS["both parities"]
    x = rows_of(spec, 9, dtype, device)
    grads = random_rows(3 * 9, spec.irreps_out.dim, dtype, device, seed=1).view(3, 9, -1)
    backward = torch.ops.uqforce.gate_backward
    expected = torch.stack([backward(grad, x, spec.flat, *FACTORS) for grad in grads])
    assert torch.equal(backward(grads, x, spec.flat, *FACTORS), expected)
    with pytest.raises(NotImplementedError, match="K cotangents"):
        backward(grads.requires_grad_(), x, spec.flat, *FACTORS).sum().backward()


def test_third_derivative_is_refused():
    spec = SPECS["no parity"]
    x = rows_of(spec, 4).requires_grad_()
    (first,) = torch.autograd.grad(gate(x, spec.flat, *FACTORS).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice, not three times"):
        second.square().sum().backward()


@pytest.mark.parametrize("rows", [0, 5])
def test_opcheck(rows, device):
    spec, library = SPECS["both parities"], torch.ops.uqforce
    x = rows_of(spec, rows, device=device)
    grad = random_rows(rows, spec.irreps_out.dim, device=device)
    rest = (spec.flat, *FACTORS)
    for needs in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(library.gate_double_backward, (x.cos(), grad, x, *rest, needs))
    torch.library.opcheck(library.gate_backward, (torch.stack([grad, grad]), x, *rest))
    x.requires_grad_()
    torch.library.opcheck(library.gate, (x, *rest))
    torch.library.opcheck(library.gate_backward, (grad.requires_grad_(), x, *rest))


class Layer(torch.nn.Module):
    spec: list[int]

    def __init__(self):
        super().__init__()
        self.spec = SPECS["both parities"].flat

    def forward(self, x: torch.Tensor):
        return gate(x, self.spec, 1.5, 1.6)


def test_script_save_load(fresh_process, tmp_path):
    torch.jit.script(Layer()).save(tmp_path / "layer.pt")
    x = rows_of(SPECS["both parities"], 50)
    torch.save(x, tmp_path / "x.pt")
    fresh_process(
        """
        layer = torch.jit.load("layer.pt")
        x = torch.load("x.pt", weights_only=True).requires_grad_()
        out = layer(x)
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        torch.save([t.detach() for t in (out, first, second)], "results.pt")
        """
    )
    out = Layer()(x.requires_grad_())
    (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    loaded = torch.load(tmp_path / "results.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded, (out, first, second), strict=True))


@pytest.mark.parametrize("rows", [0, 1, 70_000])
def test_edges(rows, device):
    """No rows, one row, more than 65 535."""
    spec = SPECS["one channel of each"]
    x = rows_of(spec, rows, device=device)
    assert_close(second_order(gate, x, spec), second_order(reference, x, spec), 1e-14)


def test_non_contiguous(device):
    spec = SPECS["no parity"]
    x = rows_of(spec, 30, device=device)
    strided = torch.stack([x, x + 1], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert all(map(torch.equal, second_order(gate, strided, spec), second_order(gate, x, spec)))


def test_nan_stays_nan(device):
    spec = SPECS["both parities"]
    x = rows_of(spec, 3, device=device)
    x[1] = torch.nan
    out = gate(x, spec.flat, *FACTORS)
    assert out[1].isnan().all() and not out[[0, 2]].isnan().any()


def test_bitwise_the_same_twice_and_for_any_number_of_threads(dtype, device):
    spec = SPECS["no parity"]
    x = rows_of(spec, 3000, dtype, device)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            results.append(second_order(gate, x, spec))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


ALL_OPS = """
x, grad, spec = inputs
library, rest = torch.ops.uqforce, (x, spec, 1.5, 1.6)
results = [library.gate(*rest), library.gate_backward(grad, *rest)]
results += library.gate_double_backward(x.sin(), grad, *rest, [True, True])
"""


@pytest.mark.cpu_kernels
def test_every_instruction_set(dtype, every_instruction_set):
    spec = SPECS["both parities"]
    inputs = [rows_of(spec, 5, dtype), random_rows(5, spec.irreps_out.dim, dtype, seed=1), spec.flat]
    first, *others = every_instruction_set(ALL_OPS, inputs)
    for other in others:
        assert_close(other, first, 20 * torch.finfo(dtype).eps)


def test_bad_arguments():
    x = random_rows(4, 7)
    with pytest.raises(ValueError, match=r"x has shape \[4, 6\], expected \[any, 7\]"):
        gate(x[:, :6], [1, 2, 1, 4, 3, 1], *FACTORS)
    with pytest.raises(TypeError, match="x is Half"):
        gate(x.half(), [1, 2, 1, 4, 3, 1], *FACTORS)
    with pytest.raises(ValueError, match="3 and 3 for every block"):
        gate(x, [1, 2, 1, 4], *FACTORS)
    with pytest.raises(ValueError, match="2 gates for 1 channels"):
        gate(x, [1, 2, 2, 4, 3, 1], *FACTORS)
    with pytest.raises(ValueError, match="outside of the row or in another block"):
        gate(x, [1, 2, 1, 3, 3, 1], *FACTORS)
    with pytest.raises(ValueError, match="must begin with 0e"):
        GateSpec("2x0o", "1x1o")
