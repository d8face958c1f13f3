"""Time per atom of preset M on paper: `python -m tests.emulation.paper_model` prints docs/cuda.md's table.

What each kernel does for an atom is counted: instructions in the loops of sm_90's machine code (`nvdisasm`),
bytes from the shapes. A kernel takes the longest of the three times that its instructions, its reads from the
L2 cache and its traffic with the memory take at an H200's rates, instructions at 60 % of what the units can
issue. What grows with the system is not part of that: each pass of a derivative's edges launches blocks and
looks for the rows that it has of each node. The number of passes is planned by the library's own function.

Assumed: 28 edges per atom (silicon, 5 A), float32, four layers; every read of a layer's table of weights is
from the L2 cache; 3.8e8 blocks that find nothing to do end in a second; the memory that is free is what an
evaluation leaves of 141 GB at 40 KB per atom.
"""

import argparse
from typing import NamedTuple

from tests.emulation.passes import Planner

ISSUE, L2, MEMORY = 0.6 * 9.3e11, 5.7e12, 4.3e12  # warp instructions, bytes, bytes a second
EMPTY_BLOCKS = 3.8e8  # a second
EDGES = 28
DEVICE, OF_AN_ATOM = 141 << 30, 40_000  # bytes
BEFORE = 1 << 29  # bytes of the workspace, before its size followed the system's


class Kernel(NamedTuple):
    """What a kernel does for an atom with K cotangents: `each` times K, and `once`."""

    name: str
    instructions: tuple[float, float] = (0, 0)  # once, each; of warps
    l2: tuple[float, float] = (0, 0)  # bytes
    memory: tuple[float, float] = (0, 0)  # bytes

    def seconds(self, cotangents: int) -> float:
        def of(amount: tuple[float, float]) -> float:
            return amount[0] + amount[1] * cotangents

        return max(of(self.instructions) / ISSUE, of(self.l2) / L2, of(self.memory) / MEMORY)


ROWS = 4 * 480 * EDGES * 2  # bytes of dx's rows, written and read
INNER = [
    Kernel("tabulated_conv, edges", (1308 * EDGES, 0), (515e3, 0)),
    Kernel("its linear map", (10_600, 0)),
    Kernel("tabulated_conv_vjp, edges", (1294 * EDGES, 1825 * EDGES), (515e3, 0)),
    Kernel("its transposed map", (0, 14_000)),
    Kernel("rows of dx", memory=(0, ROWS)),
]
KERNELS = [
    *INNER,
    *INNER,
    Kernel("first layer, value", (236 * EDGES + 4000, 0), (64e3, 0)),
    Kernel("first layer, derivative", (267 * EDGES, 336 * EDGES + 2000)),
    Kernel("last layer, value", (500 * EDGES + 3000, 0), (150e3, 0)),
    Kernel("last layer, derivative", (600 * EDGES, 800 * EDGES + 3000), (150e3, 0)),
    Kernel("last layer, rows of dx", memory=(0, ROWS)),
    Kernel("block_linear", (15_600, 15_600)),
    Kernel("gate", memory=(17e3, 26e3)),
    Kernel("gmm_nll", (0, 11_200)),
    Kernel("groups of edges, force_variance, casts", memory=(43e3, 0)),
]


class Passing:
    """What the passes over its edges cost a derivative, in a system of any size."""

    layers = 3  # those with a gradient of their input
    units = 4  # kernels launched for a pass
    columns = 480  # of the input

    def bytes_of_an_edge(self, cotangents: int) -> int:
        return 4 * cotangents * (self.columns + 3 * self.units)

    def before(self, atoms: int, cotangents: int) -> tuple[int, float]:
        """Passes, and seconds per atom: a thread for each number of dx searched, blocks for all nodes."""
        passes = -(-atoms * EDGES * self.bytes_of_an_edge(cotangents) // BEFORE)
        instructions = 160 * self.columns / 32 * cotangents
        blocks = self.units * cotangents / 8
        return passes, self.layers * passes * (instructions / ISSUE + blocks / EMPTY_BLOCKS)

    def after(self, atoms: int, cotangents: int, planner: Planner) -> tuple[int, float]:
        """The same: a warp looks once for a node, a pass has blocks for its nodes and an eighth more."""
        plan = (atoms * EDGES, self.bytes_of_an_edge(cotangents), max(DEVICE - atoms * OF_AN_ATOM, 0))
        passes = -(-atoms * EDGES // planner.edges(*plan))
        spare = planner.nodes(*plan, atoms) * passes / atoms - 1
        look = max(51 / ISSUE, (4 * EDGES + 8) / MEMORY)
        blocks = self.units * cotangents / 8 * spare
        return passes, self.layers * (passes * look + blocks / EMPTY_BLOCKS)


def table() -> list[str]:
    """The rows of the table, of systems that grow."""
    planner, passing, rows = Planner(), Passing(), []
    for cotangents in (1, 2):
        kernels = sum(kernel.seconds(cotangents) for kernel in KERNELS)
        for atoms in (10_000, 100_000, 1_000_000):
            old, slow = passing.before(atoms, cotangents)
            new, fast = passing.after(atoms, cotangents, planner)
            times = [f"{1e6 * (kernels + more):.2f}" for more in (slow, fast)]
            rows.append(
                f"| {atoms:,} | {cotangents} | {old} | {times[0]} | {new} | {times[1]} |".replace(",", " ")
            )
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| atoms | cotangents | passes, fixed workspace | us per atom | passes now | us per atom |")
    print("|---|---|---|---|---|---|")
    print("\n".join(table()))


if __name__ == "__main__":
    main()
