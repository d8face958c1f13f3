"""Every op's CUDA kernels against the CPU's of the same library, and one model: bench/device/smoke.py.

float32 and float64; values, gradients and their gradients; twice, which must give the same bits. A line per
op says the largest error relative to the largest number; the exit status is 1 if one is too large. In a
rehearsal the kernels of the library UQFORCE_EMULATION (tests/emulation) take the card's place, if it is set.
"""

import os
import sys
from collections.abc import Callable
from functools import cache, partial

import torch
from card import REHEARSAL, device_name
from op_calls import OpCall, op_calls
from torch import Tensor

TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-13}
ATOMS = 64 if REHEARSAL else 13_824
SIZE = "S" if REHEARSAL else "M"


def error(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not found.dtype.is_floating_point:
        return 0.0 if torch.equal(found, expected) else float("inf")
    if not expected.numel():
        return 0.0
    difference = (found.double() - expected.double()).abs().max().item()
    return difference / max(expected.double().abs().max().item(), 1e-30)


def sorted_edges(results: list[Tensor]) -> list[Tensor]:
    """A neighbour list in an order that does not depend on who wrote it."""
    index, shift, vectors = results
    keys = torch.cat([index.T, shift.to(index.dtype)], 1)
    _, order = torch.unique(keys, dim=0, return_inverse=True)
    order = order.argsort()
    return [index[:, order], shift[order], vectors[order]]


def compare(call: OpCall, expected: list[Tensor], device: str) -> tuple[float, str]:
    """The largest error, and what else is wrong."""
    first, again = ([t.cpu() for t in call.results(device)] for _ in range(2))
    wrong = "" if all(map(torch.equal, first, again)) else "two runs differ"
    if call.name == "neighbor_list":
        first, expected = sorted_edges(first), sorted_edges(expected)
    if len(first) != len(expected):
        return float("inf"), f"{len(first)} results, not {len(expected)}"
    return max(map(error, first, expected)), wrong


@cache
def model_inputs() -> tuple:
    from models import potential
    from systems import silicon_atoms, tensors

    from uqforce.ops import neighbor_list

    potential = potential(SIZE)
    positions, cell, pbc = tensors(silicon_atoms(ATOMS))
    edges = neighbor_list(positions, cell, pbc, 5.0)
    return potential, edges.edge_vec, edges.edge_index, torch.zeros(ATOMS, dtype=torch.int64)


def model_results(device: str) -> list[Tensor]:
    from uqforce.exporting.opening import call, open_model

    potential, edge_vec, edge_index, zeros = model_inputs()
    module, _ = open_model(potential, device)
    zeros = zeros.to(device)
    out = call(module, edge_vec.to(device), edge_index.to(device), zeros, zeros, 1)
    return [out[key].detach().cpu() for key in ("energies", "forces", "virial")]


def attempt(make: Callable[[], list[Tensor]]) -> list[Tensor] | Exception:
    try:
        return make()
    except Exception as problem:
        return problem


def settled(results: list[Tensor] | Exception) -> list[Tensor]:
    if isinstance(results, Exception):
        raise results
    return results


def main() -> int:
    device, failed = device_name(), []

    def report(name: str, worst: float, tolerance: float, wrong: str) -> None:
        if not worst <= tolerance:
            wrong = f"{wrong}; " * bool(wrong) + f"above {tolerance:g}"
        print(f"{name:45} {worst:9.1e}  {wrong}".rstrip(), flush=True)
        if wrong:
            failed.append(name)

    calls = [(call, dtype) for dtype in TOLERANCE for call in op_calls(dtype)]
    # Of the CPU's kernels, before others may take their place.
    expected = [attempt(partial(call.results, "cpu")) for call, _ in calls]
    of_model = attempt(partial(model_results, "cpu"))
    if emulation := REHEARSAL and os.environ.get("UQFORCE_EMULATION"):
        torch.ops.load_library(emulation)
    for (call, dtype), results in zip(calls, expected):
        name = f"{call.name}, {str(dtype).removeprefix('torch.')}"
        try:
            worst, wrong = compare(call, settled(results), device)
        except Exception as problem:
            worst, wrong = float("nan"), f"{type(problem).__name__}: {problem}".split("\n")[0]
        report(name, worst, TOLERANCE[dtype], wrong)
    try:
        expected = settled(of_model)
        worst = max(map(error, model_results(device), expected))
        report(f"preset {SIZE}, {ATOMS} atoms", worst, 1e-4, "")
    except Exception as problem:
        report(f"preset {SIZE}, {ATOMS} atoms", float("nan"), 1e-4, f"{type(problem).__name__}: {problem}")
    print(f"wrong: {'; '.join(failed)}" if failed else "all right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
