"""torch-sim's batches: equal to the ASE calculator one by one, in dynamics too, with their uncertainties."""

import ase.build
import ase.md.verlet
import numpy as np
import pytest
import torch
from ase import Atoms, units

from tests.model.systems import make_potential as random_potential
from uqforce import Calculator
from uqforce.errors import InputError, NotFiniteError
from uqforce.model import Ensemble

ts = pytest.importorskip("torch_sim", reason="torch-sim is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch-sim warns of what it does not find

NVE = getattr(ts, "Integrator", ts.integrators).nve  # a name since 0.4, a function before
VOIGT = [0, 4, 8, 5, 2, 1]


@pytest.fixture
def wrap(device):
    """`wrap(model, **options)`: a `TorchSimModel` on the fixture's device."""
    from uqforce.engines.torchsim import TorchSimModel

    return lambda model, **options: TorchSimModel(model, device=str(device), **options)


@pytest.fixture
def model(potential, wrap):
    return wrap(potential, memory_scales_with="n_atoms")


@pytest.fixture
def molecules() -> list[Atoms]:
    return [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O", "C6H6", "H", "CH4")]


@pytest.fixture
def crystals(crystal) -> list[Atoms]:
    """Triclinic cells of several sizes, one smaller than the cutoff, and a molecule in a box."""
    boxed = ase.build.molecule("H2O", vacuum=6.0, pbc=True)
    small = Atoms("HO", [[0.1, 0.2, 0.0], [1.1, 1.2, 1.3]], cell=[[2.4, 0, 0], [0.3, 2.5, 0], [0, 0.4, 2.6]])
    small.pbc = True
    return [crystal, small, boxed, crystal.repeat((2, 1, 1))]


def batch(model, atoms):
    return ts.initialize_state(atoms, model.device, model.dtype)


def check(model, atoms: list[Atoms], calculator: Calculator) -> None:
    """Everything that the calculator says of each structure, and nothing more, to 1e-10."""
    out = model(batch(model, atoms))
    start = np.cumsum([0, *map(len, atoms)])
    for k, one in enumerate(atoms):
        calculator.calculate(one)
        assert out.keys() == calculator.results.keys() - {"free_energy"} | {"stress"}
        for name, want in calculator.results.items():
            if name == "free_energy":
                continue
            of_atoms = len(out[name]) == start[-1]
            got = out[name][start[k] : start[k + 1]] if of_atoms else out[name][k]
            got = got.movedim(1, 0) if name == "forces_ensemble" else got
            got = got.flatten()[VOIGT] if name == "stress" else got
            got = got.cpu().numpy()
            assert got.shape == np.shape(want), name
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10, err_msg=f"{name} of {one}")
        if "stress" not in calculator.results:
            assert out["stress"][k].isnan().all()


@pytest.mark.parametrize("structures", ["molecules", "crystals"])
def test_equals_the_calculator(potential, exported, wrap, structures, request):
    atoms = request.getfixturevalue(structures)
    for given in (potential, exported):
        model = wrap(given)
        check(model, atoms, Calculator(given, device=str(model.device)))
        check(model, atoms[:1], Calculator(given, device=str(model.device)))


def test_members_are_the_second_axis(wrap, crystals):
    """As many members as systems: only the order of the axes tells them apart."""
    ensemble = Ensemble(
        [random_potential(seed, noise="local", num_layers=2) for seed in range(len(crystals))]
    )
    model = wrap(ensemble)
    out = model(batch(model, crystals))
    assert out["forces_ensemble"].shape == (sum(map(len, crystals)), len(crystals), 3)
    assert out["virial_ensemble"].shape == (len(crystals), len(crystals), 3, 3)
    check(model, crystals, Calculator(ensemble, device=str(model.device)))


def test_a_slab(model, potential, crystal):
    """Periodic in two directions, which torch-sim 0.3 can hold but does not make of ASE's structures."""
    state = batch(model, [crystal, crystal])
    state.pbc = torch.tensor([True, True, False], device=model.device)
    crystal.pbc = (True, True, False)
    out, calculator = model(state), Calculator(potential, device=str(model.device))
    stress = calculator.get_property("stress", crystal)
    np.testing.assert_allclose(out["forces"][12:].cpu(), calculator.results["forces"], atol=1e-10)
    np.testing.assert_allclose(out["stress"][1].flatten()[VOIGT].cpu(), stress, atol=1e-10)


def test_float32_states(make_potential, wrap, crystals):
    potential = make_potential("float32")
    single, double = wrap(potential, dtype=torch.float32), wrap(potential)
    got, want = single(batch(single, crystals)), double(batch(double, crystals))
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), want[name], rtol=1e-3, atol=1e-4, equal_nan=True)


