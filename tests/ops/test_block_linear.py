"""The six tests of the equivariant linear map, and its equality with e3nn's."""

import pytest
import torch
from e3nn import o3

from tests.ops.derivatives import assert_close, second_order
from uqforce.ops import BlockSpec, block_linear
from uqforce.ops.irreps import from_e3nn, to_e3nn
from uqforce.reference.block_linear import block_linear as reference


def make_spec(irreps_in, irreps_out, fan=1):
    return BlockSpec(irreps_in, irreps_out, fan).flat


SPECS = {
    "square": make_spec("5x0e + 3x1o + 2x2e", "4x0e + 6x1o + 1x2e"),
    "gaps": make_spec(
        "2x0e + 3x0o + 2x1o + 1x2e", "3x2e + 2x1e + 4x0e"
    ),  # columns of both sides without block
    "wide": make_spec("40x0e + 33x1o", "64x0e + 17x1o", fan=3),
    "as they are": make_spec("70x0e + 3x1o", "3x1o + 150x0e", fan=0),
}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def random_inputs(spec, atoms, num_types=None, dtype=torch.float64, device="cpu", transposed=False):
    dim_in, dim_out, numel, *_ = spec
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(device, dtype)

    x = random(atoms, dim_out if transposed else dim_in)
    weight = random(num_types or 1, numel)
    types = None if num_types is None else torch.randint(num_types, (atoms,), generator=generator).to(device)
    return x, weight, types


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("num_types", [None, 1, 4])
def test_equals_reference(spec, num_types, transposed, device, dtype):
    inputs = random_inputs(spec, 9, num_types, dtype, device, transposed)
    results = second_order(block_linear, *inputs, spec, transposed)
    assert all(t.dtype == dtype for t in results)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert_close(results, second_order(reference, *inputs, spec, transposed), tolerance)


