"""Noise: covariances against Jacobians and finite differences, symmetries, sizes, probes, training."""

import math

import pytest
import torch

from tests.model.exact_noise import colours, exact_blocks
from tests.model.systems import CUTOFF, System, evaluate, make_potential, random_system
from tests.model.test_potential import central_difference
from uqforce.model import Graph, InferencePotential
from uqforce.model.noise.deep import numbers_in_structure, signs
from uqforce.ops import neighbor_list
from uqforce.training.loss import block_nll

DOUBLE = torch.float64
SMALL = {"num_layers": 2, "l_max": 1, "num_features": [6, 4], "parity": False}
COHERENT = ["total", "local", "local-deep"]
FORMS = [*COHERENT, "white"]


def noisy(noise: str, **fields):
    """A potential whose standard deviations differ between types and gammas from one."""
    potential = make_potential(noise=noise, **{**SMALL, **fields})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in potential.noise.named_parameters():
            if "gamma" in name or "shift" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE) * 0.4 - 0.5)
            elif name.startswith("head"):
                parameter *= 2.0  # so that slopes matter beside gamma
    return potential


def small_cell() -> System:
    """A cell below the cutoff: several images of a pair, atoms that see themselves."""
    system = random_system([4], periodic=True, seed=3)
    neighbors = neighbor_list(system.positions, system.cell, system.pbc, CUTOFF, system.batch)
    centre, neighbour = neighbors.edge_index
    assert (centre == neighbour).any() and ((centre * 4 + neighbour).bincount() > 1).any()
    return system


CASES = {"cluster": random_system([7], periodic=False), "cell below the cutoff": small_cell()}


@pytest.fixture(params=CASES)
def system(request) -> System:
    return CASES[request.param]


def sigmas_of(potential, system, frozen: torch.Tensor | None = None):
    """positions, strain -> the noise's standard deviations [N or B], last features as given if `frozen`."""

    def function(positions, strain):
        n = neighbor_list(system.positions, system.cell, system.pbc, CUTOFF, system.batch)
        shift = n.cell_shift.to(DOUBLE) @ system.cell[0]
        vec = positions[n.edge_index[1]] + shift - positions[n.edge_index[0]]
        vec = vec @ (torch.eye(3, dtype=DOUBLE) + 0.5 * (strain + strain.T))
        graph = Graph(vec, n.edge_index, system.atom_types, system.batch, 1)
        edges = potential.network.embed(graph)
        features = potential.network.features(edges, graph)
        features = features if frozen is None else frozen
        terms = potential.noise(features, edges, graph)
        return terms.sigmas[0]

    return function


