"""The ASE calculator: derivatives, neighbour list reuse, thresholds, bad input."""

import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGS

from uqforce.engines.calculator import Calculator, VerletList
from uqforce.engines.records import frame_with_results
from uqforce.errors import InputError, NotFiniteError, UncertaintyExceeded, UncertaintyWarning
from uqforce.exporting.exported_potential import ExportedPotential
from uqforce.model import save_model
from uqforce.ops import neighbor_list


@pytest.fixture
def calculator(potential, device) -> Calculator:
    return Calculator(potential, device=str(device))


def energy(atoms: Atoms) -> float:
    return atoms.get_potential_energy()


@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_forces_are_the_derivative_of_the_energy(calculator, structure, request):
    atoms = request.getfixturevalue(structure)
    atoms.calc = calculator
    forces, h = atoms.get_forces(), 1e-4
    numerical = np.zeros_like(forces)
    for atom, axis in np.ndindex(forces.shape):
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.calc = calculator
            moved.positions[atom, axis] += sign * h
            numerical[atom, axis] -= sign * energy(moved) / (2 * h)
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()


def test_stress_is_the_derivative_of_the_energy(calculator, crystal):
    crystal.calc = calculator
    stress, h = crystal.get_stress(voigt=False), 1e-5
    numerical = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        for sign in (-1, 1):
            strained = crystal.copy()
            strained.calc = calculator
            strain = np.eye(3)
            strain[a, b] += sign * h
            strained.set_cell(crystal.cell @ strain, scale_atoms=True)
            numerical[a, b] += sign * energy(strained) / (2 * h) / crystal.get_volume()
    assert np.abs(stress - numerical).max() < 1e-6 * np.abs(stress).max()


def test_names_of_other_packages(potential, crystal):
    results = {}
    for names in ("ase", "nequip", "mace", "metatomic"):
        crystal.calc = Calculator(potential, device="cpu", names=names)
        energy(crystal)
        results[names] = crystal.calc.results
    ase = results["ase"]
    assert all(np.array_equal(results[names][key], ase[key]) for names in results for key in ase)
    added = {names: sorted(results[names].keys() - ase.keys()) for names in results}
    assert added == {
        "ase": [],
        "nequip": ["atomic_energy", "node_features", "total_energy", "virial"],
        "mace": ["energy_var", "forces_var", "node_energy"],
        "metatomic": ["features"],
    }
    nequip, mace = results["nequip"], results["mace"]
    assert nequip["total_energy"].shape == (1, 1) and nequip["total_energy"][0, 0] == ase["energy"]
    assert np.array_equal(nequip["atomic_energy"][:, 0], ase["energies"])
    stress = -nequip["virial"][0] / crystal.get_volume()
    np.testing.assert_allclose(stress.ravel()[[0, 4, 8, 5, 2, 1]], ase["stress"], rtol=1e-14)
    assert np.array_equal(nequip["node_features"], results["metatomic"]["features"])
    shifts = potential.network.scale_shift.shifts.detach().numpy()
    types = [potential.config.type_names.index(symbol) for symbol in crystal.symbols]
    np.testing.assert_allclose(mace["node_energy"], ase["energies"] - shifts[types], rtol=1e-14)
    assert mace["energy_var"] == ase["energy_uncertainty"] ** 2
    np.testing.assert_allclose(np.sqrt(mace["forces_var"].mean(1)), ase["forces_uncertainty"], rtol=1e-12)
    with pytest.raises(InputError, match="one of ase, nequip, mace, metatomic, got 'vasp'"):
        Calculator(potential, names="vasp")


def test_results(calculator, crystal, potential):
    crystal.calc = calculator
    assert crystal.get_potential_energies().sum() == pytest.approx(energy(crystal), rel=1e-12)
    assert calculator.results["free_energy"] == energy(crystal)
    assert calculator.results["nll"].shape == calculator.results["forces_uncertainty"].shape == (12,)
    assert isinstance(calculator.results["energy_uncertainty"], float)
    assert np.array_equal(calculator.get_property("nll", crystal), calculator.results["nll"])
    assert crystal.get_properties(["energy"])["energy"] == energy(crystal)