def test_torch_sims_own_check(wrap):
    from torch_sim.models.interface import validate_model_outputs

    unscaled = {"per_type_energy_scales": None, "per_type_energy_shifts": None}
    model = wrap(random_potential(type_names=["H", "C", "Mg", "Si", "Fe"], **unscaled))
    validate_model_outputs(model, model.device, model.dtype)


def moving(model, atoms: list[Atoms]):
    """The structures as a state of dynamics, with the momenta that they have."""
    state = batch(model, atoms)
    momenta = np.concatenate([one.get_momenta() for one in atoms])
    given = ("positions", "masses", "cell", "pbc", "atomic_numbers", "system_idx")
    return ts.integrators.md.MDState(
        **{name: getattr(state, name) for name in given},
        momenta=torch.tensor(momenta, device=model.device),
        energy=state.positions.new_zeros(len(atoms)),
        forces=torch.zeros_like(state.positions),
    )


def heat(atoms: list[Atoms]) -> None:
    rng = np.random.default_rng(0)
    for one in atoms:
        one.set_momenta(np.sqrt(one.get_masses() * 0.05)[:, None] * rng.normal(size=(len(one), 3)))


def integrate(model, atoms: list[Atoms], steps: int, **options):
    """NVE with steps of 0.25 fs."""
    timestep = 0.25 * units.fs / ts.units.UnitSystem.metal.time
    return ts.integrate(
        moving(model, atoms),
        model,
        integrator=NVE,
        n_steps=steps,
        temperature=300.0,
        timestep=timestep,
        **options,
    )


@pytest.mark.parametrize("structures", ["molecules", "crystals"])
def test_nve(model, potential, structures, request):
    """The trajectories of ASE with the calculator, one by one, and their conserved energy."""
    atoms = request.getfixturevalue(structures)
    heat(atoms)
    end = integrate(model, atoms, 80)
    for k, one in enumerate(atoms):
        one.calc, here = Calculator(potential, device=str(model.device)), one.copy()
        before = one.get_total_energy()
        ase.md.verlet.VelocityVerlet(one, 0.25 * units.fs).run(80)
        moved = end[k].positions.cpu().numpy() - one.positions
        if one.pbc.any():  # torch-sim puts atoms back into the cell
            moved -= np.round(moved @ np.linalg.inv(one.cell.array)) @ one.cell.array
        np.testing.assert_allclose(moved, 0.0, atol=1e-10)
        np.testing.assert_allclose(end[k].momenta.cpu(), one.get_momenta(), atol=1e-9)
        assert np.abs(one.positions - here.positions).max() > 0.1
        kinetic = float((end[k].momenta.square().sum(1) / end[k].masses).sum() / 2)
        assert float(end[k].energy) + kinetic == pytest.approx(before, abs=1e-4 * len(one))


def test_reporter(model, molecules, tmp_path, monkeypatch):
    """Uncertainties of the steps taken, in the files, without an evaluation for them."""
    from uqforce.engines.torchsim import reported

    names = ("nll", "forces_uncertainty", "energy_uncertainty")
    paths = [str(tmp_path / f"{k}.h5") for k in range(len(molecules))]
    reporter = ts.TrajectoryReporter(
        paths,
        state_frequency=5,
        prop_calculators={5: reported(*names)},
        trajectory_kwargs={"coerce_to_float32": False},
    )
    evaluations, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda state: evaluations.append(state) or forward(state))
    heat(molecules)
    integrate(model, molecules, 10, trajectory_reporter=reporter)
    assert len(evaluations) == 11 and all(len(state.cell) == len(molecules) for state in evaluations)
    for path in paths:
        with ts.TorchSimTrajectory(path) as file:
            for frame in range(2):
                want = forward(file.get_state(frame, device=model.device, dtype=model.dtype))
                for name in names:
                    np.testing.assert_allclose(file.get_array(name)[frame], want[name].cpu(), rtol=1e-9)


