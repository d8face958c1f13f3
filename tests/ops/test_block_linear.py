"""The equivariant linear map: its case of the six tests, and its equality with e3nn's."""

from functools import partial

import pytest
import torch
from e3nn import o3

from tests.ops.op_case import OpCase, assert_same_bits, derivatives, placed
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


EDGES = make_spec("2x0e + 1x1o", "1x0e + 2x1o")


def random_inputs(spec, atoms, num_types=None, dtype=torch.float64, device="cpu", transposed=False):
    dim_in, dim_out, numel, *_ = spec
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(device, dtype)

    x = random(atoms, dim_out if transposed else dim_in)
    weight = random(num_types or 1, numel)
    types = None if num_types is None else torch.randint(num_types, (atoms,), generator=generator).to(device)
    return x, weight, types


def inputs(spec, atoms, num_types=None, transposed=False):
    return *random_inputs(spec, atoms, num_types, transposed=transposed), spec, transposed


def calls(x, weight, types, spec, transposed):
    """Every schema of the map, with arguments of its own."""
    grad = torch.randn_like(block_linear(x, weight, types, spec, transposed))
    x, weight, grad = (t.clone().requires_grad_() for t in (x, weight, grad))
    given, wanted = (grad, x) if transposed else (x, grad)
    yield "block_linear", (given, weight, types, spec, False)
    yield "block_linear", (wanted, weight, types, spec, True)
    yield "block_linear_weight", (given, wanted, types, len(weight), spec)


OP_CASES = [
    OpCase(
        block_linear,
        reference,
        differentiable=(0, 1),
        samples={
            f"{name} {types} types{' transposed' * transposed}": partial(inputs, spec, 9, types, transposed)
            for name, spec in SPECS.items()
            for types in (None, 1, 4)
            for transposed in (False, True)
        },
        tiny={f"{num_types} types": partial(inputs, SPECS["gaps"], 3, num_types) for num_types in (None, 2)},
        edges={
            f"{atoms} atoms {num_types} types": partial(inputs, EDGES, atoms, num_types)
            for atoms, num_types in ((0, None), (0, 3), (1, 3), (70_000, 2))
        },
        many={"3 types": partial(inputs, SPECS["wide"], 500, 3)},
        called={
            f"{atoms} atoms {num_types} types": partial(inputs, SPECS["square"], atoms, num_types)
            for atoms in (0, 3)
            for num_types in (None, 2)
        },
        calls=calls,
        # of sums of 35 000 terms of either sign
        edge_tolerance={torch.float32: 1e-3, torch.float64: 1e-11},
        isa_eps=50,
        refusal="",  # linear in each
    )
]


def test_equals_e3nn():
    irreps_in, irreps_out = o3.Irreps("5x0e + 3x1o + 2x2e"), o3.Irreps("4x0e + 6x1o + 1x2e")
    linear = o3.Linear(irreps_in, irreps_out).double()
    x = torch.randn(7, irreps_in.dim, dtype=torch.float64)
    out = block_linear(from_e3nn(x, irreps_in), linear.weight.unsqueeze(0), None, SPECS["square"])
    torch.testing.assert_close(to_e3nn(out, irreps_out), linear(x), rtol=0, atol=1e-12)


def test_bitwise_the_same_twice_without_types(dtype, device):
    """One matrix for all atoms: torch computes its gradient, and the number of threads decides how."""
    arguments = placed(inputs(SPECS["wide"], 500, None), dtype, device)
    assert_same_bits(*(derivatives(block_linear, arguments, (0, 1), 2) for _ in range(2)))


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
