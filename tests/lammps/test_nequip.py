"""A model that nequip trained, imported, fitted and exported, gives in LAMMPS what it gives in ASE."""

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from tests.exporting.test_nequip_files import SMALL, run_nequip
from tests.lammps.systems import TYPES, begin, data_file, structures
from uqforce import Calculator
from uqforce.cli import main

pytest.importorskip("nequip", reason="nequip is not installed: pip install 'uqforce[nequip]'")
OPTIONS = SMALL | {"type_names": TYPES, "per_type_energy_shifts": dict.fromkeys(TYPES, 1.0)}


def test_trained_by_nequip(lammps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    molecule, frames = structures()["molecule in vacuum"], []
    for seed in range(8):
        atoms = molecule.copy()
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write("train.xyz", frames)
    run_nequip(tmp_path, OPTIONS)
    assert main(["import", "trained.nequip.zip", "-o", "model.uqf", "--trust"]) == 0
    assert main(["fit", "model.uqf", "train.xyz", "--in-place", "--components", "2"]) == 0
    assert main(["export", "model.uqf", "-o", "model.pt"]) == 0

    (tmp_path / "0.data").write_text(data_file(molecule))
    text = """
        fix nll all pair 1 uqforce nll 0
        run 0
        print "$(pe:%.17g)" file energy
        write_dump all custom atoms id fx fy fz f_nll modify sort id format float %.17g
    """
    done = lammps(tmp_path, begin(molecule, tmp_path / "model.pt", "0.data") + text, ranks=2)
    assert done.returncode == 0, done.stdout[-2000:]
    molecule.calc = Calculator("model.pt", device="cpu")
    energy, forces = molecule.get_potential_energy(), molecule.get_forces()
    assert abs(forces).max() > 0.01
    found = np.loadtxt(tmp_path / "atoms", skiprows=9)
    np.testing.assert_allclose(float((tmp_path / "energy").read_text()), energy, rtol=1e-10)
    np.testing.assert_allclose(found[:, 1:4], forces, rtol=0, atol=1e-10 * abs(forces).max())
    np.testing.assert_allclose(found[:, 4], molecule.calc.results["nll"], rtol=1e-9)
