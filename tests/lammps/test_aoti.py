"""AOTInductor packages: Python's numbers in the calculator and in LAMMPS, for any number of atoms."""

import os
import subprocess
import sys
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.lammps.systems import begin, build, data_file, structures, with_metadata
from tests.lammps.test_pair import check
from uqforce import Calculator
from uqforce.errors import ExportError, InputError
from uqforce.exporting.export import export
from uqforce.exporting.opening import load_exported
from uqforce.model import Potential, sample_structure


@pytest.fixture(scope="session", params=["total", "local"])
def potential(request) -> Potential:
    return build(num_layers=2, zbl=False, noise=request.param)


@pytest.fixture(scope="session")
def package(potential, tmp_path_factory) -> Path:
    """Compiled once for all processes of the tests: it takes a minute."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / f"{potential.config.noise}.pt2"
    with FileLock(str(path) + ".lock"):
        if not path.exists():
            export(potential, path, compiled=True)
    return path


def test_any_number_of_atoms_edges_and_structures(package, potential):
    module, _ = load_exported(package)
    edge_vec, edge_index, types, batch, _ = whole = sample_structure(potential, seed=7)
    none, no_edges = edge_vec[:0], edge_index[:, :0]
    one_edge = (edge_vec[:1], torch.tensor([[0], [1]]), types[:2], batch[:2], 1)
    first = edge_index.max(0).values < 27
    cases = [whole, (edge_vec[first], edge_index[:, first], types[:27], batch[:27], 1), one_edge]
    cases += [(none, no_edges, types[:k], torch.arange(k), k) for k in (0, 1, 3)]
    for case in cases:
        want = potential(*case).as_dict()
        got = module(*case)
        assert set(got) == set(want)
        for name, value in got.items():
            if want[name].numel():
                torch.testing.assert_close(value, want[name], rtol=0, atol=1e-9)


def test_arguments(package, potential):
    """Compiled code would read other memory; the wrapper does not let it."""
    module, _ = load_exported(package)
    edge_vec, edge_index, types, batch, count = case = sample_structure(potential)
    strided = edge_index.t().contiguous().t(), edge_vec.repeat(1, 2)[:, :3].float()
    assert torch.equal(
        module(strided[1].double(), strided[0], types, batch, count)["forces"],
        module(edge_vec.float(), *case[1:])["forces"],
    )
    with pytest.raises(TypeError, match=r"edge_index is torch\.int32, expected torch\.int64"):
        module(edge_vec, edge_index.int(), types, batch, count)
    with pytest.raises(ValueError, match="do not belong together"):
        module(edge_vec[1:], edge_index, types, batch, count)


def test_calculator(package, potential):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.calc, direct = Calculator(package), Calculator(potential)
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces, direct.get_property("forces", atoms), rtol=0, atol=1e-9)
    sigma = direct.get_property("forces_uncertainty", atoms)
    np.testing.assert_allclose(atoms.calc.results["forces_uncertainty"], sigma, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"AOTInductor package .* export the model to TorchScript"):
        Calculator(package, nll_gradient="max")
    with pytest.raises(InputError, match="compiled for the cpu, not for cuda"):
        load_exported(package, "cuda")


def test_another_processor(package):
    """torch can be told to be a lesser processor: the file is refused, not run to an illegal instruction."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("there is no lesser processor to pretend")
    code = f"from uqforce.exporting.opening import load_exported; load_exported({str(package)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
    )
    assert "was compiled for a processor with AVX" in done.stderr and "export it here" in done.stderr


def test_names_and_tables(potential, tmp_path):
    for name, tabulation in (("model.pt", None), ("model.pt2", 0)):
        with pytest.raises(ExportError, match=r"is named \*\.pt2 and holds tables"):
            export(potential, tmp_path / name, tabulation, compiled=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_equals_python_in_lammps(lammps, package, tmp_path, ranks):
    check(lammps, tmp_path, package, ranks, "exchange", 1e-10)


def fails(lammps, folder: Path, model: Path, scheme: str) -> str:
    atoms = structures()["molecule in vacuum"]
    (folder / "0.data").write_text(data_file(atoms))
    done = lammps(folder, begin(atoms, model, "0.data", scheme) + "run 0\nprint 'it went on'\n", ranks=2)
    assert done.returncode != 0 and "it went on" not in done.stdout
    return done.stdout


def test_what_lammps_refuses(lammps, package, tmp_path):
    assert "leave out `shell`, or export to TorchScript" in fails(lammps, tmp_path, package, "shell")
    with_metadata(package, tmp_path / "other.pt2", processor="AVX1024")
    said = fails(lammps, tmp_path, tmp_path / "other.pt2", "exchange")
    assert "other.pt2 was compiled for a processor with AVX1024, this one has" in said