def jacobians(potential, system):
    """The prediction, the sigmas [J], and their Jacobians by positions [J,N,3] and by strain [J,6]."""
    prediction = evaluate(potential, system)
    frozen = prediction.features if potential.config.noise == "local" else None
    function = sigmas_of(potential, system, frozen)
    at = (system.positions, torch.zeros(3, 3, dtype=DOUBLE))
    by_position, by_strain = torch.autograd.functional.jacobian(function, at)
    strain = by_strain[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return prediction, function(*at).detach(), by_position, strain


def own_noise(potential, system, sigmas):
    """gamma^2 s of every atom."""
    if potential.config.noise == "total":
        return torch.exp(2 * potential.noise.gamma.log_gamma[0]) * sigmas.square().expand(
            len(system.positions)
        )
    return torch.exp(2 * potential.noise.process.log_gamma[0, system.atom_types]) * sigmas.square()


@pytest.mark.parametrize("noise", ["total", "local"])
def test_covariances_are_those_of_the_full_jacobian(noise, system):
    """Sigma_ii = sum_j d_i sigma_j d_i sigma_j^T + gamma^2 s I of all Jacobians, to 1e-10, in any cell."""
    potential = noisy(noise)
    prediction, sigmas, by_position, by_strain = jacobians(potential, system)
    own = own_noise(potential, system, sigmas)
    structure = torch.einsum("jia,jib->iab", by_position, by_position)
    assert structure.abs().max() > 0.02 * own.max()
    block = structure + own[:, None, None] * torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(prediction.forces_covariance, block, rtol=1e-10, atol=1e-12)
    with_energy = -torch.einsum("j,jia->ia", sigmas, by_position)
    torch.testing.assert_close(prediction.energy_forces_covariance, with_energy, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(prediction.energy_uncertainty, sigmas.square().sum().sqrt()[None])
    process = potential.noise if noise == "total" else potential.noise.process
    strain = torch.exp(2 * process.log_gamma_strain) * sigmas.square().sum()
    half = torch.tensor([1, 1, 1, 0.5, 0.5, 0.5], dtype=DOUBLE)
    virial = torch.einsum("ji,jk->ik", by_strain, by_strain) + torch.diag(strain * half)
    torch.testing.assert_close(prediction.virial_covariance[0], virial, rtol=1e-10, atol=1e-12)


def test_probes_are_within_their_stated_error(system):
    """A probe's variance of a diagonal entry is 2 [(sum_j J_j^2)^2 - sum_j J_j^4]: at most 2 (entry)^2."""
    probes = 400
    potential = noisy("local-deep", noise_probes=probes)
    prediction, sigmas, by_position, by_strain = jacobians(potential, system)
    own = own_noise(potential, system, sigmas)[:, None]
    exact = by_position.square().sum(0)
    spread = (2 * (exact.square() - by_position.pow(4).sum(0)) / probes).clamp(min=0).sqrt()
    assert (spread <= math.sqrt(2 / probes) * exact).all() and spread.max() > 0
    found = prediction.forces_covariance.diagonal(dim1=1, dim2=2) - own
    assert ((found - exact).abs() <= 4 * spread + 1e-12).all()  # of dozens of entries
    assert ((found - exact).abs() <= spread + 1e-12).double().mean() > 0.5
    with_energy = -torch.einsum("j,jia->ia", sigmas, by_position)
    torch.testing.assert_close(prediction.energy_forces_covariance, with_energy, rtol=1e-10, atol=1e-12)
    strain = torch.exp(2 * potential.noise.process.log_gamma_strain) * sigmas.square().sum()
    virial = by_strain.square().sum(0) + strain * torch.tensor([1, 1, 1, 0.5, 0.5, 0.5], dtype=DOUBLE)
    torch.testing.assert_close(prediction.virial_covariance[0].diagonal(), virial, rtol=0.3, atol=0)


def test_colouring_is_exact():
    """In a chain longer than the network's reach, with far fewer passes than atoms."""
    potential = noisy("local-deep")
    chain = random_system([24], periodic=False)
    along = 2.5 * torch.arange(24, dtype=DOUBLE)[:, None] * torch.tensor([1.0, 0, 0], dtype=DOUBLE)
    chain = chain._replace(positions=along + 0.02 * chain.positions)
    n = neighbor_list(chain.positions, chain.cell, chain.pbc, CUTOFF, chain.batch)
    colour = colours(n.edge_index, 24, 2 * potential.config.num_layers)
    assert colour.max() + 1 == 5
    blocks = exact_blocks(potential, Graph(n.edge_vec, n.edge_index, chain.atom_types, chain.batch, 1))
    by_position = jacobians(potential, chain)[2]
    want = torch.einsum("jia,jib->iab", by_position, by_position)
    torch.testing.assert_close(blocks, want, rtol=1e-10, atol=1e-14)


def test_signs_are_fair_and_follow_the_atoms_numbers():
    z = signs(torch.arange(10_000), 6)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert (z @ z.T / 10_000 - torch.eye(6, dtype=DOUBLE)).abs().max() < 0.04  # 4 standard deviations
    assert (z[:, :-1] * z[:, 1:]).mean(1).abs().max() < 0.04
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(signs(order, 6), z[:, order])
    assert numbers_in_structure(torch.tensor([0, 0, 2, 2, 2]), 3).tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("noise", FORMS)
@pytest.mark.parametrize("reflect", [1, -1])
def test_rotations(noise, reflect):
    """Covariances turn as matrices; the virial's as one of Voigt vectors."""
    potential, system = noisy(noise), random_system([8, 6], periodic=True)
    turn = (
        torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0] * reflect
    )
    moved = system._replace(positions=system.positions @ turn.T, cell=system.cell @ turn.T)
    before, after = evaluate(potential, system), evaluate(potential, moved)
    close = {"rtol": 1e-9, "atol": 1e-10}
    for name in ("energy_uncertainty", "forces_uncertainty", "energies_variance"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), **close)
    torch.testing.assert_close(after.forces_covariance, turn @ before.forces_covariance @ turn.T, **close)
    if noise == "white":
        assert before.virial_covariance is None and before.energy_forces_covariance is None
        return
    torch.testing.assert_close(
        after.energy_forces_covariance, before.energy_forces_covariance @ turn.T, **close
    )
    # W' = R W R^T of symmetric W, on Voigt vectors
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    basis = torch.zeros(6, 3, 3, dtype=DOUBLE)
    basis[range(6), rows, columns] = basis[range(6), columns, rows] = 1.0
    voigt = (turn @ basis @ turn.T)[:, rows, columns].T
    torch.testing.assert_close(after.virial_covariance, voigt @ before.virial_covariance @ voigt.T, **close)