def test_results_of_states(model, molecules):
    state = batch(model, molecules)
    out = {name: value.clone() for name, value in model(state).items()}
    assert torch.equal(model.result("nll", state), out["nll"])
    for k in (0, 1, 1, 2, 3, 4):  # in order, again: out of the batch
        assert torch.equal(model.result("energy_uncertainty", state[k]), out["energy_uncertainty"][k : k + 1])
        assert torch.equal(model.result("forces", state[k]), out["forces"][state.system_idx == k])
    torch.testing.assert_close(model.result("energy", state[0]), out["energy"][:1], rtol=1e-12, atol=1e-12)
    model(state)
    state.positions += 0.5 * torch.sin(state.positions)  # where the last ones were
    assert not torch.allclose(model.result("nll", state), out["nll"])
    with pytest.raises(InputError, match=r"does not carry energy_ensemble \(it carries energy, forces"):
        model.result("energy_ensemble", state)


def test_automatic_batches(model, molecules):
    """As many at a time as 30 atoms allow: the results stand in the given order, equal to one batch's."""
    atoms = molecules * 3
    heat(atoms)
    whole = integrate(model, atoms, 5)
    sizes, forward = [], model.forward
    model.forward = lambda state: sizes.append(state.n_atoms) or forward(state)
    batcher = ts.BinningAutoBatcher(model, memory_scales_with=model.memory_scales_with, max_memory_scaler=30)
    parts = integrate(model, atoms, 5, autobatcher=batcher)
    assert len(sizes) > 12 and max(sizes) <= 30
    for name in ("positions", "momenta", "energy", "forces"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_bad_states(model, potential, wrap, molecule, crystal):
    def state(atoms=molecule):
        return batch(
            model, [crystal if atoms is crystal else ase.build.molecule("H2O", pbc=atoms.pbc), atoms]
        )

    unknown = molecule.copy()
    unknown.symbols[2] = "Si"
    with pytest.raises(
        InputError, match=r"does not know Si \(atom 5, of system 1\): it was made for H, C, O"
    ):
        model(state(unknown))
    with pytest.raises(
        InputError, match=r"state is torch.float32 on cpu, the model was made for torch.float64"
    ):
        model(state().to(dtype=torch.float32))
    with pytest.raises(InputError, match=r"on meta, the model was made for .* state\.to\("):
        elsewhere = state()
        elsewhere.positions = elsewhere.positions.to("meta")
        model(elsewhere)
    with pytest.raises(InputError, match=r"dtype must be torch.float64 or torch.float32, got torch.float16"):
        wrap(potential, dtype=torch.float16)
    wrong = state()
    wrong.pbc = torch.tensor([True, False])
    with pytest.raises(InputError, match=r"pbc must be one bool or three .* got shape \[2\]"):
        model(wrong)
    flat = state(crystal)
    flat.cell = flat.cell.clone()
    flat.cell[1] = 0
    with pytest.raises(InputError, match="volume"):
        model(flat)
    lost = state()
    lost.positions[4, 1] = torch.nan
    with pytest.raises(InputError, match="finite"):
        model(lost)


def test_numbers_that_are_not_finite_do_not_pass(model, molecules, monkeypatch):
    module = model.module

    def broken(*arguments):
        out = module(*arguments)
        out["forces"][10, 0] = torch.nan
        return out

    monkeypatch.setitem(model._modules, "module", broken)
    with pytest.raises(NotFiniteError, match=r"for system 1; its closest two atoms are 0\.9\d+ A apart"):
        model(batch(model, molecules))
