"""`uqforce._C`: what `torch.ops.uqforce` gives, to the bit, gradients and errors included."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from uqforce import _C
from uqforce.ops import BlockSpec, TensorProductSpec

CELL = 3 * torch.eye(3, dtype=torch.float64)[None]
PBC = torch.tensor([[True, True, False]])
BATCH = torch.zeros(4, dtype=torch.int64)


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, dtype=torch.float64, generator=generator).requires_grad_()


EDGE_INDEX, SHIFT, EDGE_VEC = torch.ops.uqforce.neighbor_list(random(4, 3).detach(), CELL, PBC, 2.0, None)
E = EDGE_INDEX.shape[1]
SPEC = TensorProductSpec("2x0e + 1x1o", 1, "0e + 1o")
MIXTURE = [random(2, 3).detach(), torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), -random(2).detach()]
LINEAR = BlockSpec(SPEC.irreps_out, "3x0e + 2x1o", fan=0)
TABULATED = (
    *(random(E, 3), EDGE_INDEX, BATCH, torch.full((1, 1), 2.0, dtype=torch.float64)),
    *(random(9 * SPEC.weight_numel).detach(), random(LINEAR.weight_numel).detach(), SPEC.flat, LINEAR.flat),
)
CALLS = {
    "build_info": (),
    "neighbor_list": (random(4, 3), CELL, PBC, 2.0, BATCH),
    "edge_vectors": (random(4, 3), CELL, EDGE_INDEX, SHIFT, None),
    "tensor_product_conv": (random(4, 5), random(E, 4), random(E, SPEC.weight_numel), EDGE_INDEX, SPEC.flat),
    "edge_embedding": (random(6, 3), random(1).detach(), 2),
    "block_linear": (
        *(random(4, 5), random(1, 5), None),
        *([5, 5, 5, 1, 1, 2, 2, 0, 0, 0, 3, 1, 1, 2, 2, 4], False),
    ),
    "gate": (random(4, 7), [1, 2, 1, 4, 3, 1], 1.5, 1.6),
    "type_weights": (random(2, 3), random(3 * LINEAR.weight_numel), LINEAR.flat),
    "radial_interpolation": (random(9, 5), random(9, 5).detach(), random(4, 1)),
    "tabulated_conv": (random(4, 5), *TABULATED),
    "tabulated_conv_vjp": (
        *(random(2, 4, LINEAR.dim_out).detach(), random(4, 5).detach(), random(E, 3).detach()),
        *(*TABULATED[1:], True),
    ),
    "gmm_nll": (random(4, 3), *MIXTURE),
    "force_variance": (EDGE_INDEX, EDGE_VEC, random(2, E, 3), random(2, E, 3), BATCH, 1, False, 0, 2),
}


def results_and_gradients(function, arguments: tuple) -> list:
    results = function(*arguments)
    results = list(results) if isinstance(results, tuple) else [results]
    inputs = [value for value in arguments if isinstance(value, torch.Tensor) and value.requires_grad]
    if inputs:
        differentiable = [value.square().sum() for value in results if value.requires_grad]
        results += torch.autograd.grad(sum(differentiable), inputs)
    return results


def test_every_binding_is_tested():
    assert set(CALLS) == {name for name in vars(_C) if not name.startswith("_")}


@pytest.mark.parametrize("name", CALLS)
def test_equals_the_op(name):
    direct, op = (
        results_and_gradients(getattr(module, name), CALLS[name]) for module in (_C, torch.ops.uqforce)
    )
    assert len(direct) == len(op)
    for a, b in zip(direct, op):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", [name for name in CALLS if name != "build_info"])
def test_shapes_on_cuda_without_a_gpu(name):
    """Values of fake CUDA tensors have the shapes and types of those on the CPU; autograd wants a device."""
    op = getattr(torch.ops.uqforce, name)
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def on_cuda(value):
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            return torch.empty(value.shape, dtype=value.dtype, device="cuda")

    with torch.no_grad():
        expected = op(*CALLS[name])
        with mode:
            found = op(*map(on_cuda, CALLS[name]))
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for one, other in pairs:
        assert one.device.type == "cuda" and one.dtype == other.dtype
        known = [(a, b) for a, b in zip(one.shape, other.shape, strict=True) if isinstance(a, int)]
        assert all(a == b for a, b in known)
        assert name == "neighbor_list" or len(known) == other.dim()


def test_errors_keep_their_type():
    with pytest.raises(ValueError, match="means has shape"):
        _C.gmm_nll(random(4, 3), random(2, 2).detach(), *MIXTURE[1:])
    with pytest.raises(TypeError, match="means is Float but features is Double"):
        _C.gmm_nll(random(4, 3), MIXTURE[0].float(), *MIXTURE[1:])
