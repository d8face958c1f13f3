"""Everything that `pair_style uqforce` computes equals what Python computes, on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from tests.lammps.systems import begin, data_file, structures
from uqforce.deploy.export import call, open_model
from uqforce.ops import neighbor_list

NKTV2P = 1.6021765e6  # bar A^3 / eV, LAMMPS's `units metal`
COLUMNS = "id fx fy fz c_e c_w[*] f_nll f_sigma f_s"


def expected(model: Path, atoms: Atoms) -> dict[str, np.ndarray]:
    """Python's numbers; half of an edge's virial to each of its atoms, xx yy zz xy xz yz."""
    module, description = open_model(model)
    tensors = (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array)[None],
        torch.tensor(atoms.pbc)[None],
    )
    edges = neighbor_list(*tensors, description["cutoff"])
    types = torch.tensor([description["type_names"].index(symbol) for symbol in atoms.symbols])
    out = call(module, edges.edge_vec, edges.edge_index, types, torch.zeros_like(types), 1)
    of_edges = -0.25 * torch.einsum("ea,eb->eab", edges.edge_vec, out["edge_gradient"])
    of_edges = of_edges + of_edges.mT
    virials = torch.zeros(len(atoms), 3, 3, dtype=torch.float64)
    for row in edges.edge_index:
        virials.index_add_(0, row, of_edges)
    numbers = {name: value.numpy() for name, value in out.items()}
    return numbers | {"virials": virials.numpy()[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]}


def script(folder: Path, systems: dict[str, Atoms], model: Path, scheme: str) -> str:
    """An input that leaves two files for each system: k.global and k.atoms."""
    text, vectors = "", [f"c_p[{i}]" for i in range(1, 7)] + [f"c_u[{i}]" for i in range(1, 8)]
    numbers = " ".join(f"$({name}:%.17g)" for name in ["pe", "vol", *vectors])
    for k, atoms in enumerate(systems.values()):
        (folder / f"{k}.data").write_text(data_file(atoms))
        text += begin(atoms, model, f"{k}.data", scheme)
        text += f"""
            compute e all pe/atom
            compute w all stress/atom NULL virial
            compute p all pressure NULL virial
            compute u all pair uqforce
            fix nll all pair 1 uqforce nll 0
            fix sigma all pair 1 uqforce forces_uncertainty 0
            fix s all pair 1 uqforce energies_variance 0
            thermo_style custom pe vol c_p[*] c_u[*]
            run 0
            print "{numbers}" file {k}.global
            write_dump all custom {k}.atoms {COLUMNS} modify sort id format float %.17g
        """
    return text


def compare(folder: Path, k: int, want: dict[str, np.ndarray], tolerance: float) -> None:
    energy, volume, *rest = np.array((folder / f"{k}.global").read_text().split(), dtype=float)
    virial, extra = np.array(rest[:6]) * volume / NKTV2P, rest[6:]
    table = np.loadtxt(folder / f"{k}.atoms", skiprows=9, ndmin=2)
    table = table[np.argsort(table[:, 0])]
    found = {
        "energy": energy,
        "virial": virial,
        "forces": table[:, 1:4],
        "energies": table[:, 4],
        "virials": -table[:, 5:11] / NKTV2P,
        "nll": table[:, 11],
        "forces_uncertainty": table[:, 12],
        "energies_variance": table[:, 13],
        "extra": extra,
    }
    sigma = want["forces_uncertainty"]
    wanted = want | {
        "energy": want["energy"][0],
        "virial": want["virials"].sum(0),
        "extra": [
            want["nll"].max(),
            want["nll"].mean(),
            sigma.max(),
            sigma.mean(),
            *want["energy_uncertainty"],
            want["energies_variance"].max(),
            want["energies_variance"].mean(),
        ],
    }
    for name, value in found.items():
        scale = max(1.0, np.abs(wanted[name]).max())
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=tolerance * scale, err_msg=name)


def check(lammps, folder: Path, model: Path, ranks: int, scheme: str, tolerance: float) -> None:
    systems = structures()
    done = lammps(folder, script(folder, systems, model, scheme), ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for k, (name, atoms) in enumerate(systems.items()):
        try:
            compare(folder, k, expected(model, atoms), tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("scheme", ["exchange", "shell"])
@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_equals_python(lammps, models, tmp_path, ranks, scheme):
    check(lammps, tmp_path, models(), ranks, scheme, 1e-10)


def test_float32(lammps, models, tmp_path):
    """Messages of two ranks hold an odd number of float32 values."""
    check(lammps, tmp_path, models("float32"), 2, "exchange", 2e-5)


def test_under_hybrid(lammps, models, tmp_path):
    """`hybrid/overlay` asks for the width of messages before the model is known; what it adds is nothing."""
    name = "triclinic silicon"
    atoms, k = structures()[name], list(structures()).index(name)
    text = script(tmp_path, structures(), models(), "exchange").split("clear")[k + 1]
    for old, new in (
        ("pair_style uqforce exchange", "pair_style hybrid/overlay uqforce zero 3.0"),
        ("pair_coeff * *", "pair_coeff * * zero\npair_coeff * * uqforce"),
    ):
        assert old in text
        text = text.replace(old, new)
    done = lammps(tmp_path, text, ranks=2)
    assert done.returncode == 0, done.stdout[-3000:]
    compare(tmp_path, k, expected(models(), atoms), 1e-10)
