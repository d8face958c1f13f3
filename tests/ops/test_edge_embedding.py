"""The six tests of the embedding of edges, and its equality with e3nn's spherical harmonics."""

import pytest
import torch
from e3nn import o3

from tests.ops.derivatives import assert_close
from uqforce.ops import edge_embedding
from uqforce.reference.edge_embedding import edge_embedding as reference


def random_inputs(edges, dtype=torch.float64, device="cpu", one_cutoff=False):
    generator = torch.Generator().manual_seed(0)
    edge_vec = 2 * torch.randn(edges, 3, dtype=torch.float64, generator=generator)
    inverse_cutoff = 0.2 + torch.rand(1 if one_cutoff else edges, dtype=torch.float64, generator=generator)
    return edge_vec.to(device, dtype), inverse_cutoff.to(device, dtype)


def second_order(function, edge_vec, inverse_cutoff, l_max, used=(0, 1)):
    """Values, first derivatives, and the derivatives of a function of them; cotangents of `used` only."""
    edge_vec = edge_vec.detach().requires_grad_()
    out = function(edge_vec, inverse_cutoff, l_max)
    grads = [(3 * out[k]).detach().sin().requires_grad_() for k in used]
    (first,) = torch.autograd.grad([out[k] for k in used], edge_vec, grads, create_graph=True)
    second = torch.autograd.grad(first, [*grads, edge_vec], torch.cos(edge_vec.detach()))
    return *out, first, *second


@pytest.mark.parametrize("l_max", range(5))
@pytest.mark.parametrize("one_cutoff", [False, True])
def test_equals_reference(l_max, one_cutoff, device, dtype):
    inputs = random_inputs(45, dtype, device, one_cutoff)
    used = (0, 1) if l_max > 0 else (1,)  # Y_00 is a constant, without a graph in the reference
    results = second_order(edge_embedding, *inputs, l_max, used)
    assert all(t.dtype == dtype for t in results)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-13}[dtype]
    expected = second_order(reference, *(t.double() for t in inputs), l_max, used)
    if dtype == torch.float64:
        assert_close(results, expected, tolerance)
    else:  # the cotangents are functions of the values
        assert_close(results[:2], expected[:2], tolerance)
        assert_close(results[2:], expected[2:], 10 * tolerance)


@pytest.mark.parametrize("l_max", range(5))
@pytest.mark.parametrize("used", [(0,), (1,)])
def test_gradient_of_one_result(l_max, used, device):
    inputs = random_inputs(20, device=device)
    if (l_max, used) == (0, (0,)):
        pytest.skip("Y_00 is a constant")
    results = second_order(edge_embedding, *inputs, l_max, used)
    assert_close(results, second_order(reference, *inputs, l_max, used), 1e-13)


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


@pytest.mark.parametrize("l_max", [0, 2, 4])
def test_gradients(l_max, device):
    edge_vec, inverse_cutoff = random_inputs(4, device=device)

    def function(edge_vec):
        return edge_embedding(edge_vec, inverse_cutoff, l_max)

    assert torch.autograd.gradcheck(function, edge_vec.requires_grad_())
    assert torch.autograd.gradgradcheck(function, edge_vec)


def test_third_derivative_is_refused():
    edge_vec, inverse_cutoff = random_inputs(4)
    edge_vec.requires_grad_()
    out = edge_embedding(edge_vec, inverse_cutoff, 2)[0].square().sin().sum()
    (first,) = torch.autograd.grad(out, edge_vec, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), edge_vec, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice, not three times"):
        second.square().sum().backward()


@pytest.mark.parametrize("edges", [0, 5])
def test_opcheck(edges, device):
    edge_vec, inverse_cutoff = random_inputs(edges, device=device)
    grad_sh, grad_length = torch.randn(edges, 9).to(edge_vec), torch.randn(edges, 1).to(edge_vec)
    library = torch.ops.uqforce
    torch.library.opcheck(library.edge_embedding, (edge_vec.requires_grad_(), inverse_cutoff, 2))
    grads = (grad_sh.requires_grad_(), grad_length.requires_grad_())
    torch.library.opcheck(library.edge_embedding_backward, (*grads, edge_vec, inverse_cutoff, 2))
    torch.library.opcheck(library.edge_embedding_backward, (None, grads[1], edge_vec, inverse_cutoff, 2))
    arguments = [t.detach() for t in (edge_vec.cos(), *grads, edge_vec, inverse_cutoff)]
    for needs in ([True] * 3, [True, False, False]):
        torch.library.opcheck(library.edge_embedding_double_backward, (*arguments, 2, needs))


