"""Whole models: energy and forces of silicon against nequip (same weights) and symmetrix-xl, float32.

216 atoms, cutoff 5 A, 28 edges per atom; NequIP's sizes S and M. Everyone runs in a process of its own, with
glibc's default allocator and with one that keeps its memory. "model": without the time of the neighbour list,
which is given; "ASE": through the calculators, everything included, with the atoms moved by 0.01 A between
calls, so that calculators with a skin keep their lists. nequip runs eagerly and compiled by AOTInductor as
`nequip-compile` does it; it has TorchScript only with torch < 2.10. symmetrix-xl and mace-torch evaluate a
MACE of 128x0e+128x1o (l up to 3, two layers) with random weights in an environment of their own, because
mace-torch and nequip need different e3nn: name its python in UQFORCE_BENCH_MACE_PYTHON.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from remote import KEEP_MEMORY, MEMORY, made, remote
from systems import moving, silicon, tensors
from timing import Case

REPEAT, CUTOFF, TYPES = 3, 5.0, ["Si"]
SIZES = ("S", "M")
TOLERANCE = 1e-4  # of the energy, and of the largest force


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
    from uqforce.deploy.export import export

    export(potential(size), path)


def exported(size: str) -> str:
    return made(f"uqforce-{Path(size).stem}.pt", "models:write_exported", size)


def ours(size: str, repeat: int = REPEAT) -> Callable[[], dict]:
    """An exported file, called as calculator and dynamics call it."""
    from uqforce.deploy.export import call, open_model
    from uqforce.ops import neighbor_list

    module, _ = open_model(exported(size))
    edge_index, _, edge_vec = neighbor_list(*tensors(silicon(repeat)), CUTOFF)
    zeros = torch.zeros(8 * repeat**3, dtype=torch.int64)

    def run() -> dict:
        out = call(module, edge_vec, edge_index, zeros, zeros, 1)
        return {"energy": out["energy"].item(), "forces": out["forces"].numpy()}

    return run


def ours_ase(size: str) -> Callable[[], dict]:
    from uqforce.deploy.calculator import Calculator

    return moving(silicon(REPEAT), Calculator(exported(size), device="cpu"))


def check(ours: dict, theirs: dict) -> None:
    np.testing.assert_allclose(theirs["energy"], ours["energy"], rtol=TOLERANCE)
    np.testing.assert_allclose(theirs["forces"], ours["forces"], atol=TOLERANCE * abs(ours["forces"]).max())


def rows(name: str, target: str, *arguments, **where) -> dict[str, Callable]:
    """The target under both allocators."""
    return {
        name + suffix: remote(target, *arguments, environment=environment, **where)
        for suffix, environment in MEMORY.items()
    }


def cases() -> Iterator[Case]:
    atoms = 8 * REPEAT**3
    for size in SIZES:
        rivals = {
            **rows("uqforce", "models:ours", size),
            **rows("nequip, eager", "rivals.nequip_models:eager", size),
            **rows("nequip, AOTInductor", "rivals.nequip_models:aoti", size),
        }
        target = {"S": 5, "M": 10}[size]
        name = f"preset {size}, model, {atoms} atoms, float32"
        yield Case(name, "atom", atoms, rivals, check, target=target)
        rivals = {
            **rows("uqforce", "models:ours_ase", size),
            **rows("nequip, AOTInductor", "rivals.nequip_models:aoti_ase", size),
        }
        yield Case(f"preset {size}, ASE, {atoms} atoms, float32", "atom", atoms, rivals, check)
    for repeat in (2, 5, 8):
        atoms = 8 * repeat**3
        rivals = {
            "uqforce, memory kept": remote("models:ours", "M", repeat, environment=KEEP_MEMORY),
            "nequip, AOTInductor, memory kept": remote(
                "rivals.nequip_models:aoti", "M", repeat, environment=KEEP_MEMORY
            ),
        }
        name = f"preset M, model, {atoms} atoms, float32"
        yield Case(name, "atom", atoms, rivals, check, target=10, quick=False)
    atoms, python = 8 * REPEAT**3, os.environ.get("UQFORCE_BENCH_MACE_PYTHON", sys.executable)
    rivals = {
        **rows("uqforce, preset M", "models:ours_ase", "M"),
        **rows("symmetrix-xl", "rivals.mace_models:symmetrix_xl", REPEAT, python=python),
        **rows("mace-torch", "rivals.mace_models:mace_torch", REPEAT, python=python),
    }
    yield Case(f"MACE 128x0e+128x1o, ASE, {atoms} atoms, float32", "atom", atoms, rivals, target=1)
