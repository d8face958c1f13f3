"""Whole models: energy, forces and stress of silicon against nequip (same weights) and symmetrix-xl, float32.

Cutoff 5 A, 28 edges per atom, from a cluster of 27 atoms to as many as the rival has memory and time for;
NequIP's sizes S, M and L, random weights, results compared to 1e-4 in the same run. Everyone runs in a
process of its own, with an allocator that keeps its memory, at 216 atoms also with glibc's default. "model":
without the time of the neighbour list, which is given; "ASE": through the calculators, everything included,
with the atoms moved by 0.01 A between calls, so that calculators with a skin keep their lists. nequip runs
eagerly and compiled by AOTInductor as `nequip-compile` does it; it has TorchScript only with torch < 2.10.
symmetrix-xl and mace-torch evaluate a MACE of 128x0e+128x1o (l up to 3, two layers) with random weights in an
environment of their own, because mace-torch and nequip need different e3nn: name its python in
UQFORCE_BENCH_MACE_PYTHON.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from remote import KEEP_MEMORY, MEMORY, made, remote
from systems import moving, silicon_atoms, tensors
from timing import Case

ATOMS, CUTOFF, TYPES = 216, 5.0, ["Si"]
SWEEP = {  # numbers of atoms, and up to which of them nequip runs eagerly
    "S": ((27, 64, 216, 1000, 4096), 4096),
    "M": ((27, 64, 216, 1000, 4096), 1000),
    "L": ((27, 64, 216, 1000), 216),
}
TARGETS = {"S": 5, "M": 10, "L": 10}
TOLERANCE = 1e-4  # of the energy, and of the largest force and stress


def potential(size: str):
    """Ours: of a size with weights of seed 0, or of a model file (.uqf) of silicon."""
    from uqforce.model import ModelConfig, Potential, load_model

    if size.endswith(".uqf"):
        return load_model(size)
    torch.manual_seed(0)
    energies = {"per_type_energy_scales": 1.0, "per_type_energy_shifts": -5.0}
    config = ModelConfig.from_preset(size, type_names=TYPES, r_max=CUTOFF, avg_num_neighbors=28.0, **energies)
    return Potential(config).eval()


def write_exported(path: str, size: str) -> None:
    from uqforce.exporting.export import export

    export(potential(size), path)


def exported(size: str) -> str:
    return made(f"uqforce-{Path(size).stem}.pt", "models:write_exported", size)


def ours(size: str, atoms: int) -> Callable[[], dict]:
    """An exported file, called as calculator and dynamics call it."""
    from uqforce.exporting.opening import call, open_model
    from uqforce.ops import neighbor_list

    module, _ = open_model(exported(size))
    positions, cell, pbc = tensors(silicon_atoms(atoms))
    edge_index, _, edge_vec = neighbor_list(positions, cell, pbc, CUTOFF)
    zeros = torch.zeros(atoms, dtype=torch.int64)

    def run() -> dict:
        out = call(module, edge_vec, edge_index, zeros, zeros, 1)
        return result(out["energy"], out["forces"], -out["virial"] / cell.det())

    return run


def ours_ase(size: str, atoms: int) -> Callable[[], dict]:
    from uqforce.engines.calculator import Calculator

    return moving(silicon_atoms(atoms), Calculator(exported(size), device="cpu"))


def result(energy: torch.Tensor, forces: torch.Tensor, stress: torch.Tensor) -> dict:
    return {
        "energy": energy.item(),
        "forces": forces.detach().numpy(),
        "stress": stress.detach().numpy().reshape(3, 3),
    }


def check(ours: dict, theirs: dict) -> None:
    np.testing.assert_allclose(theirs["energy"], ours["energy"], rtol=TOLERANCE)
    for name in ("forces", "stress"):
        if name in ours:  # calculators are asked for no stress
            np.testing.assert_allclose(theirs[name], ours[name], atol=TOLERANCE * abs(ours[name]).max())


def rows(name: str, target: str, *arguments, both: bool = True, **where) -> dict[str, Callable]:
    """The target under both allocators, or the one that keeps its memory."""
    return {
        name + suffix: remote(target, *arguments, environment=environment, **where)
        for suffix, environment in MEMORY.items()
        if both or environment is KEEP_MEMORY
    }


def cases() -> Iterator[Case]:
    for size, (sweep, most_eager) in SWEEP.items():
        for atoms in sweep:
            here = {"both": atoms == ATOMS and size != "L"}
            rivals = rows("uqforce", "models:ours", size, atoms, **here)
            if atoms <= most_eager:
                rivals |= rows("nequip, eager", "rivals.nequip_models:eager", size, atoms, **here)
            rivals |= rows("nequip, AOTInductor", "rivals.nequip_models:aoti", size, atoms, **here)
            quick = atoms == ATOMS and size != "L"
            name = f"preset {size}, model, {atoms} atoms, float32"
            yield Case(name, "atom", atoms, rivals, check, target=TARGETS[size], quick=quick)
    for size in ("S", "M"):
        rivals = {
            **rows("uqforce", "models:ours_ase", size, ATOMS),
            **rows("nequip, AOTInductor", "rivals.nequip_models:aoti_ase", size),
        }
        yield Case(f"preset {size}, ASE, {ATOMS} atoms, float32", "atom", ATOMS, rivals, check)
    python = os.environ.get("UQFORCE_BENCH_MACE_PYTHON", sys.executable)
    for atoms in (64, ATOMS, 1000, 4096):
        here = {"both": atoms == ATOMS}
        rivals = rows("uqforce, preset M", "models:ours_ase", "M", atoms, **here)
        rivals |= rows("symmetrix-xl", "rivals.mace_models:symmetrix_xl", atoms, python=python, **here)
        if atoms <= 1000:
            rivals |= rows("mace-torch", "rivals.mace_models:mace_torch", atoms, python=python, **here)
        name = f"MACE 128x0e+128x1o, ASE, {atoms} atoms, float32"
        yield Case(name, "atom", atoms, rivals, target=1, quick=atoms == ATOMS)