class Layer(torch.nn.Module):
    def forward(self, edge_vec: torch.Tensor, inverse_cutoff: torch.Tensor):
        return edge_embedding(edge_vec, inverse_cutoff, 3)


def test_script_save_load(fresh_process, tmp_path):
    torch.jit.script(Layer()).save(tmp_path / "layer.pt")
    inputs = random_inputs(50)
    torch.save(list(inputs), tmp_path / "inputs.pt")
    fresh_process(
        """
        layer = torch.jit.load("layer.pt")
        edge_vec, inverse_cutoff = torch.load("inputs.pt", weights_only=True)
        sh, length = layer(edge_vec.requires_grad_(), inverse_cutoff)
        (first,) = torch.autograd.grad((sh.sin() * length).sum(), edge_vec, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), edge_vec)
        torch.save([t.detach() for t in (sh, length, first, second)], "results.pt")
        """
    )
    edge_vec, inverse_cutoff = inputs
    sh, length = edge_embedding(edge_vec.requires_grad_(), inverse_cutoff, 3)
    (first,) = torch.autograd.grad((sh.sin() * length).sum(), edge_vec, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), edge_vec)
    loaded = torch.load(tmp_path / "results.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded, (sh, length, first, second), strict=True))


@pytest.mark.parametrize("edges", [0, 1, 70_000])
def test_edges(edges, device):
    """No edges, one edge, more than 65 535."""
    inputs = random_inputs(edges, device=device)
    assert_close(second_order(edge_embedding, *inputs, 2), second_order(reference, *inputs, 2), 1e-11)


def test_length_zero(device, dtype):
    """Two atoms in one place: no direction, no gradient, and no NaN for the other edges."""
    edge_vec, inverse_cutoff = random_inputs(20, dtype, device)
    edge_vec[3] = 0
    sh, length, first, *second = second_order(edge_embedding, edge_vec, inverse_cutoff, 2)
    assert length[3] == 0 and sh[3].tolist() == [1] + [0] * 8 and first[3].tolist() == [0] * 3
    assert all(t.isfinite().all() for t in (sh, length, first, *second))


def test_nan_stays_nan(device):
    edge_vec, inverse_cutoff = random_inputs(20, device=device)
    edge_vec[3, 1] = torch.nan
    sh, length = edge_embedding(edge_vec, inverse_cutoff, 2)
    assert sh[3, 1:].isnan().all() and length[3].isnan() and not sh[4:].isnan().any()


def test_non_contiguous(device):
    inputs = random_inputs(30, device=device)
    strided = [torch.stack([t, t + 1], dim=-1)[..., 0] for t in inputs]
    assert not any(t.is_contiguous() for t in strided)
    expected = second_order(edge_embedding, *inputs, 2)
    assert all(map(torch.equal, second_order(edge_embedding, *strided, 2), expected))


def test_bitwise_the_same_twice_and_for_any_number_of_threads(dtype, device):
    inputs = random_inputs(5000, dtype, device)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            results.append(second_order(edge_embedding, *inputs, 3))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


ALL_OPS = """
edge_vec, inverse_cutoff, grad_sh, grad_length = inputs
library = torch.ops.uqforce
rest = (edge_vec, inverse_cutoff, 4)
results = [*library.edge_embedding(*rest), library.edge_embedding_backward(grad_sh, grad_length, *rest)]
results += library.edge_embedding_double_backward(edge_vec.sin(), grad_sh, grad_length, *rest, [True] * 3)
"""


@pytest.mark.cpu_kernels
def test_every_instruction_set(dtype, every_instruction_set):
    edge_vec, inverse_cutoff = random_inputs(37, dtype)
    grads = torch.randn(37, 25, dtype=dtype), torch.randn(37, 1, dtype=dtype)
    first, *others = every_instruction_set(ALL_OPS, [edge_vec, inverse_cutoff, *grads])
    for other in others:
        assert_close(other, first, 100 * torch.finfo(dtype).eps)


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