@pytest.mark.parametrize("noise", COHERENT)
def test_size_consistency(noise):
    """Two far copies give each copy's own value and a supercell the cell's, of `local`; not of `total`."""
    potential = noisy(noise)
    one = random_system([6], periodic=False)
    both = one._replace(
        positions=torch.cat([one.positions, one.positions + 100.0]),
        atom_types=one.atom_types.repeat(2),
        batch=torch.zeros(12, dtype=torch.int64),
    )
    alone, twice = evaluate(potential, one), evaluate(potential, both)
    cell = random_system([30], periodic=True)  # twice the cutoff: no pair meets through two images
    assert torch.linalg.det(cell.cell) ** (1 / 3) > 2 * CUTOFF
    supercell = cell._replace(
        positions=torch.cat([cell.positions, cell.positions + cell.cell[0, 0]]),
        cell=cell.cell * torch.tensor([2.0, 1, 1], dtype=DOUBLE)[:, None],
        atom_types=cell.atom_types.repeat(2),
        batch=torch.zeros(60, dtype=torch.int64),
    )
    unit, whole = evaluate(potential, cell), evaluate(potential, supercell)
    if noise == "total":
        assert (twice.forces_uncertainty[:6] > 1.05 * alone.forces_uncertainty).all()
        assert (whole.forces_uncertainty[:30] > 1.2 * unit.forces_uncertainty).all()
    elif noise == "local":
        torch.testing.assert_close(
            twice.forces_covariance, alone.forces_covariance.repeat(2, 1, 1), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(
            whole.forces_covariance, unit.forces_covariance.repeat(2, 1, 1), rtol=1e-10, atol=1e-12
        )
    if noise != "total":  # of probes only what they do not estimate
        torch.testing.assert_close(
            whole.energies_variance, unit.energies_variance.repeat(2), rtol=1e-10, atol=0
        )
        torch.testing.assert_close(
            twice.energy_forces_covariance, alone.energy_forces_covariance.repeat(2, 1)
        )
    torch.testing.assert_close(whole.energy_uncertainty, math.sqrt(2) * unit.energy_uncertainty)


@pytest.mark.parametrize("noise", COHERENT)
def test_no_slope_leaves_the_own_noise(noise):
    potential = noisy(noise)
    with torch.no_grad():
        potential.noise.head.last.weight.zero_()
    system = random_system([7], periodic=True)
    prediction, sigmas, _, _ = jacobians(potential, system)
    own = own_noise(potential, system, sigmas)
    torch.testing.assert_close(prediction.forces_covariance, own[:, None, None] * torch.eye(3, dtype=DOUBLE))


@pytest.mark.parametrize("noise", ["total", "local", "white"])
def test_trained_through_the_blocks(noise):
    """The gradient of the force likelihood by every parameter of the noise, by finite differences."""
    potential, system = noisy(noise).train(), random_system([6, 4], periodic=True)
    residual = torch.randn(10, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)

    def loss():
        return block_nll(residual, evaluate(potential, system).forces_covariance).sum()

    for name, parameter in potential.noise.named_parameters():
        potential.zero_grad()
        loss().backward()
        if parameter.grad is None or "of_energy" in name or "strain" in name:
            assert name in ("log_gamma_strain", "process.log_gamma_strain") or "of_energy" in name, name
            continue
        largest = int(parameter.grad.abs().argmax())
        value = parameter.detach().clone()

        def at(moved, parameter=parameter):
            parameter.data.copy_(moved.view_as(parameter))
            return loss()

        expected = central_difference(at, value.flatten(), (largest,))
        parameter.data.copy_(value)
        found = float(parameter.grad.flatten()[largest])
        assert abs(found) > 1e-8 and found == pytest.approx(expected, rel=1e-6), name


def test_deep_says_nothing_of_forces_in_training():
    prediction = evaluate(noisy("local-deep").train(), random_system([6], periodic=True))
    assert prediction.forces_covariance is None and prediction.energy_uncertainty.requires_grad


def test_gamma_kinds():
    system = random_system([6, 3], periodic=True)
    constant = make_potential(noise="local", gamma=2.5, gamma_kind="constant", **SMALL)
    assert not constant.noise.process.log_gamma.requires_grad
    assert constant.noise.process.log_gamma.exp()[0].tolist() == pytest.approx([2.5] * 3)
    start = make_potential(noise="total", gamma=2.5, **SMALL)
    assert start.noise.gamma.log_gamma.requires_grad
    output = make_potential(noise="total", gamma_kind="output", **SMALL)
    torch.nn.init.normal_(output.noise.gamma.head.shift)
    own = []
    for b in (0, 1):  # an invariant of the structure: alone or in a batch
        atoms = system.batch == b
        alone = System(
            system.positions[atoms],
            system.cell[b : b + 1],
            system.pbc[b : b + 1],
            system.atom_types[atoms],
            torch.zeros(int(atoms.sum()), dtype=torch.int64),
        )
        own.append(evaluate(output, alone).forces_covariance)
    torch.testing.assert_close(torch.cat(own), evaluate(output, system).forces_covariance)


def test_projection_takes_the_net_force_out():
    """The own noise of the atoms' forces is gamma^2 s (1 - 1/N) without that of their sum."""
    system = random_system([6, 3, 1], periodic=False)
    whole = evaluate(make_potential(noise="total", **SMALL), system)
    without = evaluate(make_potential(noise="total", project_net_force=True, **SMALL), system)
    share = (
        torch.tensor([1 / 6] * 6 + [1 / 3] * 3 + [1.0], dtype=DOUBLE)
        * whole.energy_uncertainty[system.batch] ** 2
    )
    lost = whole.forces_covariance - without.forces_covariance
    torch.testing.assert_close(
        lost, share[:, None, None] * torch.eye(3, dtype=DOUBLE), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("combine", ["mean", "sum", "rss"])
def test_white_energies(combine):
    system = random_system([6, 3], periodic=True)
    potential = noisy("white", white_energy=combine)
    prediction = evaluate(potential, system)
    e = potential.noise.of_energy(prediction.features, system.atom_types)[0].exp()
    for b, size in enumerate((6, 3)):
        mine = e[system.batch == b]
        want = {"mean": mine.sum() / size, "sum": mine.sum(), "rss": mine.square().sum().sqrt()}[combine]
        torch.testing.assert_close(prediction.energy_uncertainty[b], want)


@pytest.mark.parametrize("noise", FORMS)
@pytest.mark.parametrize(
    "fields", [{}, {"gamma_kind": "output"}, {"project_net_force": True}, {"dtype": "float32"}]
)
def test_inference_form_equals_the_training_form(noise, fields):
    if noise != "total" and not fields.keys() <= {"dtype"}:
        pytest.skip("of `total` alone")
    potential = noisy(noise, **fields)
    system = random_system([7, 0, 1, 12], periodic=True)
    inference = InferencePotential(potential)
    want, got = evaluate(potential, system), evaluate(inference, system)
    scripted = evaluate(torch.jit.freeze(torch.jit.script(inference)), system)
    bound = 1e-8 if potential.config.dtype == "float64" else 2e-4
    assert got.as_dict().keys() == want.as_dict().keys()
    for name, value in want.as_dict().items():
        found = getattr(got, name)
        assert found.shape == value.shape and found.dtype == value.dtype, name
        if value.numel():
            assert (found - value).abs().max() <= bound * max(1.0, float(value.abs().max())), name
        assert torch.equal(getattr(scripted, name), found), name
