"""A training step on a CUDA device, float32: forward, loss of energy and forces, backward, Adam."""

from collections.abc import Callable, Iterator
from functools import partial

import training as training_bench
from device_sizes import DEVICE, REHEARSAL, is_there
from timing import Case
from torch import Tensor

from uqforce.data import Batch

CELLS, REPEAT = (1, 1) if REHEARSAL else (16, 3)  # batch of cells of 8 repeat^3 silicon atoms
SIZES = ("S", "M")


def cases() -> Iterator[Case]:
    if not is_there():
        return
    types, on_host = training_bench.crystals(CELLS, REPEAT)
    batch = Batch(*(part.to(DEVICE) if isinstance(part, Tensor) else part for part in on_host))
    atoms = len(batch.positions)

    def ours(size: str) -> Callable[[], float]:
        return training_bench.our_step(training_bench.untrained(types, batch, size), batch)

    def nequip(size: str) -> Callable[[], float]:
        return training_bench.nequip_step(training_bench.untrained(types, batch, size), batch, "eager")

    for size in SIZES:
        rivals = {"uqforce": partial(ours, size), "nequip, eager": partial(nequip, size)}
        yield Case(f"training step {size}, {atoms} atoms", "atom", atoms, rivals, device=DEVICE)
