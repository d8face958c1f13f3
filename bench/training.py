"""One training step, forward, loss of energy and forces, backward, Adam, against nequip's (same weights).

5 molecules of 27 atoms (the size, elements and neighbours of 3BPA), and 2 cells of 64 silicon atoms; cutoff
5 A, NequIP's sizes S and M. nequip runs eagerly and compiled (`compile_mode: compile`). Neighbour lists are
given to both. "uqforce, compiled" is what a training run with `compile: true` does.

One molecule shows what a step costs whatever it holds: size S spends two thirds of the time of five molecules
on that, in some 500 operations on the weights, on 192 nodes of the radial networks and on small arrays.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from remote import KEEP_MEMORY, MEMORY, remote
from systems import silicon, tensors
from timing import Case

from uqforce.data import Batch, collate
from uqforce.model import ModelConfig, Potential
from uqforce.model.predict import predict
from uqforce.ops import neighbor_list
from uqforce.training.compiled import CompiledStep
from uqforce.training.config_sections import LossConfig
from uqforce.training.loss import count_labels, measure, total_loss

CUTOFF = 5.0
FORCES_WEIGHT, LEARNING_RATE = 100.0, 1e-3


def molecules(count: int) -> tuple[list[str], Batch]:
    """A flat box of 9 x 3 x 1 atoms 1.5 A apart has 16 neighbours per atom, as 3BPA."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(9), range(3), [0], indexing="ij"), -1).reshape(1, -1, 3)
    positions = torch.tensor(1.5 * grid + rng.normal(0, 0.05, (count, 27, 3))).view(-1, 3)
    kinds = torch.tensor([0] * 11 + [1] * 12 + [2, 2, 3, 3]).repeat(count)
    cell = torch.zeros(count, 3, 3, dtype=torch.float64)
    pbc = torch.zeros(count, 3, dtype=torch.bool)
    return ["H", "C", "N", "O"], labelled(positions, cell, pbc, kinds)


def crystals(count: int = 2, repeat: int = 2) -> tuple[list[str], Batch]:
    cells = [tensors(silicon(repeat, seed=k)) for k in range(count)]
    positions, cell, pbc = (torch.cat(parts) for parts in zip(*cells))
    return ["Si"], labelled(positions, cell, pbc, torch.zeros(len(positions), dtype=torch.int64))


def labelled(positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, kinds: torch.Tensor) -> Batch:
    """Structures of equal size with random labels of the size of the untrained model's errors."""
    structures = len(cell)
    batch = torch.arange(structures).repeat_interleave(len(positions) // structures)
    edge_index, cell_shift, _ = neighbor_list(positions, cell, pbc, CUTOFF, batch)
    normal = torch.Generator().manual_seed(1)
    energy = torch.randn(structures, generator=normal, dtype=torch.float64)
    forces = 0.1 * torch.randn(positions.shape, generator=normal, dtype=torch.float64)
    yes, no = torch.ones(structures, dtype=torch.bool), torch.zeros(structures, dtype=torch.bool)
    return Batch(positions, cell, pbc, kinds, batch, structures, edge_index, cell_shift,
                 energy, forces, torch.zeros_like(cell), yes, yes, no)  # fmt: skip


SYSTEMS = {
    "5 molecules of 27 atoms": partial(molecules, 5),
    "2 cells of 64 silicon atoms": crystals,
    "1 molecule of 27 atoms": partial(molecules, 1),
}


def untrained(types: list[str], batch: Batch, size: str) -> Potential:
    """A model of that size on the device of the batch."""
    torch.manual_seed(0)
    neighbours = batch.edge_index.shape[1] / len(batch.positions)
    fields = {"type_names": types, "r_max": CUTOFF, "avg_num_neighbors": neighbours}
    energies = {
        "per_type_energy_scales": dict.fromkeys(types, 1.0),
        "per_type_energy_shifts": dict.fromkeys(types, 0.0),
    }
    return Potential(ModelConfig.from_preset(size, **fields, **energies)).train().to(batch.positions.device)


def stepper(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """The loss before a step, and the step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def step() -> float:
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        optimizer.step()
        return loss.item()

    return step


def ours(system: str, size: str) -> Callable[[], float]:
    types, batch = SYSTEMS[system]()
    return our_step(untrained(types, batch, size), batch)


def our_step(potential: Potential, batch: Batch) -> Callable[[], float]:
    config = LossConfig(forces={"weight": FORCES_WEIGHT})

    def loss() -> torch.Tensor:
        terms, tally = measure(predict(potential, batch), batch, config)
        return total_loss(terms, tally[3], config)

    return stepper(potential, loss)


def compiled(system: str, size: str) -> Callable[[], float]:
    """As a training run with `compile: true` makes it."""
    types, batch = SYSTEMS[system]()
    potential, config = untrained(types, batch, size), LossConfig(forces={"weight": FORCES_WEIGHT})
    step = CompiledStep(potential, config, batch if batch.num_structures > 1 else collate([batch, batch]))
    optimizer = torch.optim.Adam(step.trained, lr=LEARNING_RATE, fused=True)

    def run() -> float:
        counts = count_labels(batch)
        terms = torch.zeros_like(counts, requires_grad=True)
        (factors,) = torch.autograd.grad(total_loss(terms, counts, config), terms)
        tally, gradients = step(batch, factors)
        for parameter, gradient in zip(step.trained, gradients):
            parameter.grad = gradient
        optimizer.step()
        return total_loss(tally[0], counts, config).item()

    return run


def nequip(system: str, size: str, mode: str) -> Callable[[], float]:
    types, batch = SYSTEMS[system]()
    return nequip_step(untrained(types, batch, size), batch, mode)


def nequip_step(potential: Potential, batch: Batch, mode: str) -> Callable[[], float]:
    from rivals.nequip_models import same_model

    device = batch.positions.device
    model = same_model(potential.cpu(), mode).train().to(device)
    atoms = torch.bincount(batch.batch)
    data = {
        "pos": batch.positions,
        "atom_types": batch.atom_types,
        "batch": batch.batch,
        "num_atoms": atoms,
        "edge_index": batch.edge_index,
    }
    if batch.pbc.any():
        data |= {"cell": batch.cell, "pbc": batch.pbc, "edge_cell_shift": batch.cell_shift.double()}

    def loss() -> torch.Tensor:
        out = model(dict(data))
        energy = (out["total_energy"].flatten() - batch.energy) / atoms
        return energy.square().mean() + FORCES_WEIGHT * (out["forces"] - batch.forces).square().mean()

    return stepper(model, loss)


def check(ours: float, theirs: float) -> None:
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


def cases() -> Iterator[Case]:
    for system, make in SYSTEMS.items():
        atoms = len(make()[1].positions)
        for size in ("S",) if system.startswith("1 ") else ("S", "M"):
            rivals = {}
            for suffix, environment in MEMORY.items():
                rivals["uqforce" + suffix] = remote("training:ours", system, size, environment=environment)
                eager = remote("training:nequip", system, size, "eager", environment=environment)
                rivals["nequip, eager" + suffix] = eager
            ours = remote("training:compiled", system, size, environment=KEEP_MEMORY)
            rivals["uqforce, compiled, memory kept"] = ours
            theirs = remote("training:nequip", system, size, "compile", environment=KEEP_MEMORY)
            rivals["nequip, compile, memory kept"] = theirs
            name = f"step, preset {size}, {system}, float32"
            quick = size == "S" and system.startswith("5 ")
            yield Case(name, "atom", atoms, rivals, check, target=5, quick=quick)
