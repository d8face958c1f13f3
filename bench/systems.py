"""Structures that several benchmarks use."""

import itertools
from collections.abc import Callable

import ase.build
import numpy as np
import torch
from ase import Atoms

SILICON = 5.43  # A, so that 28 neighbours are within 5 A


def silicon(repeat: int, jitter: float = 0.05, seed: int = 0) -> Atoms:
    """Diamond of `repeat`^3 cubic cells of 8 atoms, every coordinate displaced by a normal `jitter`, A."""
    atoms = ase.build.bulk("Si", "diamond", a=SILICON, cubic=True) * (repeat, repeat, repeat)
    atoms.positions += np.random.default_rng(seed).normal(0, jitter, atoms.positions.shape)
    return atoms


def silicon_atoms(atoms: int) -> Atoms:
    """That many atoms: `silicon` for 8 n^3 of them, for fewer than 64 a cluster in a large periodic box."""
    repeat = round((atoms / 8) ** (1 / 3))
    if atoms >= 64:
        assert atoms == 8 * repeat**3, atoms
        return silicon(repeat)
    block = silicon(4)
    from_middle = np.linalg.norm(block.positions - block.positions.mean(0), axis=1)
    cluster = block[np.sort(np.argsort(from_middle)[:atoms])]
    cluster.set_cell(40.0 * np.eye(3))
    return cluster


def tensors(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """positions [N,3], cell [1,3,3], pbc [1,3]."""
    return (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array)[None],
        torch.tensor(atoms.pbc)[None],
    )


def moving(atoms: Atoms, calculator) -> Callable[[], dict]:
    """Energy and forces of atoms that have moved since the last call: by 0.01 A, and back in the next one."""
    atoms.calc = calculator
    here = atoms.positions.copy()
    there = here + np.random.default_rng(1).normal(0, 0.01, here.shape)
    turns = itertools.cycle([here, there])

    def run() -> dict:
        atoms.positions = next(turns)
        return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}

    return run
