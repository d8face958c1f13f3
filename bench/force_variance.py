"""Forces, virial and covariance blocks of K members against the same in plain torch (index_add).

Edges as in a condensed phase, sorted: 40 neighbours within a window of the atoms' order. The rival forms the
same results with torch's own ops, through arrays of [K,N,3] and [K,E,9] and, for the local noise, a sort of
pairs.
Counted bytes: edges, vectors and gradients read once, the backward reads and writes gradients once more.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from timing import Case, Work
from torch import Tensor

ATOMS, NEIGHBOURS = 10_000, 40
WORKLOADS = [
    (1, "total", False),
    (1, "local", False),
    (8, "total", False),
    (8, "local", False),
    (1, "local", True),
]


def make_inputs(members: int, mode: str) -> dict:
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator)
    edges = ATOMS * NEIGHBOURS
    centre = torch.arange(ATOMS).repeat_interleave(NEIGHBOURS)
    neighbour = (centre + torch.randint(1, 300, (edges,), generator=generator)) % ATOMS
    neighbour = neighbour.view(ATOMS, NEIGHBOURS).sort(1).values.flatten()  # as neighbor_list sorts them
    structures = 1
    return {
        "edge_index": torch.stack([centre, neighbour]),
        "edge_vec": normal(edges, 3),
        "grad_energy": normal(members, edges, 3),
        "grad_sigma": normal(members, edges, 3),
        "variance": normal(members, structures if mode == "total" else ATOMS).square(),
        "gamma": torch.tensor(1.5),
        "batch": torch.zeros(ATOMS, dtype=torch.int64),
        "num_structures": structures,
        "mode": mode,
    }


def outer(vectors: Tensor) -> Tensor:
    return vectors[..., :, None] * vectors[..., None, :]


def torch_force_variance(
    edge_index, edge_vec, grad_energy, grad_sigma, variance, gamma, batch, num_structures, mode
) -> tuple[Tensor, ...]:
    members, atoms = len(grad_energy), len(batch)
    centre, neighbour = edge_index

    def per_atom(gradient: Tensor) -> Tensor:
        zeros = gradient.new_zeros(members, atoms, 3)
        return zeros.index_add(1, centre, gradient).index_add(1, neighbour, -gradient)

    forces = per_atom(grad_energy)
    mean = forces.mean(0)
    if mode == "total":
        noise, own = outer(per_atom(grad_sigma)), variance[:, batch]
    else:
        pairs, position = torch.unique(centre * atoms + neighbour, return_inverse=True)
        derivative = grad_sigma.new_zeros(members, len(pairs), 3).index_add(1, position, grad_sigma)
        start, end = pairs // atoms, pairs % atoms
        derivative = derivative * (start != end)[:, None]
        sums = derivative.new_zeros(members, atoms, 3).index_add(1, start, derivative)
        noise = outer(sums).index_add(1, end, outer(derivative))
        own = variance
    aleatoric = noise.mean(0) + (gamma**2 * own).mean(0)[:, None, None] * torch.eye(3)
    epistemic = outer(forces - mean).mean(0)
    per_edge = -edge_vec[:, :, None] * grad_energy[:, :, None, :]
    virials = per_edge.new_zeros(members, num_structures, 3, 3).index_add(1, batch[centre], per_edge)
    return mean, aleatoric, epistemic, virials.mean(0), virials.var(0, correction=0)


def run(function: Callable[..., tuple], backward: bool, inputs: dict) -> list[Tensor]:
    if not backward:
        return list(function(**inputs))[:3]
    leaves = {name: inputs[name].detach().requires_grad_() for name in ("grad_energy", "grad_sigma")}
    forces, aleatoric, *_ = function(**{**inputs, **leaves})
    traces = aleatoric[:, :3] if aleatoric.dim() == 2 else aleatoric.diagonal(dim1=1, dim2=2)
    return list(torch.autograd.grad(forces.square().sum() + traces.sum(), list(leaves.values())))


def ours(backward: bool, inputs: dict) -> Callable[[], list[Tensor]]:
    from uqforce.ops import force_variance

    return lambda: run(force_variance, backward, inputs)


def plain_torch(backward: bool, inputs: dict) -> Callable[[], list[Tensor]]:
    return lambda: run(torch_force_variance, backward, inputs)


def check(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs):
        b = b if a.shape == b.shape else b.flatten(1)[:, [0, 4, 8, 5, 2, 1]]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def cases() -> Iterator[Case]:
    for members, mode, backward in WORKLOADS:
        inputs = make_inputs(members, mode)
        rivals = {"uqforce": partial(ours, backward, inputs), "torch": partial(plain_torch, backward, inputs)}
        name = f"{mode}, {members} member{'s' * (members > 1)}{', with gradient' * backward}, float32"
        edges, gradients = ATOMS * NEIGHBOURS, 2 * 12 * members * ATOMS * NEIGHBOURS
        least = Work(bytes=28 * edges + 15 * 4 * ATOMS + gradients + backward * (28 * edges + 2 * gradients))
        yield Case(name, "edge", edges, rivals, check, least, memory=members == 8)
