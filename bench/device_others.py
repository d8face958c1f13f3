"""Neighbour lists, mixtures and force variance on a CUDA device, float32, a million atoms.

Plain torch is what a model without kernels would do.
"""

from collections.abc import Callable, Iterator
from functools import partial

import gmm_nll as mixture_bench
import torch
from device_sizes import ATOMS, CHUNK, CUTOFF, DEVICE, generator, is_there, lattice
from timing import Case, Work
from torch import Tensor

from uqforce.ops import force_variance, gmm_nll, neighbor_list

MEMBERS = 5


def lists() -> Iterator[Case]:
    inputs = lattice(ATOMS)
    pairs = neighbor_list(*inputs, CUTOFF)[0].shape[1]
    name, least = f"neighbour list, {len(inputs[0])} atoms", Work(bytes=24 * len(inputs[0]) + 64 * pairs)

    def vesin() -> Callable[[], object]:
        from vesin.torch import NeighborList

        rival, (positions, cell, _) = NeighborList(cutoff=CUTOFF, full_list=True), inputs
        return lambda: rival.compute(positions, cell[0], periodic=True, quantities="ijSD")

    rivals = {"uqforce": lambda: lambda: neighbor_list(*inputs, CUTOFF), "vesin": vesin}
    yield Case(name, "pair", pairs, rivals, work=least, device=DEVICE)


def mixture(function: Callable[..., Tensor], what: Callable, chunk: int, dim: int, components: int):
    """Value or gradient of a mixture, `chunk` atoms at a time."""
    _, parameters = mixture_bench.inputs(dim, components, torch.float32)
    parameters = [tensor.to(DEVICE) for tensor in parameters]
    features = torch.randn(ATOMS, dim, generator=generator(), dtype=torch.float32, device=DEVICE)
    parts = features.split(chunk)
    if len(parts) == 1:
        return lambda: what(function, parts[0], parameters)
    return lambda: torch.cat([what(function, part, parameters) for part in parts])


def mixtures() -> Iterator[Case]:
    for dim, components in ((16, 50), (32, 50), (128, 20)):
        for what in (mixture_bench.value, mixture_bench.gradient):
            rivals = {
                "uqforce": partial(mixture, gmm_nll, what, ATOMS, dim, components),
                f"torch, {CHUNK} at a time": partial(
                    mixture, mixture_bench.torch_nll, what, CHUNK, dim, components
                ),
            }
            least = mixture_bench.work(dim, components, torch.float32, what, ATOMS)
            name = f"mixture, {what.__name__}, {ATOMS} atoms, {dim} features, {components} components"
            yield Case(name, "atom", ATOMS, rivals, work=least, device=DEVICE)


def vectors_and_gradients() -> Iterator[Case]:
    """Forces, virial and covariances of MEMBERS gradients of energies and of standard deviations."""
    edges = neighbor_list(*lattice(ATOMS), CUTOFF)
    count = edges.edge_vec.shape[0]
    atoms = round(ATOMS ** (1 / 3)) ** 3
    randn = partial(torch.randn, generator=generator(), dtype=torch.float32, device=DEVICE)
    gradients = [randn(MEMBERS, count, 3) for _ in range(2)]
    zeros = torch.zeros(atoms, dtype=torch.int64, device=DEVICE)
    variance = torch.ones(MEMBERS, 1, dtype=torch.float32, device=DEVICE)
    arguments = [edges.edge_index, edges.edge_vec.float(), *gradients, variance, 1.0, zeros, 1]
    least = Work(bytes=count * (16 + 12 + 24 * MEMBERS))
    rivals = {"uqforce": lambda: lambda: force_variance(*arguments)}
    yield Case(
        f"force variance, {count} edges, {MEMBERS} members", "edge", count, rivals, work=least, device=DEVICE
    )


def cases() -> Iterator[Case]:
    if is_there():
        yield from lists()
        yield from mixtures()
        yield from vectors_and_gradients()
