"""Everything that `pair_style uqforce` computes equals what Python computes, on any number of ranks."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from tests.lammps.systems import TABULATION, begin, build, data_file, structures
from uqforce.exporting.export import export
from uqforce.exporting.opening import call, open_model, read_metadata
from uqforce.model import Ensemble
from uqforce.ops import neighbor_list

NKTV2P = 1.6021765e6  # bar A^3 / eV, LAMMPS's `units metal`
opened = cache(open_model)
SCHEMES = ["exchange", "shell", "shell chunk 7"]
FIRST = ["nll", "forces_uncertainty", "energy_uncertainty"]  # of `compute pair`, in every file


@cache
def expected(model: Path, name: str) -> dict[str, np.ndarray]:
    """Python's numbers; half of an edge's virial to each of its atoms, xx yy zz xy xz yz."""
    (module, description), atoms = opened(model), structures()[name]
    tensors = (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array)[None],
        torch.tensor(atoms.pbc)[None],
    )
    edges = neighbor_list(*tensors, description["cutoff"])
    types = torch.tensor([description["type_names"].index(symbol) for symbol in atoms.symbols])
    with torch.jit.optimized_execution(False):  # each structure is evaluated once
        out = call(module, edges.edge_vec, edges.edge_index, types, torch.zeros_like(types), 1)
    of_edges = -0.25 * torch.einsum("ea,eb->eab", edges.edge_vec, out["edge_gradient"])
    of_edges = of_edges + of_edges.mT
    virials = torch.zeros(len(atoms), 3, 3, dtype=torch.float64)
    for row in edges.edge_index:
        virials.index_add_(0, row, of_edges)
    numbers = {name: value.numpy() for name, value in out.items()}
    return numbers | {"virials": virials.numpy()[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]}


def of_atoms(model: Path) -> list[str]:
    return list(read_metadata(model)["domain"]["per_atom"])


def of_structure(model: Path) -> list[str]:
    return read_metadata(model)["domain"]["per_structure"]


def script(folder: Path, systems: dict[str, Atoms], model: Path, scheme: str) -> str:
    """An input that leaves two files for each system: k.global and k.atoms."""
    keys = of_atoms(model)
    extra = 5 + 2 * len(set(keys) - set(FIRST)) + len(set(of_structure(model)) - set(FIRST))
    text, vectors = "", [f"c_p[{i}]" for i in range(1, 7)] + [f"c_u[{i}]" for i in range(1, extra + 1)]
    columns = " ".join(["id fx fy fz c_e c_w[*]", *(f"f_{key}" for key in keys)])
    numbers = " ".join(f"$({name}:%.17g)" for name in ["pe", "vol", *vectors])
    for k, atoms in enumerate(systems.values()):
        (folder / f"{k}.data").write_text(data_file(atoms))
        text += begin(atoms, model, f"{k}.data", scheme)
        text += f"""
            compute e all pe/atom
            compute w all stress/atom NULL virial
            compute p all pressure NULL virial
            compute u all pair uqforce
            {"".join(f"fix {key} all pair 1 uqforce {key} 0" + chr(10) for key in keys)}
            thermo_style custom pe vol c_p[*] c_u[*]
            run 0
            print "{numbers}" file {k}.global
            write_dump all custom {k}.atoms {columns} modify sort id format float %.17g
        """
    return text


def summary(want: dict[str, np.ndarray], keys: list[str], structure: list[str]) -> list[float]:
    """What `compute pair` gives: largest and mean of atoms' quantities, nan of what is not carried."""
    numbers: list[float] = []
    for key in FIRST + [key for key in [*keys, *structure] if key not in FIRST]:
        per_atom = key not in structure and key != "energy_uncertainty"
        none = [np.nan, np.nan] if per_atom else [np.nan]
        values = [want[key].max(), want[key].mean()] if per_atom and key in want else want.get(key, none)
        numbers += list(values)
    return numbers


def compare(folder: Path, k: int, model: Path, want: dict[str, np.ndarray], tolerance: float) -> None:
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
        **dict(zip(of_atoms(model), table[:, 11:].T, strict=True)),
        "extra": extra,
    }
    wanted = want | {
        "energy": want["energy"][0],
        "virial": want["virials"].sum(0),
        "extra": summary(want, of_atoms(model), of_structure(model)),
    }
    for name, value in found.items():
        scale = max(1.0, np.nanmax(np.abs(wanted[name])))
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=tolerance * scale, err_msg=name)


def check(lammps, folder: Path, model: Path, ranks: int, scheme: str, tolerance: float) -> None:
    systems = structures()
    done = lammps(folder, script(folder, systems, model, scheme), ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for k, name in enumerate(systems):
        try:
            compare(folder, k, model, expected(model, name), tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_equals_python(lammps, models, tmp_path, ranks, scheme):
    check(lammps, tmp_path, models(), ranks, scheme, 1e-10)


@pytest.mark.parametrize("noise", ["none", "local", "white"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_noise(lammps, models, tmp_path, noise, scheme):
    check(lammps, tmp_path, models(noise=noise, num_layers=2), 2, scheme, 1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_heads(lammps, models, tmp_path, scheme):
    check(lammps, tmp_path, models(heads=3, noise="local", num_layers=2), 2, scheme, 1e-10)


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory) -> Path:
    """Members of two and of three layers, without noise."""
    path = tmp_path_factory.mktemp("model") / "ensemble.pt"
    members = [build(noise="none", num_layers=layers) for layers in (2, 3)]
    export(Ensemble(members, ddof=1), path, TABULATION)
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_ensemble(lammps, ensemble, tmp_path, scheme):
    check(lammps, tmp_path, ensemble, 2, scheme, 1e-10)


def test_probes_do_not_depend_on_ranks_and_chunks(lammps, models, tmp_path):
    """The signs of `local-deep` are a hash of LAMMPS's numbers of the atoms; Python has its own."""
    model, tables = models(noise="local-deep", num_layers=2), []
    for ranks, scheme in ((1, "exchange"), (2, "exchange"), (2, "shell chunk 7")):
        done = lammps(tmp_path, script(tmp_path, structures(), model, scheme), ranks)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        files = [tmp_path / f"{k}.atoms" for k in range(len(structures()))]
        tables.append(np.concatenate([np.loadtxt(file, skiprows=9, ndmin=2) for file in files]))
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], rtol=0, atol=1e-9 * np.abs(tables[0]).max())
    sigma = np.concatenate([expected(model, name)["forces_uncertainty"] for name in structures()])
    found = tables[0][:, 11 + of_atoms(model).index("forces_uncertainty")]
    assert 0.8 < (found / sigma).mean() < 1.25 and np.abs(found - sigma).max() > 1e-6


def test_float32(lammps, models, tmp_path):
    """Messages of two ranks hold an odd number of float32 values."""
    check(lammps, tmp_path, models("float32"), 2, "exchange", 2e-5)


def test_under_hybrid(lammps, models, tmp_path):
    """`hybrid/overlay` asks for the width of messages before the model is known; what it adds is nothing."""
    name = "triclinic silicon"
    k = list(structures()).index(name)
    text = script(tmp_path, structures(), models(), "exchange").split("clear")[k + 1]
    for old, new in (
        ("pair_style uqforce exchange", "pair_style hybrid/overlay uqforce zero 3.0"),
        ("pair_coeff * *", "pair_coeff * * zero\npair_coeff * * uqforce"),
    ):
        assert old in text
        text = text.replace(old, new)
    done = lammps(tmp_path, text, ranks=2)
    assert done.returncode == 0, done.stdout[-3000:]
    compare(tmp_path, k, models(), expected(models(), name), 1e-10)
