"""Members evaluated together against members evaluated one by one: energy, forces and variances, float32.

Silicon, cutoff 5 A, NequIP's sizes S and M. A call makes a neighbour list from positions and evaluates the
model, as calculators do. "8 heads": one backbone with 8 energy readouts and their noise; against it 8 models
of one readout each, every one with its own call. "ensemble of 4": 4 independent models in one file; against
it a call for each. `ratio` is the time of the calls one by one, or of a single model, over that together.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from systems import silicon, tensors
from timing import Case

from uqforce.deploy.export import call, open_model
from uqforce.model import Ensemble, ModelConfig, Potential
from uqforce.ops import neighbor_list

CUTOFF = 5.0


def potential(size: str, seed: int, **fields) -> Potential:
    torch.manual_seed(seed)
    fields = {"type_names": ["Si"], "r_max": CUTOFF, "avg_num_neighbors": 28.0, **fields}
    return Potential(ModelConfig.from_preset(size, **fields)).eval()


def evaluation(models: list[Potential | Ensemble], repeat: int) -> Callable[[], dict]:
    """One call per model; returns the last one's results."""
    modules = [open_model(model)[0] for model in models]
    positions, cell, pbc = tensors(silicon(repeat))
    zeros = torch.zeros(len(positions), dtype=torch.int64)

    def run() -> dict:
        for module in modules:
            edge_index, _, edge_vec = neighbor_list(positions, cell, pbc, CUTOFF)
            out = call(module, edge_vec, edge_index, zeros, zeros, 1)
        return out

    return run


def heads(size: str, noise: str, repeat: int, number: int, separate: int) -> Callable[[], dict]:
    """`separate` models of `number` heads."""
    fields = {"noise": noise, "heads": number}
    return evaluation([potential(size, seed, **fields) for seed in range(separate)], repeat)


def ensemble(size: str, noise: str, repeat: int, members: int) -> Callable[[], dict]:
    models = [potential(size, seed, noise=noise) for seed in range(members)]
    return evaluation([Ensemble(models)], repeat)


def cases() -> Iterator[Case]:
    for size, noise, repeat in (("S", "local", 3), ("S", "total", 3), ("M", "local", 3), ("M", "local", 2)):
        atoms = 8 * repeat**3
        case = f"preset {size}, noise {noise}, {atoms} atoms, float32"
        alone = partial(heads, size, noise, repeat, 1)
        rivals = {
            "uqforce, 8 heads": partial(heads, size, noise, repeat, 8, 1),
            "uqforce, 8 models": partial(alone, 8),
            "uqforce, 1 model": partial(alone, 1),
        }
        yield Case(f"8 heads, {case}", "atom", atoms, rivals, target=2, against="uqforce, 8 models")
        rivals = {
            "uqforce, ensemble of 4": partial(ensemble, size, noise, repeat, 4),
            "uqforce, 4 models": partial(alone, 4),
            "uqforce, 1 model": partial(alone, 1),
        }
        yield Case(f"ensemble of 4, {case}", "atom", atoms, rivals, against="uqforce, 4 models")
