"""Physics of the potential: derivatives, symmetries, extensivity, isolated atoms, batches, scripting."""

import pytest
import torch

from tests.model import systems
from tests.model.systems import System, evaluate, make_potential, random_system
from uqforce.ops import neighbor_list

pytestmark = pytest.mark.usefixtures("on_device")

STEP = 1e-4


def central_difference(function, x: torch.Tensor, index: tuple) -> float:
    """Fourth-order central difference of a scalar function with respect to one entry of x."""
    values = []
    for k in (-2, -1, 1, 2):
        moved = x.clone()
        moved[index] += k * STEP
        values.append(float(function(moved).detach()))
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)


@pytest.mark.parametrize("zbl", [False, True])
def test_forces_are_the_gradient(potential, zbl):
    potential = make_potential(parity=potential.config.parity, zbl=True) if zbl else potential
    system = random_system([7, 5], periodic=True)
    forces = evaluate(potential, system).forces

    def energy(positions):
        return evaluate(potential, system._replace(positions=positions)).energy.sum()

    scale = forces.abs().max()
    for index in [(0, 0), (3, 1), (8, 2), (11, 0)]:
        assert abs(-central_difference(energy, system.positions, index) - forces[index]) < 1e-6 * scale


def test_stress_is_the_strain_derivative(potential):
    system = random_system([9], periodic=True)
    volume = torch.linalg.det(system.cell).abs()
    stress = -evaluate(potential, system).virial[0] / volume

    def energy(strain):
        deformation = torch.eye(3, dtype=torch.float64) + strain
        moved = system._replace(positions=system.positions @ deformation.T, cell=system.cell @ deformation.T)
        return evaluate(potential, moved).energy.sum()

    assert torch.allclose(stress, stress.T, rtol=0, atol=1e-12 * float(stress.abs().max()))
    zero = torch.zeros(3, 3, dtype=torch.float64)
    for index in [(0, 0), (1, 1), (2, 2), (0, 1), (2, 0)]:
        assert (
            abs(central_difference(energy, zero, index) / volume - stress[index]) < 1e-6 * stress.abs().max()
        )


@pytest.mark.parametrize("reflect", [False, True])
def test_rotations_and_reflections(potential, reflect):
    system = random_system([8, 6], periodic=True)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    rotation *= torch.det(rotation) * (-1 if reflect else 1)
    before = evaluate(potential, system)
    after = evaluate(
        potential, system._replace(positions=system.positions @ rotation.T, cell=system.cell @ rotation.T)
    )
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(after.energies, before.energies, **close)
    torch.testing.assert_close(after.features, before.features, **close)
    torch.testing.assert_close(after.energy_uncertainty, before.energy_uncertainty, **close)
    torch.testing.assert_close(after.forces_uncertainty, before.forces_uncertainty, **close)
    torch.testing.assert_close(after.forces, before.forces @ rotation.T, **close)
    torch.testing.assert_close(after.virial, rotation @ before.virial @ rotation.T, **close)
    torch.testing.assert_close(
        after.forces_covariance, rotation @ before.forces_covariance @ rotation.T, **close
    )


