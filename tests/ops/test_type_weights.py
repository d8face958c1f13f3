"""The six tests of the weights per type, and their equality with e3nn's fully connected tensor product."""

import pytest
import torch
from e3nn import o3

from tests.ops.derivatives import assert_close, second_order
from uqforce.ops import BlockSpec, block_linear, type_weights
from uqforce.ops.irreps import from_e3nn, to_e3nn
from uqforce.reference.type_weights import type_weights as reference

SPECS = {
    "square": BlockSpec("5x0e + 3x1o + 2x2e", "4x0e + 6x1o + 1x2e", 3).flat,
    "gaps": BlockSpec("2x0e + 3x0o + 2x1o + 1x2e", "3x2e + 2x1e + 4x0e", 3).flat,
    "wide": BlockSpec("40x0e + 33x1o", "150x0e + 17x1o", 3).flat,
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def random_inputs(spec, types, features=3, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(device, dtype)

    return random(types, features), random(features * spec[2])


@pytest.mark.parametrize(("types", "features"), [(1, 3), (4, 3), (7, 32)])
def test_equals_reference(spec, types, features, device, dtype):
    inputs = random_inputs(spec, types, features, dtype, device)
    results = second_order(type_weights, *inputs, spec)
    assert all(t.dtype == dtype for t in results)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert_close(results, second_order(reference, *inputs, spec), tolerance)


def test_gradients(device):
    spec = SPECS["gaps"]
    inputs = [t.requires_grad_() for t in random_inputs(spec, 2, device=device)]

    def function(features, weight):
        return type_weights(features, weight, spec)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_equals_e3nn():
    irreps_in, irreps_out = o3.Irreps("5x0e + 3x1o + 2x2e"), o3.Irreps("4x0e + 6x1o + 1x2e")
    product = o3.FullyConnectedTensorProduct(irreps_in, "3x0e", irreps_out).double()
    features, types = torch.randn(4, 3, dtype=torch.float64), torch.tensor([3, 0, 0, 2, 1, 3])
    x = torch.randn(6, irreps_in.dim, dtype=torch.float64)
    weight = type_weights(features, product.weight, SPECS["square"])
    out = block_linear(from_e3nn(x, irreps_in), weight, types, SPECS["square"])
    torch.testing.assert_close(to_e3nn(out, irreps_out), product(x, features[types]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("types", [0, 3])
def test_opcheck(types, device):
    spec = SPECS["square"]
    features, weight = (t.requires_grad_() for t in random_inputs(spec, types, device=device))
    grad = torch.randn(types, spec[2], dtype=torch.float64, device=device, requires_grad=True)
    library = torch.ops.uqforce
    torch.library.opcheck(library.type_weights, (features, weight, spec))
    torch.library.opcheck(library.type_weights_features, (grad, weight, 3, spec))
    torch.library.opcheck(library.type_weights_weight, (features, grad, spec))


class Layer(torch.nn.Module):
    def __init__(self, spec: list[int]):
        super().__init__()
        self.spec = spec

    def forward(self, features: torch.Tensor, weight: torch.Tensor):
        return type_weights(features, weight, self.spec)


def test_script_save_load(fresh_process, tmp_path):
    spec = SPECS["square"]
    torch.jit.script(Layer(spec)).save(tmp_path / "layer.pt")
    inputs = random_inputs(spec, 2)
    torch.save(list(inputs), tmp_path / "inputs.pt")
    fresh_process(
        """
        layer = torch.jit.load("layer.pt")
        inputs = [t.requires_grad_() for t in torch.load("inputs.pt", weights_only=True)]
        out = layer(*inputs)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
        torch.save([t.detach() for t in (out, *first, *second)], "results.pt")
        """
    )
    inputs = [t.requires_grad_() for t in inputs]
    out = type_weights(*inputs, spec)
    first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
    loaded = torch.load(tmp_path / "results.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded, (out, *first, *second), strict=True))


@pytest.mark.parametrize(("types", "features"), [(0, 3), (1, 1), (2, 0), (70_000, 2)])
def test_edges(types, features, dtype, device):
    """No types, one, no features, more than 65 535 types."""
    spec = BlockSpec("2x0e + 1x1o", "1x0e + 2x1o", 3).flat
    inputs = random_inputs(spec, types, features, dtype, device)
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-11}[dtype]  # of sums of 70 000 terms of either sign
    expected = second_order(reference, *(t.double() for t in inputs), spec)
    assert_close(second_order(type_weights, *inputs, spec), expected, tolerance)


def test_no_blocks():
    spec = BlockSpec("2x0e", "1x1o", 3).flat
    assert type_weights(*random_inputs(spec, 2), spec).shape == (2, 0)


def test_non_contiguous(spec, device):
    inputs = random_inputs(spec, 3, device=device)
    strided = [torch.stack([t, t + 1], dim=-1)[..., 0] for t in inputs]
    assert not any(t.is_contiguous() for t in strided)
    expected = second_order(type_weights, *inputs, spec)
    assert all(map(torch.equal, second_order(type_weights, *strided, spec), expected))


def test_bitwise_the_same_twice_and_for_any_number_of_threads(dtype):
    spec = SPECS["wide"]
    inputs = random_inputs(spec, 5, 32, dtype)
    threads, results = torch.get_num_threads(), []
    for count in (1, 1, 2, 3):
        torch.set_num_threads(count)
        results.append(second_order(type_weights, *inputs, spec))
    torch.set_num_threads(threads)
    assert all(all(map(torch.equal, result, results[0])) for result in results)


def test_bad_arguments():
    spec = SPECS["square"]
    features, weight = random_inputs(spec, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"weight has shape \[119\], expected \[120\]"):
        type_weights(features, weight[1:], spec)
    with pytest.raises(ValueError, match=r"features has shape \[12\], expected \[any"):
        type_weights(features.flatten(), weight, spec)
    with pytest.raises(TypeError, match="weight is Double but features is Float"):
        type_weights(features, weight.double(), spec)
