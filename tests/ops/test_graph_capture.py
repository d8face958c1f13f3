"""Ops of fixed sizes can be captured in a CUDA graph: replayed on other input, it gives what a call gives.

On the CPU only the calls are tried.
"""

import pytest
import torch
from torch import Tensor

from tests.ops.cases import CASES
from tests.ops.op_case import overload, placed


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


def scaled(arguments: list) -> list:
    """Other numbers of the same sizes; indices stay."""
    return [0.7 * a if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_replay_equals_a_call(case, device):
    """Of every schema the op stands on."""
    *_, sample = case.samples.values()
    for schema, arguments, *_ in case.calls(*placed(sample(), torch.float32, device)):
        if schema == "neighbor_list":  # finds how many edges there are
            continue
        inputs = [a.detach().clone() if torch.is_tensor(a) else a for a in arguments]
        others = scaled(inputs)
        op = overload(schema)
        results, replay = (captured if device.type == "cuda" else called)(op, inputs)
        for mine, other in zip(inputs, others, strict=True):
            if torch.is_tensor(mine):
                mine.copy_(other)
        replay()
        for result, wanted in zip(results, listed(op(*others)), strict=True):
            assert torch.equal(result, wanted), schema