def test_scores_of_the_structure(calculator, crystal):
    crystal.calc = calculator
    energy(crystal)
    nll = calculator.results["nll"]
    for name, value in (("nll_mean", nll.mean()), ("nll_max", nll.max()), ("nll_sum", nll.sum())):
        assert isinstance(calculator.results[name], float) and name in calculator.implemented_properties
        assert calculator.results[name] == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "max", "sum"])
def test_nll_gradient(potential, exported, crystal, reduction):
    """The derivative of the structure's score, from a model and an exported file; nothing else changes."""
    crystal.calc = Calculator(potential, device="cpu", nll_gradient=reduction)
    gradient = crystal.calc.get_property("nll_gradient", crystal)
    plain, h = Calculator(potential, device="cpu"), 1e-5
    plain.calculate(crystal)
    for name, value in plain.results.items():
        np.testing.assert_allclose(crystal.calc.results[name], value, rtol=1e-12, atol=1e-12)
    assert gradient.shape == (12, 3) and "nll_gradient" not in plain.results
    for atom, axis in ((0, 0), (5, 2), (11, 1)):
        scores = []
        for sign in (1, -1):
            moved = crystal.copy()
            moved.positions[atom, axis] += sign * h
            scores.append(plain.get_property(f"nll_{reduction}", moved))
        numerical = (scores[0] - scores[1]) / (2 * h)
        assert gradient[atom, axis] == pytest.approx(numerical, rel=1e-5, abs=1e-6 * np.abs(gradient).max())
    crystal.calc = Calculator(exported, device="cpu", nll_gradient=reduction)
    crystal.get_forces()
    np.testing.assert_allclose(crystal.calc.results["nll_gradient"], gradient, rtol=1e-9, atol=1e-9)


def test_nll_gradient_that_cannot_be(potential, make_potential, monkeypatch):
    with pytest.raises(InputError, match="one of mean, max, sum, got 'median'"):
        Calculator(potential, device="cpu", nll_gradient="median")
    with pytest.raises(InputError, match="carries no nll"):
        Calculator(make_potential(mixture=False), device="cpu", nll_gradient="max")
    monkeypatch.delattr(ExportedPotential, "nll_gradient")  # as in a file of before
    with pytest.raises(InputError, match="export the model to TorchScript"):
        Calculator(potential, device="cpu", nll_gradient="max")


def test_ase_writes_it_and_optimises_with_it(calculator, crystal, tmp_path):
    crystal.calc = calculator
    start = energy(crystal)
    BFGS(crystal, logfile=None).run(steps=3)
    assert energy(crystal) < start
    for name in ("crystal.extxyz", "crystal.traj"):
        ase.io.write(tmp_path / name, crystal)
        assert ase.io.read(tmp_path / name).get_potential_energy() == pytest.approx(
            energy(crystal), rel=1e-12
        )


def test_the_same_from_every_kind_of_model(potential, exported, crystal, tmp_path):
    save_model(potential, tmp_path / "model.uqf")
    results = []
    for model in (potential, tmp_path / "model.uqf", exported, str(exported)):
        crystal.calc = Calculator(model, device="cpu")
        crystal.get_forces()
        results.append(crystal.calc.results)
    for found in results[1:]:
        assert found.keys() == results[0].keys()
        for name, value in results[0].items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10)


def test_under_no_grad(exported, crystal):
    crystal.calc = Calculator(exported, device="cpu")
    forces = crystal.get_forces()
    crystal.calc = Calculator(exported, device="cpu")
    with torch.no_grad():
        assert np.array_equal(crystal.get_forces(), forces)


def test_only_what_the_model_carries(make_potential, molecule):
    molecule.calc = Calculator(make_potential(mixture=False, noise="none"), device="cpu")
    molecule.get_forces()
    assert set(molecule.calc.results) == {"energy", "free_energy", "energies", "forces"}
    assert "nll" not in molecule.calc.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        molecule.get_stress()


