"""Members evaluated together against members evaluated one by one: energy, forces and variances, float32.

Silicon, cutoff 5 A, NequIP's sizes S and M. A call makes a neighbour list from positions and evaluates the
model, as calculators do. "8 heads": one backbone with 8 energy readouts and their noise; against it 8 models
of one readout each, every one with its own call. "ensemble of 4": 4 independent models in one file; against
it a call for each. `ratio` is the time of the calls one by one, or of a single model, over that together.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from systems import silicon, tensors
from timing import Case

from uqforce.exporting.opening import call, open_model
from uqforce.model import Ensemble, ModelConfig, Potential
from uqforce.ops import neighbor_list

CUTOFF = 5.0


def potential(size: str, noise: str, seed: int, heads: int = 1) -> Potential:
    torch.manual_seed(seed)
    fields = {"type_names": ["Si"], "r_max": CUTOFF, "avg_num_neighbors": 28.0}
    return Potential(ModelConfig.from_preset(size, noise=noise, heads=heads, **fields)).eval()


@cache
def heads(size: str, noise: str, seed: int, number: int) -> torch.nn.Module:
    return open_model(potential(size, noise, seed, number))[0]


@cache
def ensemble(size: str, noise: str, number: int) -> torch.nn.Module:
    return open_model(Ensemble([potential(size, noise, seed) for seed in range(number)]))[0]


def calls(make: Callable[[], list[torch.nn.Module]], repeat: int) -> Callable[[], dict]:
    """One call per model; returns the last one's results."""
    modules = make()
    positions, cell, pbc = tensors(silicon(repeat))
    zeros = torch.zeros(len(positions), dtype=torch.int64)

    def run() -> dict:
        for module in modules:
            edge_index, _, edge_vec = neighbor_list(positions, cell, pbc, CUTOFF)
            out = call(module, edge_vec, edge_index, zeros, zeros, 1)
        return out

    return run


def cases() -> Iterator[Case]:
    for size, noise, repeat in (("S", "local", 3), ("S", "total", 2), ("M", "local", 2)):
        atoms = 8 * repeat**3
        case = f"preset {size}, noise {noise}, {atoms} atoms, float32"

        def alone(number: int, of=(size, noise), repeat=repeat) -> Callable[[], dict]:
            return calls(lambda: [heads(*of, seed, 1) for seed in range(number)], repeat)

        rivals = {
            "uqforce, 8 heads": partial(calls, partial(lambda *of: [heads(*of, 0, 8)], size, noise), repeat),
            "uqforce, 8 models": partial(alone, 8),
            "uqforce, 1 model": partial(alone, 1),
        }
        yield Case(f"8 heads, {case}", "atom", atoms, rivals, target=2, against="uqforce, 8 models")
        rivals = {
            "uqforce, ensemble of 4": partial(
                calls, partial(lambda *of: [ensemble(*of, 4)], size, noise), repeat
            ),
            "uqforce, 4 models": partial(alone, 4),
            "uqforce, 1 model": partial(alone, 1),
        }
        yield Case(f"ensemble of 4, {case}", "atom", atoms, rivals, against="uqforce, 4 models")
