"""Whole models on a CUDA device, float32: silicon, 28 edges per atom within 5 A, the neighbour list given.

Energy, forces, virial and scores of the mixture; "with the score's gradient" two cotangents go through the
network. The time per atom over the number of atoms shows what a step costs whatever it holds, and what grows
faster than the system.
"""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial

import torch
from device_sizes import DEVICE, REHEARSAL, is_there
from models import potential
from systems import silicon, tensors
from timing import Case

from uqforce.exporting.opening import call, open_model
from uqforce.ops import neighbor_list

CUTOFF, SIZES = 5.0, ("S", "M")
REPEATS = (1, 2) if REHEARSAL else (11, 23, 50)  # cells along an axis: 10 648, 97 336 and 1 000 000 atoms


@cache
def module_of(size: str) -> torch.nn.Module:
    """An exported model whose mixture has 20 components."""
    ours = potential(size)
    dim = ours.network.num_last_features
    normal = torch.randn(20, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    identity = torch.eye(dim, dtype=torch.float64).expand(20, dim, dim)
    ours.set_mixture(normal, identity.clone(), torch.full((20,), 1 / 20, dtype=torch.float64).log())
    return open_model(ours, DEVICE)[0]


@lru_cache(maxsize=1)
def edges_of(repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
    """edge_vec, edge_index of 8 repeat^3 atoms."""
    inputs = [tensor.to(DEVICE) for tensor in tensors(silicon(repeat))]
    edges = neighbor_list(*inputs, CUTOFF)
    return edges.edge_vec, edges.edge_index


def model(size: str, repeat: int, nll_gradient: str | None = None) -> Callable[[], object]:
    edge_vec, edge_index = edges_of(repeat)
    zeros = torch.zeros(8 * repeat**3, dtype=torch.int64, device=DEVICE)
    module = module_of(size)
    return lambda: call(module, edge_vec, edge_index, zeros, zeros, 1, nll_gradient)


def cases() -> Iterator[Case]:
    if not is_there():
        return
    for repeat in REPEATS:
        for size in SIZES:
            for what, nll_gradient in (("", None), (", with the score's gradient", "mean")):
                atoms, make = 8 * repeat**3, partial(model, size, repeat, nll_gradient)
                yield Case(
                    f"model {size}, {atoms} atoms{what}", "atom", atoms, {"uqforce": make}, device=DEVICE
                )