def test_every_field_of_one_structure(make_potential, crystal, molecule, tmp_path):
    """Scalars of the structure, one row for each atom; trajectories keep what extxyz has room for."""
    potential = make_potential()
    potential.rigidity.store(torch.eye(potential.network.num_last_features))
    one = torch.ones(2, 1)
    potential.calibration.store(forces=one, energy=one, error=one)
    crystal.calc = Calculator(potential, device="cpu")
    crystal.get_forces()
    found = crystal.calc.results
    shapes = {"llpr": (12,), "forces_error": (12,), "forces_covariance": (12, 3, 3),
              "virial_covariance": (6, 6), "energy_forces_covariance": (12, 3)}  # fmt: skip
    assert {name: found[name].shape for name in shapes} == shapes
    assert isinstance(found["energy_llpr"], float)
    ase.io.write(tmp_path / "frame.extxyz", frame_with_results(crystal, 0, 0.0))
    frame = ase.io.read(tmp_path / "frame.extxyz")
    np.testing.assert_allclose(frame.arrays["forces_error"], found["forces_error"], atol=1e-8)
    assert frame.info["energy_llpr"] == pytest.approx(found["energy_llpr"])


def test_float32_model_sums_energies_in_float64(make_potential, crystal):
    crystal.calc = Calculator(make_potential("float32"), device="cpu")
    assert crystal.get_forces().dtype == np.float64
    assert crystal.get_potential_energies().sum() == pytest.approx(energy(crystal), rel=1e-14)


@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_skin_is_exact_along_a_trajectory(potential, structure, request):
    """A reused list gives bitwise what a fresh one gives, and it is reused."""
    atoms = request.getfixturevalue(structure)
    skinned, fresh = (Calculator(potential, device="cpu", skin=skin) for skin in (0.6, 0.0))
    rng = np.random.default_rng(0)
    velocity = rng.normal(size=(len(atoms), 3))
    for step in range(80):
        velocity = 0.9 * velocity + rng.normal(size=velocity.shape)
        atoms.positions += 0.01 * velocity
        if step % 20 == 10:
            atoms.wrap()
        if step % 20 == 15 and atoms.pbc.any():
            atoms.set_cell(atoms.cell * 1.001, scale_atoms=True)
        for calculator in (skinned, fresh):
            calculator.calculate(atoms)
        for name, value in fresh.results.items():
            assert np.array_equal(skinned.results[name], value), (step, name)
    assert fresh.neighbors.rebuilds == 80
    assert 3 < skinned.neighbors.rebuilds < 40


def test_skin_sees_an_atom_coming_from_outside():
    """A pair that comes within the cutoff is found without a new list while both atoms moved < skin/2."""
    listed = VerletList(cutoff=3.0, skin=0.5)
    cell, pbc = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool)
    positions = torch.tensor([[0.0, 0, 0], [3.45, 0, 0]], dtype=torch.float64)
    assert listed.edges(positions, cell, pbc)[0].shape == (0, 3)
    positions[0, 0] += 0.24
    positions[1, 0] -= 0.24
    edge_vec, edge_index = listed.edges(positions, cell, pbc)
    assert listed.rebuilds == 1
    expected = neighbor_list(positions, cell, pbc, 3.0)
    assert torch.equal(edge_index, expected.edge_index) and torch.equal(edge_vec, expected.edge_vec)
    positions[1, 0] -= 0.02
    listed.edges(positions, cell, pbc)
    assert listed.rebuilds == 2


def test_list_follows_cell_pbc_and_number_of_atoms(potential, crystal):
    calculator = Calculator(potential, device="cpu", skin=1.0)
    for change in range(4):
        atoms = crystal.copy()
        if change == 1:
            atoms.pbc = [True, False, True]
        if change == 2:
            atoms.set_cell(atoms.cell * 1.01)
        if change == 3:
            del atoms[3]
        calculator.calculate(atoms)
        expected = Calculator(potential, device="cpu", skin=0)
        expected.calculate(atoms)
        assert np.array_equal(calculator.results["forces"], expected.results["forces"])
    swapped = crystal.copy()
    calculator.calculate(swapped)
    swapped.numbers = swapped.numbers[::-1]
    calculator.calculate(swapped)
    expected.calculate(swapped)
    assert np.array_equal(calculator.results["forces"], expected.results["forces"])