def test_translations_and_permutations(potential):
    system = random_system([10], periodic=True)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([0.3, -7.0, 1.9], dtype=torch.float64)
    before = evaluate(potential, system)
    after = evaluate(
        potential,
        system._replace(positions=system.positions[order] + shift, atom_types=system.atom_types[order]),
    )
    torch.testing.assert_close(after.energies, before.energies[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.virial, before.virial, rtol=1e-10, atol=1e-10)


def test_supercell_is_extensive(potential):
    system = random_system([4], periodic=True)
    repeats = torch.cartesian_prod(torch.arange(2), torch.arange(1), torch.arange(3)).double()
    positions = (system.positions[None] + (repeats @ system.cell[0])[:, None]).reshape(-1, 3)
    supercell = system._replace(
        positions=positions,
        cell=system.cell * torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64).view(1, 3, 1),
        atom_types=system.atom_types.repeat(6),
        batch=torch.zeros(24, dtype=torch.int64),
    )
    unit, whole = evaluate(potential, system), evaluate(potential, supercell)
    torch.testing.assert_close(whole.energy, 6 * unit.energy, rtol=1e-10, atol=0)
    torch.testing.assert_close(whole.forces, unit.forces.repeat(6, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole.virial, 6 * unit.virial, rtol=1e-10, atol=1e-10)


def test_isolated_atoms_have_their_reference_energies(potential):
    system = random_system([3], periodic=False)
    system = system._replace(positions=20.0 * torch.arange(9, dtype=torch.float64).view(3, 3))
    prediction = evaluate(potential, system)
    shifts = torch.tensor(potential.config.per_type("per_type_energy_shifts", 0.0), dtype=torch.float64)
    torch.testing.assert_close(prediction.energies, shifts[system.atom_types], rtol=0, atol=1e-14)
    assert prediction.forces.abs().max() == 0


def test_batch_equals_its_members(potential):
    together = random_system([5, 7, 3], periodic=False)
    prediction = evaluate(potential, together)
    for b in range(3):
        atoms = together.batch == b
        alone = together._replace(
            positions=together.positions[atoms],
            cell=together.cell[b : b + 1],
            pbc=together.pbc[b : b + 1],
            atom_types=together.atom_types[atoms],
            batch=torch.zeros(int(atoms.sum()), dtype=torch.int64),
        )
        single = evaluate(potential, alone)
        torch.testing.assert_close(single.energy[0], prediction.energy[b])
        torch.testing.assert_close(single.forces, prediction.forces[atoms])
        torch.testing.assert_close(single.virial[0], prediction.virial[b])
        torch.testing.assert_close(single.energy_uncertainty[0], prediction.energy_uncertainty[b])


def test_no_atoms(potential):
    prediction = evaluate(potential, random_system([0, 4], periodic=False))
    assert prediction.energy[0] == 0 and prediction.energies.shape == (4,)
    empty = evaluate(potential, random_system([0], periodic=False))
    assert empty.energy.tolist() == [0.0] and empty.forces.shape == (0, 3)


def test_cutoff_is_smooth(potential):
    """Energy of a pair goes to zero at the cutoff, and beyond a per-type cutoff nothing is felt."""
    short = make_potential(per_edge_type_cutoff={"H": 2.0, "C": {"O": 2.5}, "O": {"C": 2.5}})
    pair = random_system([2], periodic=False)

    def at(model, distance, types):
        positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
        return evaluate(model, pair._replace(positions=positions, atom_types=torch.tensor(types))).energy

    isolated = at(potential, 10.0, [1, 2])
    assert abs(at(potential, 3.5 - 1e-4, [1, 2]) - isolated) < 1e-9
    assert abs(at(potential, 2.6, [1, 2]) - isolated) > 1e-6
    assert at(short, 2.6, [1, 2]) == isolated
    assert at(short, 2.1, [0, 0]) == at(short, 10.0, [0, 0])
    assert at(short, 2.6, [1, 1]) != at(short, 10.0, [1, 1])


def test_force_uncertainty_follows_the_energy_variance(potential):
    """Cov(F_i) = d_i sigma d_i sigma^T + gamma^2 s I, by finite differences of sigma."""
    with torch.no_grad():
        potential.noise.gamma.log_gamma.fill_(0.3)
    system = random_system([6], periodic=False)
    prediction = evaluate(potential, system)

    def sigma(positions):
        return evaluate(potential, system._replace(positions=positions)).energy_uncertainty[0]

    slope = torch.tensor([central_difference(sigma, system.positions, (2, a)) for a in range(3)]).double()
    noise = torch.exp(torch.tensor(0.6).double()) * prediction.energies_variance.sum()
    expected = torch.outer(slope, slope) + noise * torch.eye(3).double()
    torch.testing.assert_close(prediction.forces_covariance[2], expected, rtol=1e-6, atol=1e-9)
    trace = prediction.forces_covariance.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(prediction.forces_uncertainty, (trace / 3).sqrt())


def test_scripted_and_frozen_equal_eager(potential):
    system = random_system([6, 4], periodic=True)
    eager = evaluate(potential, system)
    scripted = torch.jit.script(potential)
    for module in (scripted, torch.jit.freeze(scripted)):
        for _ in range(3):  # the second and third calls run optimised graphs
            prediction = evaluate(module, system)
        for name, value in eager.as_dict().items():
            torch.testing.assert_close(getattr(prediction, name), value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "name",
    ["network.layers.1.linear_in.weight", "network.layers.0.radial.last.weight", "network.type_embedding"],
)
def test_training_gradients(potential, name):
    """The gradient of a loss on forces, virial and energy with respect to a weight, by finite differences."""
    system = random_system([6, 3], periodic=True)
    potential.train()
    parameter = dict(potential.named_parameters())[name]

    def loss():
        prediction = evaluate(potential, system)
        return prediction.forces.square().sum() + prediction.virial.square().sum() + prediction.energy.sum()

    def loss_at(value):
        parameter.data.copy_(value)
        return loss()

    loss().backward()
    index = (0,) * parameter.dim()
    expected = central_difference(loss_at, parameter.detach().clone(), index)
    assert abs(parameter.grad[index] - expected) < 1e-6 * float(parameter.grad.abs().max())


def test_float32_follows_float64():
    system = random_system([8], periodic=True)
    exact = evaluate(make_potential(), system)
    single = make_potential(dtype="float32")
    single.load_state_dict(make_potential().state_dict())
    prediction = evaluate(single, system)
    assert prediction.energy.dtype == torch.float64 and prediction.features.dtype == torch.float32
    torch.testing.assert_close(prediction.energy, exact.energy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prediction.forces, exact.forces, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"radial_mlp_depth": 2, "num_bessels": 4, "bessel_trainable": True}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_interpolated_radial_networks(dtype, fields):
    """Radial networks evaluated at nodes in training: forces and gradients far below float32's rounding."""
    system = random_system([40, 30], periodic=True)

    def forces_and_gradients(dtype, nodes):
        small = {"num_layers": 3, "radial_mlp_width": 32, **fields}
        potential = make_potential(dtype=dtype, **small).train()
        potential.load_state_dict(make_potential(**small).state_dict())
        potential.network.radial_nodes = nodes
        forces = evaluate(potential, system).forces
        trained = [p for p in potential.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(forces.square().sum(), trained, allow_unused=True)
        return [t.detach().double() for t in (forces, *gradients) if t is not None]

    default = make_potential(dtype="float32", **fields).network.radial_nodes
    exact = forces_and_gradients("float64", 0)
    found = forces_and_gradients(dtype, default)
    for a, b in zip(found, exact, strict=True):
        assert (a - b).norm() < {"float32": 1e-5, "float64": 1e-7}[dtype] * b.norm()
    if dtype == "float64":
        assert any((a != b).any() for a, b in zip(found, exact, strict=True))  # it was interpolated


def test_gradients_disabled_is_an_error(potential):
    system = random_system([3], periodic=False)
    with torch.no_grad(), pytest.raises(RuntimeError, match="takes gradients"):
        evaluate(potential, system)


def test_edges_may_carry_a_graph(potential):
    """The gradient with respect to positions through the caller's edges is minus the forces."""
    system = random_system([6], periodic=True)
    positions = system.positions.clone().requires_grad_(True)
    on_it = System(*(tensor.to(systems.device) for tensor in system._replace(positions=positions)))
    n = neighbor_list(on_it.positions, on_it.cell, on_it.pbc, 3.5, on_it.batch)
    potential.train()
    prediction = potential.to(systems.device)(n.edge_vec, n.edge_index, on_it.atom_types, on_it.batch, 1)
    gradient = torch.autograd.grad(prediction.energy.sum(), positions)[0]
    torch.testing.assert_close(-gradient, prediction.forces.cpu())
