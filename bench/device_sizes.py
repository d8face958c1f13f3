"""What the benchmarks of a CUDA device (`device_*.py`) share: the device, sizes, systems, derivatives.

In a rehearsal (`bench/device.sh time --rehearse`) the CPU stands for the device, with small sizes.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

REHEARSAL = os.environ.get("UQFORCE_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
EDGES, ATOMS, CHUNK = (560, 600, 256) if REHEARSAL else (400_008, 1_000_000, 1 << 16)
LATTICE, CUTOFF = 2.3, 5.4  # A: 56 neighbours in a simple cubic lattice


def is_there() -> bool:
    """Whether there are cases at all."""
    return REHEARSAL or torch.cuda.is_available()


def derivatives(function: Callable[..., Tensor], tensors: list[Tensor], order: int) -> Callable[[], object]:
    """The function's value (order 0), the gradients of it by all tensors (1), or of these gradients (2)."""
    if order == 0:
        return lambda: function(*tensors)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    cotangent = torch.ones_like(out).requires_grad_(order == 2)
    if order == 1:
        return lambda: torch.autograd.grad(out, leaves, cotangent, retain_graph=True)
    first = torch.autograd.grad(out, leaves, cotangent, create_graph=True)
    ones = [torch.ones_like(tensor) for tensor in first]
    return lambda: torch.autograd.grad(first, [*leaves, cotangent], ones, retain_graph=True)


def lattice(atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """positions [N,3], cell [1,3,3], pbc [1,3] of a shaken simple cubic crystal."""
    n = round(atoms ** (1 / 3))
    axis = torch.arange(n, dtype=torch.float64, device=DEVICE)
    positions = LATTICE * torch.cartesian_prod(axis, axis, axis)
    positions += 0.1 * torch.randn(positions.shape, generator=generator(), dtype=torch.float64, device=DEVICE)
    cell = LATTICE * n * torch.eye(3, dtype=torch.float64, device=DEVICE)[None]
    return positions, cell, torch.ones(1, 3, dtype=torch.bool, device=DEVICE)


def generator() -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(0)
