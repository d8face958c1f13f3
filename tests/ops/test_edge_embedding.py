"""The embedding of edges: its case of the six tests, its equality with e3nn's spherical harmonics."""

from functools import partial

import pytest
import torch
from e3nn import o3

from tests.ops.op_case import OpCase, assert_close, derivatives
from uqforce.ops import edge_embedding
from uqforce.reference.edge_embedding import edge_embedding as reference


def random_inputs(edges, dtype=torch.float64, device="cpu", one_cutoff=False):
    generator = torch.Generator().manual_seed(0)
    edge_vec = 2 * torch.randn(edges, 3, dtype=torch.float64, generator=generator)
    inverse_cutoff = 0.2 + torch.rand(1 if one_cutoff else edges, dtype=torch.float64, generator=generator)
    return edge_vec.to(device, dtype), inverse_cutoff.to(device, dtype)


def inputs(edges, l_max, one_cutoff=False):
    return *random_inputs(edges, one_cutoff=one_cutoff), l_max


def calls(edge_vec, inverse_cutoff, l_max):
    """Every schema of the embedding, with arguments of its own."""
    rest = (edge_vec, inverse_cutoff, l_max)
    grads = [torch.randn_like(result) for result in edge_embedding(*rest)]
    for needs in ([True] * 3, [True, False, False]):
        yield "edge_embedding_double_backward", (edge_vec.cos(), *grads, *rest, needs)
    rest = (edge_vec.clone().requires_grad_(), inverse_cutoff, l_max)
    grads = [grad.requires_grad_() for grad in grads]
    yield "edge_embedding", rest
    yield "edge_embedding_backward", (*grads, *rest)
    yield "edge_embedding_backward", (None, grads[1], *rest)


OP_CASES = [
    OpCase(
        edge_embedding,
        reference,
        differentiable=(0,),
        samples={
            f"l_max {l_max} {'one cutoff' if one else 'cutoffs'}": partial(inputs, 45, l_max, one)
            for l_max in range(5)
            for one in (False, True)
        },
        tiny={f"l_max {l_max}": partial(inputs, 4, l_max) for l_max in (0, 2, 4)},
        edges={f"{edges} edges": partial(inputs, edges, 2) for edges in (0, 1, 70_000)},
        many={"l_max 3": partial(inputs, 5000, 3)},
        called={f"{edges} edges": partial(inputs, edges, 2) for edges in (0, 5)},
        calls=calls,
        tolerance={torch.float32: 2e-5, torch.float64: 1e-13},
        edge_tolerance={torch.float32: 2e-4, torch.float64: 1e-11},
        isa_eps=100,
    )
]


@pytest.mark.parametrize("l_max", range(5))
@pytest.mark.parametrize("used", [(0,), (1,)])
def test_gradient_of_one_result(l_max, used, device):
    inputs = random_inputs(20, device=device)
    if (l_max, used) == (0, (0,)):
        pytest.skip("Y_00 is a constant")

    def some_of(function):
        return derivatives(lambda vec: [function(vec, inputs[1], l_max)[k] for k in used], inputs[:1], (0,))

    assert_close(some_of(edge_embedding), some_of(reference), 1e-13)


def test_equals_e3nn(device):
    harmonics = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(4), True, "component").to(device)
    edge_vec, inverse_cutoff = random_inputs(50, device=device)
    edge_vec.requires_grad_()
    value, length = edge_embedding(edge_vec, inverse_cutoff, 4)
    expected = harmonics(edge_vec)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(length[:, 0], edge_vec.norm(dim=1) * inverse_cutoff)
    gradients = [torch.autograd.grad(y.sin().sum(), edge_vec)[0] for y in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


def test_length_zero(device, dtype):
    """Two atoms in one place: no direction, no gradient, and no NaN for the other edges."""
    edge_vec, inverse_cutoff = random_inputs(20, dtype, device)
    edge_vec[3] = 0
    sh, length, first, *second = derivatives(edge_embedding, (edge_vec, inverse_cutoff, 2), (0,))
    assert length[3] == 0 and sh[3].tolist() == [1] + [0] * 8 and first[3].tolist() == [0] * 3
    assert all(t.isfinite().all() for t in (sh, length, first, *second))


def test_nan_stays_nan(device):
    edge_vec, inverse_cutoff = random_inputs(20, device=device)
    edge_vec[3, 1] = torch.nan
    sh, length = edge_embedding(edge_vec, inverse_cutoff, 2)
    assert sh[3, 1:].isnan().all() and length[3].isnan() and not sh[4:].isnan().any()


def test_bad_arguments():
    edge_vec, inverse_cutoff = random_inputs(6, torch.float32)
    with pytest.raises(ValueError, match="l_max is 5, expected 0 to 4"):
        edge_embedding(edge_vec, inverse_cutoff, 5)
    with pytest.raises(ValueError, match=r"edge_vec has shape \[6, 2\], expected \[any, 3\]"):
        edge_embedding(edge_vec[:, :2], inverse_cutoff, 2)
    with pytest.raises(ValueError, match=r"inverse_cutoff has shape \[5\], expected \[6\]"):
        edge_embedding(edge_vec, inverse_cutoff[:5], 2)
    with pytest.raises(TypeError, match="inverse_cutoff is Double but edge_vec is Float"):
        edge_embedding(edge_vec, inverse_cutoff.double(), 2)
    with pytest.raises(TypeError, match="edge_vec is Half"):
        edge_embedding(edge_vec.half(), inverse_cutoff.half(), 2)
