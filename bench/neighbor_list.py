"""Neighbour lists with shifts and vectors, float64, against vesin, matscipy and ASE; gradients against torch.

Silicon, cutoff 5 A, atoms in the order of the lattice or shuffled; a batch of small molecules. With
UQFORCE_BENCH_LARGE=1 also a million atoms. Counted bytes: positions read, pairs, shifts and vectors written
(64 bytes per pair). Every new page of a large result costs more than what is written to it: uqforce keeps the
memory of freed results, vesin's are views of memory it keeps (copy=False), and for the others
GLIBC_TUNABLES=glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592 does it.
"""

import os
from collections.abc import Callable, Iterator

import ase
import numpy as np
import torch
from systems import silicon, tensors
from timing import Case, Work

CUTOFF = 5.0
CRYSTALS = {5: 28008, 11: 298178, 23: 2725786, 50: 28003482}
"""Cubic cells along each axis, and pairs: counting here would warm our memory before its peak is measured."""
MOLECULES, MOLECULE_ATOMS, MOLECULE_SIZE = 1000, 27, 7.5


def ours(*inputs) -> Callable:
    def make():
        from uqforce.ops import neighbor_list

        return lambda: neighbor_list(*inputs)[0][0].numpy()

    return make


def vesin(structures: list[ase.Atoms], is_sorted: bool) -> Callable:
    def make():
        from vesin import NeighborList

        rival = NeighborList(cutoff=CUTOFF, full_list=True, sorted=is_sorted)
        systems = [(atoms.positions, atoms.cell.array, atoms.pbc) for atoms in structures]
        if len(systems) == 1:  # at its best: what it returns is a view, valid until the next call
            return lambda: rival.compute(*systems[0], "PSD", copy=False)[0]
        return lambda: np.concatenate([rival.compute(*system, "PSD")[0] for system in systems])

    return make


def matscipy(atoms: ase.Atoms) -> Callable:
    def make():
        from matscipy.neighbours import neighbour_list

        return lambda: neighbour_list("ijSD", atoms, CUTOFF)[0]

    return make


def ase_list(atoms: ase.Atoms) -> Callable:
    def make():
        from ase.neighborlist import neighbor_list

        return lambda: neighbor_list("ijSD", atoms, CUTOFF)[0]

    return make


def work(atoms: int, pairs: int) -> Work:
    return Work(bytes=24 * atoms + 64 * pairs)


def crystals() -> Iterator[Case]:
    large = [(50, True)] if os.environ.get("UQFORCE_BENCH_LARGE") == "1" else []
    for repeat, shuffled in [(5, False), (11, False), (23, False), (23, True), *large]:
        pairs = CRYSTALS[repeat]

        def check(one: np.ndarray, other: np.ndarray, pairs: int = pairs) -> None:
            assert len(one) == len(other) == pairs

        atoms = silicon(repeat, jitter=0.1)
        if shuffled:
            atoms = atoms[np.random.default_rng(0).permutation(len(atoms))]
        rivals = {
            "uqforce": ours(*tensors(atoms), CUTOFF),
            "vesin": vesin([atoms], is_sorted=False),
            "vesin, sorted": vesin([atoms], is_sorted=True),
            "matscipy": matscipy(atoms),
        }
        if len(atoms) <= 1000:
            rivals["ase"] = ase_list(atoms)
        name = f"silicon, {len(atoms)} atoms{', shuffled' if shuffled else ''}"
        least = work(len(atoms), pairs)
        options = {"target": 2.5, "memory": not shuffled} if repeat == 23 else {}
        yield Case(name, "pair", pairs, rivals, check, least, **options)


def molecules() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    structures = [
        ase.Atoms(f"H{MOLECULE_ATOMS}", rng.uniform(0, MOLECULE_SIZE, (MOLECULE_ATOMS, 3)))
        for _ in range(MOLECULES)
    ]
    positions, cell, pbc = (torch.cat(parts) for parts in zip(*map(tensors, structures)))
    batch = torch.arange(MOLECULES).repeat_interleave(MOLECULE_ATOMS)
    find = ours(positions, cell, pbc, CUTOFF, batch)
    rivals = {"uqforce": find, "vesin, one by one": vesin(structures, is_sorted=False)}
    name = f"{MOLECULES} molecules of {MOLECULE_ATOMS} atoms"
    pairs = len(find()())

    def check(one: np.ndarray, other: np.ndarray) -> None:
        assert len(one) == len(other) == pairs

    yield Case(name, "molecule", MOLECULES, rivals, check, work(len(positions), pairs), target=15)


def gradients() -> Iterator[Case]:
    from uqforce.ops import edge_vectors, neighbor_list
    from uqforce.reference import neighbor_list as reference

    positions, cell, pbc = tensors(silicon(11, jitter=0.1))
    edge_index, cell_shift, edge_vec = neighbor_list(positions, cell, pbc, CUTOFF)
    grad = torch.randn_like(edge_vec)

    def forward_backward(function):
        def run():
            leaves = [positions.detach().requires_grad_(), cell.detach().requires_grad_()]
            return torch.autograd.grad(function(*leaves, edge_index, cell_shift), leaves, grad)

        return lambda: run

    rivals = {"uqforce": forward_backward(edge_vectors), "torch": forward_backward(reference.edge_vectors)}
    name = f"edge vectors and their gradient, {len(positions)} atoms"
    # Pairs and shifts are read by both, vectors written, their gradient read.
    least = Work(bytes=(2 * 40 + 2 * 24) * len(edge_vec) + 3 * 24 * len(positions))
    yield Case(name, "pair", len(edge_vec), rivals, torch.testing.assert_close, least)


def cases() -> Iterator[Case]:
    yield from crystals()
    yield from molecules()
    yield from gradients()
