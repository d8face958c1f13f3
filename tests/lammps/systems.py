"""A random model with everything a model can carry, structures, and how LAMMPS gets them."""

import json
import zipfile
from pathlib import Path

import ase.build
import numpy as np
import torch
from ase import Atoms

from tests.small_models import give_mixture
from uqforce.model import ModelConfig, Potential

TYPES = ["H", "C", "O", "Si"]
TABULATION = 1e-4  # made at once: what reads a file reads its tables, fine or coarse


def build(dtype: str = "float64", **changes) -> Potential:
    torch.manual_seed(0)
    config = {
        "type_names": TYPES,
        "r_max": 3.5,
        "num_layers": 3,
        "l_max": 2,
        "num_features": [5, 4, 3],  # an odd number of float32 values per atom
        "radial_mlp_width": 16,
        "avg_num_neighbors": 10.0,
        "zbl": True,
        "noise": "total",
        "dtype": dtype,
    }
    potential = Potential(ModelConfig(**config | changes)).eval()
    give_mixture(potential)
    return potential


def with_metadata(model: Path, path: Path, **changes) -> None:
    """A copy of an exported model that says something else of itself."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("extra/metadata.json"):
                content = json.dumps(json.loads(content) | changes).encode()
            new.writestr(item, content)


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    """The atoms displaced, in LAMMPS's orientation: a along x, b in the xy plane."""
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
    return atoms


def structures() -> dict[str, Atoms]:
    molecule = ase.build.molecule("CH3CH2OH", vacuum=4.0)
    silicon = ase.build.bulk("Si").repeat((4, 3, 3))
    corner = ase.build.molecule("CH3CH2OH", cell=[40.0, 12, 12], pbc=True)
    corner.positions += 3.0 - corner.positions.min(0)
    small = Atoms("SiOHH", positions=[[0, 0, 0], [1.6, 0.4, 0.2], [0.2, 1.5, 1.6], [1.4, 1.4, 0.9]], pbc=True)
    small.set_cell([[3.1, 0, 0], [0.6, 3.0, 0], [-0.4, 0.5, 3.2]])
    lone = Atoms("HCO", positions=[[1.0, 1, 1], [21, 2, 2], [11, 9, 9]], cell=[30.0, 20, 20], pbc=True)
    return {
        "molecule in vacuum": molecule,
        "triclinic silicon": rattled(silicon),
        "cell smaller than the cutoff": small,
        "isolated atoms": lone,
        "empty ranks": corner,
    }


def data_file(atoms: Atoms) -> str:
    """The structure as LAMMPS reads it."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
    lines = ["", f"{len(atoms)} atoms", f"{len(TYPES)} atom types"]
    lines += [f"0 {length!r} {d}lo {d}hi" for d, length in zip("xyz", (lx, ly, lz))]
    lines += [f"{xy!r} {xz!r} {yz!r} xy xz yz"] if atoms.pbc.any() else []
    lines += ["", "Masses", "", *(f"{k + 1} 10.0" for k in range(len(TYPES))), "", "Atoms # atomic", ""]
    for k, (symbol, position) in enumerate(zip(atoms.symbols, atoms.positions.tolist())):
        # Numbers with gaps: nothing may take an atom's number for its place.
        lines.append(f"{3 * k + 2} {TYPES.index(symbol) + 1} " + " ".join(map(repr, position)))
    return "\n".join(lines) + "\n"


def begin(atoms: Atoms, model: Path, data: str, scheme: str = "exchange") -> str:
    """The commands up to `pair_coeff`."""
    boundary = "p p p" if atoms.pbc.any() else "s s s"
    return f"""
        clear
        units metal
        boundary {boundary}
        read_data {data}
        pair_style uqforce {scheme}
        pair_coeff * * {model} {" ".join(TYPES)}
    """