def test_threshold_raises_with_atom_value_and_threshold(potential, crystal):
    crystal.calc = Calculator(potential, device="cpu", nll_threshold=-1e9, on_exceeded="raise")
    with pytest.raises(
        UncertaintyExceeded, match=r"nll of atom \d+ \([HCO]\) is .*, above -1e\+09"
    ) as caught:
        crystal.get_forces()
    nll = crystal.calc.results["nll"]
    assert (caught.value.quantity, caught.value.atom) == ("nll", np.argmax(nll))
    assert caught.value.value == nll.max() and caught.value.threshold == -1e9
    assert caught.value.symbol == crystal.symbols[np.argmax(nll)]


def test_threshold_warns(potential, crystal):
    crystal.calc = Calculator(potential, device="cpu", forces_uncertainty_threshold=1e-9)
    with pytest.warns(UncertaintyWarning, match="forces_uncertainty of atom"):
        crystal.get_forces()
    crystal.calc = Calculator(potential, device="cpu", forces_uncertainty_threshold=1e9, nll_threshold=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncertaintyWarning)  # not what ASE and NumPy say of each other
        crystal.get_forces()


def test_named_thresholds_come_from_the_model(potential, make_potential):
    assert Calculator(potential, device="cpu").thresholds == {}
    assert Calculator(potential, device="cpu", nll_threshold="q0.99").thresholds == {"nll": 12.5}
    assert Calculator(potential, device="cpu", nll_threshold="max").thresholds == {"nll": 20.0}
    with pytest.raises(
        ValueError, match=r"'q0\.5' on nll is not stored in the model \(it stores q0\.99, max\)"
    ):
        Calculator(potential, device="cpu", nll_threshold="q0.5")
    with pytest.raises(ValueError, match=r"does not carry it.*`uqforce fit` adds nll"):
        Calculator(make_potential(mixture=False), device="cpu", nll_threshold=1.0)
    with pytest.raises(ValueError, match="on_exceeded must be 'warn' or 'raise', got 'stop'"):
        Calculator(potential, device="cpu", on_exceeded="stop")


def test_one_atom(calculator):
    atoms = Atoms("O", calculator=calculator)
    assert np.isfinite(energy(atoms))
    assert np.array_equal(atoms.get_forces(), np.zeros((1, 3)))


def test_empty_structure(calculator):
    with pytest.raises(ValueError, match="no atoms"):
        energy(Atoms(calculator=calculator))


def test_unknown_element(calculator):
    with pytest.raises(ValueError, match=r"does not know Si, Xe \(in .*\): it was made for H, C, O"):
        energy(Atoms("HXeSi", positions=np.eye(3), calculator=calculator))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite(calculator, molecule, value):
    molecule.calc = calculator
    energy(molecule)
    molecule.positions[4, 1] = value
    with pytest.raises(InputError, match=r"(?i)position.*4"):
        energy(molecule)


def test_cell_without_volume(calculator, crystal):
    crystal.calc = calculator
    crystal.cell[2] = crystal.cell[0] + crystal.cell[1]
    with pytest.raises(InputError, match=r"(?i)volume"):
        energy(crystal)


def test_numbers_that_are_not_finite_do_not_pass(calculator, molecule, monkeypatch):
    module = calculator.module

    def broken(*arguments):
        out = module(*arguments)
        out["forces"][2, 0] = torch.nan
        return out

    monkeypatch.setattr(calculator, "module", broken)
    molecule.calc = calculator
    with pytest.raises(
        NotFiniteError, match=r"not finite for C2H6O; its closest two atoms are 0\.9\d+ A apart"
    ):
        energy(molecule)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_is_not_replaced_by_the_cpu(potential):
    with pytest.raises(ValueError, match=r"'cuda' was asked for, but torch .* sees 0 CUDA devices"):
        Calculator(potential, device="cuda")
    with pytest.raises(ValueError, match="'auto', 'cpu', 'cuda' or 'cuda:K'"):
        Calculator(potential, device="meta")
    with pytest.raises(ValueError, match="skin must not be negative"):
        Calculator(potential, device="cpu", skin=-0.1)