@pytest.mark.parametrize("num_types", [None, 2])
def test_gradients(num_types, device):
    spec = SPECS["gaps"]
    x, weight, types = random_inputs(spec, 3, num_types, device=device)

    def function(x, weight):
        return block_linear(x, weight, types, spec)

    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_equals_e3nn():
    irreps_in, irreps_out = o3.Irreps("5x0e + 3x1o + 2x2e"), o3.Irreps("4x0e + 6x1o + 1x2e")
    linear = o3.Linear(irreps_in, irreps_out).double()
    x = torch.randn(7, irreps_in.dim, dtype=torch.float64)
    out = block_linear(from_e3nn(x, irreps_in), linear.weight.unsqueeze(0), None, SPECS["square"])
    torch.testing.assert_close(to_e3nn(out, irreps_out), linear(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_types", [None, 2])
@pytest.mark.parametrize("atoms", [0, 3])
def test_opcheck(num_types, atoms, device):
    spec = SPECS["square"]
    x, weight, types = random_inputs(spec, atoms, num_types, device=device)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    grad = torch.randn(atoms, spec[1], dtype=torch.float64, device=device, requires_grad=True)
    library = torch.ops.uqforce
    torch.library.opcheck(library.block_linear, (x, weight, types, spec, False))
    torch.library.opcheck(library.block_linear, (grad, weight, types, spec, True))
    torch.library.opcheck(library.block_linear_weight, (x, grad, types, len(weight), spec))


class Layer(torch.nn.Module):
    def __init__(self, spec: list[int]):
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor, weight: torch.Tensor, types: torch.Tensor):
        return block_linear(x, weight, types, self.spec)


def test_script_save_load(fresh_process, tmp_path):
    spec = SPECS["square"]
    torch.jit.script(Layer(spec)).save(tmp_path / "layer.pt")
    x, weight, types = random_inputs(spec, 5, 2)
    torch.save([x, weight, types], tmp_path / "inputs.pt")
    fresh_process(
        """
        layer = torch.jit.load("layer.pt")
        x, weight, types = torch.load("inputs.pt", weights_only=True)
        inputs = [x.requires_grad_(), weight.requires_grad_()]
        out = layer(*inputs, types)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
        torch.save([t.detach() for t in (out, *first, *second)], "results.pt")
        """
    )
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    out = block_linear(*inputs, types, spec)
    first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
    loaded = torch.load(tmp_path / "results.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded, (out, *first, *second), strict=True))


@pytest.mark.parametrize(("atoms", "num_types"), [(0, None), (0, 3), (1, 3), (70_000, 2)])
def test_edges(atoms, num_types, dtype, device):
    """No atoms, one atom (types without any), more than 65 535."""
    spec = make_spec("2x0e + 1x1o", "1x0e + 2x1o")
    inputs = random_inputs(spec, atoms, num_types, dtype, device)
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-11}[dtype]  # of sums of 35 000 terms of either sign
    expected = second_order(
        reference, *(t.double() if t is not None and t.is_floating_point() else t for t in inputs), spec
    )
    assert_close(second_order(block_linear, *inputs, spec), expected, tolerance)


def test_non_contiguous(spec, device):
    inputs = random_inputs(spec, 6, 3, device=device)
    strided = [torch.stack([t, t + 1], dim=-1)[..., 0] for t in inputs]
    assert not any(t.is_contiguous() for t in strided)
    expected = second_order(block_linear, *inputs, spec)
    assert all(map(torch.equal, second_order(block_linear, *strided, spec), expected))


@pytest.mark.parametrize("num_types", [None, 3])
def test_bitwise_the_same_twice(num_types, dtype, device):
    inputs = random_inputs(SPECS["wide"], 500, num_types, dtype, device)
    results = [second_order(block_linear, *inputs, SPECS["wide"]) for _ in range(2)]
    assert all(map(torch.equal, *results))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_the_same_for_any_number_of_threads(dtype, transposed):
    spec = SPECS["wide"]
    inputs = random_inputs(spec, 500, 3, dtype, transposed=transposed)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(block_linear(*inputs, spec, transposed))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_transposed_spec_and_weights():
    spec = BlockSpec("2x0e + 3x0o + 2x1o", "3x1o + 2x1e + 4x0e", fan=0)
    x, weight, types = random_inputs(spec.flat, 6, 2, transposed=True)
    got = block_linear(x, spec.transpose(weight), types, spec.transposed())
    torch.testing.assert_close(got, block_linear(x, weight, types, spec.flat, True))


def test_bad_arguments(device, cuda_kernels):
    spec = SPECS["square"]
    x, weight, types = random_inputs(spec, 4, 2, torch.float32, device)
    with pytest.raises(ValueError, match=r"x has shape \[4, 23\], expected \[any, 24\]"):
        block_linear(x[:, 1:], weight, types, spec)
    with pytest.raises(ValueError, match="weight has shape"):
        block_linear(x, weight[:, 1:], types, spec)
    with pytest.raises(ValueError, match="weight has 2 rows but there are no types"):
        block_linear(x, weight, None, spec)
    wrong = types + 1 + (types == 0)
    if cuda_kernels:  # to look at types on the host would make it wait
        assert block_linear(x, weight, wrong, spec).isnan().all()
    else:
        with pytest.raises(IndexError, match="types has 2 but weight has 2 rows"):
            block_linear(x, weight, wrong, spec)
    with pytest.raises(TypeError, match="weight is Double but x is Float"):
        block_linear(x, weight.double(), types, spec)
    with pytest.raises(TypeError, match="types is Int"):
        block_linear(x, weight, types.int(), spec)
    with pytest.raises(ValueError, match="no list of blocks"):
        block_linear(x, weight, types, spec[:-1])
    with pytest.raises(ValueError, match="block 1 leaves its tensors or shares"):
        block_linear(x, weight, types, [*spec[:13], 0, *spec[14:]])
