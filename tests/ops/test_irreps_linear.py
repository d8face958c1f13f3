"""The six tests of the equivariant linear map."""

import pytest
import torch

from uqforce.ops import LinearSpec, irreps_linear
from uqforce.reference.irreps_linear import irreps_linear as reference

# Tails of every instruction set, whole tiles, an irrep that only one side has.
SPEC = LinearSpec("5x0e + 3x0o + 70x1o + 64x2e", "71x0e + 2x1o + 4x1e + 128x2e")


def make_case(nodes, types, dtype, device="cpu", cotangents=None):
    generator = torch.Generator().manual_seed(nodes)
    shape = [nodes, SPEC.dim_in] if cotangents is None else [cotangents, nodes, SPEC.dim_in]
    x = torch.randn(shape, dtype=dtype, generator=generator)
    weight = torch.randn(types, SPEC.weight_numel, dtype=dtype, generator=generator)
    of_nodes = torch.randint(types, (nodes,), generator=generator).to(device) if types > 1 else None
    return x.to(device), weight.to(device), of_nodes


@pytest.mark.parametrize("nodes", [0, 1, 7, 200])
@pytest.mark.parametrize("types", [1, 3])
@pytest.mark.parametrize("cotangents", [None, 2])
def test_equals_reference(nodes, types, cotangents, dtype, device):
    x, weight, of_nodes = make_case(nodes, types, dtype, device, cotangents)
    got = irreps_linear(x, weight, of_nodes, SPEC.flat)
    want = reference(x.double(), weight.double(), of_nodes, SPEC.flat)
    assert got.dtype == dtype and got.shape == want.shape
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * 30)


def test_gradients(device):
    x, weight, of_nodes = make_case(4, 3, torch.float64, device)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: irreps_linear(x, weight, of_nodes, SPEC.flat), x)
    assert torch.autograd.gradgradcheck(lambda x: irreps_linear(x, weight, of_nodes, SPEC.flat) ** 2, x)


def test_derivative_is_the_transposed_map(device):
    x, weight, of_nodes = make_case(9, 3, torch.float64, device)
    given = torch.randn(9, SPEC.dim_out, dtype=torch.float64).to(device)
    x.requires_grad_()
    (want,) = torch.autograd.grad(reference(x, weight, of_nodes, SPEC.flat), x, given)
    got = irreps_linear(given, SPEC.transpose(weight), of_nodes, SPEC.transposed())
    torch.testing.assert_close(got, want)


def test_opcheck(device):
    x, weight, of_nodes = make_case(5, 3, torch.float64, device)
    x.requires_grad_()
    torch.library.opcheck(torch.ops.uqforce.irreps_linear.default, (x, weight, of_nodes, SPEC.flat))


def test_script_save_load(fresh_process, tmp_path):
    x, weight, of_nodes = make_case(5, 3, torch.float64)
    module = torch.jit.script(irreps_linear)
    module.save(str(tmp_path / "op.pt"))
    torch.save((x, weight, of_nodes, SPEC.flat, module(x, weight, of_nodes, SPEC.flat)), tmp_path / "case")
    fresh_process("""
        *arguments, want = torch.load("case", weights_only=True)
        assert torch.equal(torch.jit.load("op.pt")(*arguments), want)
    """)


def test_non_contiguous_and_many_rows(device):
    x, weight, of_nodes = make_case(70_000, 2, torch.float32, device)
    got = irreps_linear(x, weight, of_nodes, SPEC.flat)
    strided = torch.stack([x[-40:], x[-40:]], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(irreps_linear(strided, weight, of_nodes[-40:], SPEC.flat), got[-40:])


def test_bitwise_the_same_for_any_number_of_threads(dtype):
    x, weight, of_nodes = make_case(333, 3, dtype)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 1, 2, 3):
        torch.set_num_threads(count)
        results.append(irreps_linear(x, weight, of_nodes, SPEC.flat))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_bad_arguments():
    x, weight, of_nodes = make_case(5, 3, torch.float64)
    flat = SPEC.flat
    with pytest.raises(ValueError, match=f"x has 3 columns, expected {SPEC.dim_in}"):
        irreps_linear(x[:, :3], weight, of_nodes, flat)
    with pytest.raises(ValueError, match="weight is for 3 types: give `types`"):
        irreps_linear(x, weight, None, flat)
    with pytest.raises(IndexError, match="types has 3 but weight is for 3 types"):
        irreps_linear(x, weight, of_nodes.clamp(min=1) * 3, flat)
    with pytest.raises(TypeError, match="weight is Float but x is Double"):
        irreps_linear(x, weight.float(), of_nodes, flat)
    with pytest.raises(RuntimeError, match="weight requires a gradient"):
        irreps_linear(x, weight.requires_grad_(), of_nodes, flat)
    with pytest.raises(ValueError, match="block 0 leaves its tensors"):
        irreps_linear(x, weight.detach(), of_nodes, [*flat[:5], flat[5] + SPEC.dim_in, *flat[6:]])
    with pytest.raises(ValueError, match="an irrep occurs twice"):
        LinearSpec("1x0e + 2x0e", "0e")
