"""The gate's case of the six tests, its equality with e3nn's, and what only a gate has."""

from functools import partial

import e3nn.nn
import pytest
import torch

from tests.ops.op_case import OpCase, derivatives
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


def inputs(name, rows):
    spec = SPECS[name]
    return random_rows(rows, spec.irreps_in.dim), spec.flat, *FACTORS


def calls(x, *rest):
    """Every schema of the gate, with arguments of its own."""
    grad = torch.randn_like(gate(x, *rest))
    for needs in ([True, True], [True, False], [False, True]):
        yield "gate_double_backward", (x.cos(), grad, x, *rest, needs)
    yield "gate_backward", (torch.stack([grad, grad]), x, *rest)
    leaf = x.clone().requires_grad_()
    yield "gate", (leaf, *rest)
    yield "gate_backward", (grad.clone().requires_grad_(), leaf, *rest)


OP_CASES = [
    OpCase(
        gate,
        reference,
        differentiable=(0,),
        samples={name: partial(inputs, name, 45) for name in SPECS},
        tiny={name: partial(inputs, name, 2) for name in SPECS},
        edges={f"{rows} rows": partial(inputs, "one channel of each", rows) for rows in (0, 1, 70_000)},
        many={"no parity": partial(inputs, "no parity", 3000)},
        called={f"{rows} rows": partial(inputs, "both parities", rows) for rows in (0, 5)},
        calls=calls,
        tolerance={torch.float32: 1e-6, torch.float64: 1e-14},
        isa_eps=20,
    )
]


def test_equals_e3nn(device):
    silu, tanh = torch.nn.functional.silu, torch.tanh
    theirs = e3nn.nn.Gate("6x0e + 2x0o", [silu, tanh], "9x0e", [silu], "4x1o + 5x2e").to(device)
    spec = GateSpec("6x0e + 2x0o", "4x1o + 5x2e")
    x = random_rows(20, spec.irreps_in.dim, device=device)
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
    arguments = (spec.flat, *FACTORS)
    ours = derivatives(gate, (x, *arguments), (0,))
    for a, b in zip(ours, derivatives(reference, (x.double(), *arguments), (0,), dtype=dtype), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_many_cotangents(dtype, device):
    """K at once are each one's own, bit for bit; they have no derivative."""
    spec = SPECS["both parities"]
    x = random_rows(9, spec.irreps_in.dim, dtype, device)
    grads = random_rows(3 * 9, spec.irreps_out.dim, dtype, device, seed=1).view(3, 9, -1)
    backward = torch.ops.uqforce.gate_backward
    expected = torch.stack([backward(grad, x, spec.flat, *FACTORS) for grad in grads])
    assert torch.equal(backward(grads, x, spec.flat, *FACTORS), expected)
    with pytest.raises(NotImplementedError, match="K cotangents"):
        backward(grads.requires_grad_(), x, spec.flat, *FACTORS).sum().backward()


def test_nan_stays_nan(device):
    spec = SPECS["both parities"]
    x = random_rows(3, spec.irreps_in.dim, device=device)
    x[1] = torch.nan
    out = gate(x, spec.flat, *FACTORS)
    assert out[1].isnan().all() and not out[[0, 2]].isnan().any()


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
