"""Ops of fixed sizes can be captured in a CUDA graph: replayed on other input, it gives what a call gives.

On the CPU only the cases are tried.
"""

import pytest
import torch
from torch import Tensor

from tests.ops.test_tabulated_conv import Case as TabulatedCase
from uqforce.ops import BlockSpec, GateSpec, TensorProductSpec

OPS = torch.ops.uqforce
SPEC = TensorProductSpec("8x0e + 4x1o", 2, "0e + 1o + 1e + 2e")
NODES, EDGES = 40, 300


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape)


def edge_index() -> Tensor:
    index = torch.randint(NODES, (2, EDGES))
    return torch.stack([index[0].sort().values, index[1]])


def conv_inputs() -> list[Tensor]:
    return [
        randn(NODES, SPEC.dim_in),
        randn(EDGES, 9),
        randn(EDGES, SPEC.weight_numel),
        edge_index(),
    ]


def mixture() -> list[Tensor]:
    factor = torch.eye(12).repeat(5, 1, 1) + 0.1 * randn(5, 12, 12).triu()
    return [randn(NODES, 12), randn(5, 12), factor, torch.zeros(5).log_softmax(0)]


def forces() -> list[Tensor]:
    return [edge_index(), randn(EDGES, 3), randn(4, EDGES, 3), randn(4, EDGES, 3), torch.zeros(NODES).long()]


MAP = BlockSpec("8x0e + 4x1o", "5x0e + 6x1o")
TABULATED = TabulatedCase("8x0e + 4x1o", 2, "0e + 1o + 1e + 2e", NODES, EDGES)
CASES = {  # the op of some tensors, and how these are made
    "tensor_product_conv": (lambda *t: OPS.tensor_product_conv(*t, SPEC.flat), conv_inputs),
    "tensor_product_conv_backward": (
        lambda g, *t: OPS.tensor_product_conv_backward(g, *t, SPEC.flat, [True] * 3),
        lambda: [randn(NODES, SPEC.dim_out), *conv_inputs()],
    ),
    "tensor_product_conv_double_backward": (
        lambda x, sh, w, g, *t: OPS.tensor_product_conv_double_backward(
            x, sh, w, g, *t, SPEC.flat, [True] * 4
        ),
        lambda: [*conv_inputs()[:3], randn(NODES, SPEC.dim_out), *conv_inputs()],
    ),
    "tabulated_conv": (
        lambda *t: OPS.tabulated_conv(*t, *TABULATED.arguments()[-2:]),
        lambda: [t.float() if t.is_floating_point() else t for t in TABULATED.arguments()[:-2]],
    ),
    "tabulated_conv_vjp": (
        lambda *t: OPS.tabulated_conv_vjp(*t, *TABULATED.arguments()[-2:], True),
        lambda: [t.float() if t.is_floating_point() else t for t in TABULATED.vjp_arguments()[:-2]],
    ),
    "edge_embedding": (lambda v, c: OPS.edge_embedding(v, c, 2), lambda: [randn(EDGES, 3), torch.ones(1)]),
    "gate": (
        lambda x: OPS.gate(x, GateSpec("8x0e", "4x1o").flat, 1.5, 1.5),
        lambda: [randn(NODES, 8 + 4 + 12)],
    ),
    "block_linear": (
        lambda x, w, t: OPS.block_linear(x, w, t, MAP.flat, False),
        lambda: [randn(NODES, MAP.dim_in), randn(3, MAP.weight_numel), torch.randint(3, (NODES,))],
    ),
    "radial_interpolation": (
        OPS.radial_interpolation,
        lambda: [randn(16, 24), randn(16, 24), torch.rand(EDGES, 1)],
    ),
    "gmm_nll": (OPS.gmm_nll, mixture),
    "gmm_nll_grad": (OPS.gmm_nll_grad, mixture),
    "gmm_nll_hvp": (OPS.gmm_nll_hvp, lambda: [*mixture(), randn(NODES, 12)]),
    "force_variance": (lambda *t: OPS.force_variance(*t, 1, True, 0), forces),
    "edge_vectors": (
        OPS.edge_vectors,
        lambda: [randn(NODES, 3), 9 * torch.eye(3)[None], edge_index(), torch.zeros(EDGES, 3).long(), None],
    ),
}


def listed(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def captured(op, inputs: list[Tensor | None]):
    """The op in a graph: what a replay fills, and the replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        op(*inputs)  # what is made once for a process
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = listed(op(*inputs))
    return results, graph.replay


def called(op, inputs: list[Tensor | None]):
    """As `captured`, without a graph."""
    results = listed(op(*inputs))

    def replay() -> None:
        for old, new in zip(results, listed(op(*inputs)), strict=True):
            old.copy_(new)

    return results, replay


@pytest.mark.parametrize("name", CASES)
def test_replay_equals_a_call(name, device):
    op, make = CASES[name]
    torch.manual_seed(0)
    inputs, others = ([None if t is None else t.to(device) for t in make()] for _ in range(2))
    results, replay = (captured if device.type == "cuda" else called)(op, inputs)
    for tensor, other in zip(inputs, others, strict=True):
        if tensor is not None:
            tensor.copy_(other)
    replay()
    for result, wanted in zip(results, listed(op(*others)), strict=True):
        assert torch.equal(result, wanted)
