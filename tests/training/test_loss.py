"""Losses against torch.distributions, dense Gaussians and plain formulas; masks; invariance."""

import dataclasses

import pytest
import torch
from e3nn.o3 import rand_matrix

from uqforce.data import Batch
from uqforce.errors import LossError
from uqforce.model import Prediction
from uqforce.training.config_sections import LossConfig
from uqforce.training.loss import block_nll, gaussian_nll, measure, total_loss

SIZES = [3, 1, 4]


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    b, n = len(SIZES), sum(SIZES)
    cell = torch.eye(3, dtype=torch.float64).repeat(b, 1, 1) * torch.tensor(
        [2.0, 3.0, 4.0], dtype=torch.float64
    )
    yes = torch.ones(b, dtype=torch.bool)
    return Batch(
        positions=torch.randn(n, 3, dtype=torch.float64),
        cell=cell,
        pbc=torch.ones(b, 3, dtype=torch.bool),
        atom_types=torch.zeros(n, dtype=torch.int64),
        batch=torch.repeat_interleave(torch.arange(b), torch.tensor(SIZES)),
        num_structures=b,
        edge_index=torch.zeros(2, 0, dtype=torch.int64),
        cell_shift=torch.zeros(0, 3, dtype=torch.int64),
        energy=torch.randn(b, dtype=torch.float64),
        forces=torch.randn(n, 3, dtype=torch.float64),
        stress=torch.randn(b, 3, 3, dtype=torch.float64),
        has_energy=yes,
        has_forces=yes,
        has_stress=yes,
    )


@pytest.fixture
def prediction(batch) -> Prediction:
    torch.manual_seed(1)
    b, n = batch.num_structures, len(batch.positions)
    empty = torch.zeros(0)
    slope = torch.randn(n, 3, dtype=torch.float64)
    return Prediction(
        energies=empty,
        edge_gradient=empty,
        features=empty,
        energy=torch.randn(b, dtype=torch.float64, requires_grad=True),
        forces=torch.randn(n, 3, dtype=torch.float64, requires_grad=True),
        virial=torch.randn(b, 3, 3, dtype=torch.float64, requires_grad=True),
        energy_uncertainty=torch.rand(b, dtype=torch.float64) + 0.1,
        forces_covariance=slope[:, :, None] * slope[:, None, :] + 0.3 * torch.eye(3, dtype=torch.float64),
    )


def config(kind: str, delta: float = 0.5) -> LossConfig:
    one = {"kind": kind, "weight": 2.0, "delta": delta}
    stress = {**one, "kind": "mse"} if kind == "likelihood" else one
    return LossConfig(energy=one, forces=one, stress=stress)


def residuals(prediction, batch):
    atoms = torch.tensor(SIZES)
    return (
        (prediction.energy - batch.energy) / atoms,
        prediction.forces - batch.forces,
        -prediction.virial / 24.0 - batch.stress,
    )


def test_mse_is_the_mean_square_of_every_property(prediction, batch):
    terms, tally = measure(prediction, batch, config("mse"))
    expected = sum(2.0 * r.square().mean() for r in residuals(prediction, batch))
    torch.testing.assert_close(total_loss(terms, tally[3], config("mse")), expected)
    assert tally[3].tolist() == [3, 24, 27]
    for column, residual in enumerate(residuals(prediction, batch)):
        torch.testing.assert_close(tally[1, column], residual.abs().sum().detach())
        torch.testing.assert_close(tally[2, column], residual.square().sum().detach())


def test_huber_equals_torch(prediction, batch):
    terms, tally = measure(prediction, batch, config("huber"))
    loss = torch.nn.HuberLoss(delta=0.5)
    expected = sum(2.0 * loss(r, torch.zeros_like(r)) for r in residuals(prediction, batch))
    torch.testing.assert_close(total_loss(terms, tally[3], config("huber")), expected)


def test_energy_likelihood_equals_torch_distributions():
    torch.manual_seed(2)
    residual, spread = torch.randn(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64) + 0.01
    expected = -torch.distributions.Normal(0.0, spread).log_prob(residual)
    torch.testing.assert_close(gaussian_nll(residual, spread**2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", [1.0, 1e-4, 1e-8])
def test_force_likelihood_equals_a_dense_gaussian(noise):
    torch.manual_seed(3)
    slope = torch.randn(20, 3, dtype=torch.float64)
    covariance = slope[:, :, None] * slope[:, None, :] + noise * torch.eye(3, dtype=torch.float64)
    residual = torch.randn(20, 3, dtype=torch.float64)
    dense = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    # two ways around a matrix of condition number 1 / noise
    torch.testing.assert_close(
        block_nll(residual, covariance), -dense.log_prob(residual), rtol=1e-14 / noise + 1e-12, atol=0
    )


def test_force_likelihood_does_not_depend_on_the_frame():
    torch.manual_seed(4)
    slope, residual = torch.randn(2, 20, 3, dtype=torch.float64)
    rotation = rand_matrix().double()
    rotation = torch.linalg.qr(rotation).Q

    def nll(residual, slope):
        covariance = slope[:, :, None] * slope[:, None, :] + 0.1 * torch.eye(3, dtype=torch.float64)
        return block_nll(residual, covariance)

    torch.testing.assert_close(
        nll(residual @ rotation.T, slope @ rotation.T), nll(residual, slope), rtol=1e-11, atol=1e-11
    )


def test_force_likelihood_has_right_gradients():
    torch.manual_seed(5)
    slope = torch.randn(4, 3, dtype=torch.float64)
    root = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def nll(residual, root):
        # a symmetric covariance whatever the perturbation
        return block_nll(residual, root @ root.mT + slope[:, :, None] * slope[:, None, :])

    assert torch.autograd.gradcheck(nll, (residual, root))


def test_likelihood_of_a_batch_is_per_structure_and_per_force_component(prediction, batch):
    terms, tally = measure(prediction, batch, config("likelihood"))
    energy = -torch.distributions.Normal(prediction.energy, prediction.energy_uncertainty).log_prob(
        batch.energy
    )
    forces = -torch.distributions.MultivariateNormal(
        prediction.forces, prediction.forces_covariance
    ).log_prob(batch.forces)
    torch.testing.assert_close(terms[0], energy.sum())
    torch.testing.assert_close(terms[1], forces.sum())
    assert tally[3].tolist() == [3, 24, 27]


@pytest.mark.parametrize("kind", ["mse", "huber", "likelihood"])
def test_missing_labels_count_nothing_and_leak_no_nan(prediction, batch, kind):
    """A batch with a masked structure measures the same as the batch without it."""
    has = torch.tensor([True, False, True])
    nan = torch.full((), torch.nan, dtype=torch.float64)
    masked = batch._replace(
        has_energy=has,
        has_forces=has,
        has_stress=has,
        energy=torch.where(has, batch.energy, nan),
        forces=torch.where(has[batch.batch][:, None], batch.forces, nan),
        stress=torch.where(has[:, None, None], batch.stress, nan),
    )
    terms, tally = measure(prediction, masked, config(kind))
    atoms = has[batch.batch]
    kept_batch = batch._replace(
        batch=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        num_structures=2,
        cell=batch.cell[has],
        energy=batch.energy[has],
        forces=batch.forces[atoms],
        stress=batch.stress[has],
        has_energy=has[has],
        has_forces=has[has],
        has_stress=has[has],
    )
    kept_prediction = dataclasses.replace(
        prediction,
        energy=prediction.energy[has],
        forces=prediction.forces[atoms],
        virial=prediction.virial[has],
        energy_uncertainty=prediction.energy_uncertainty[has],
        forces_covariance=prediction.forces_covariance[atoms],
    )
    kept_terms, kept_tally = measure(kept_prediction, kept_batch, config(kind))
    torch.testing.assert_close(terms, kept_terms, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(tally, kept_tally, rtol=1e-13, atol=1e-13)
    total_loss(terms, tally[3], config(kind)).backward()
    for value in (prediction.energy, prediction.forces, prediction.virial):
        assert torch.isfinite(value.grad).all()
        assert value.grad.abs().sum() > 0


def test_structures_without_a_cell_need_no_stress(prediction, batch):
    no = torch.zeros(3, dtype=torch.bool)
    molecule = batch._replace(cell=torch.zeros_like(batch.cell), has_stress=no)
    terms, tally = measure(prediction, molecule, config("mse"))
    assert terms[2] == 0
    assert tally[3, 2] == 0
    assert torch.isfinite(total_loss(terms, tally[3], config("mse")))


def test_likelihood_without_noise_says_what_to_do(prediction, batch):
    without = dataclasses.replace(prediction, energy_uncertainty=None, forces_covariance=None)
    with pytest.raises(LossError, match=r"loss\.energy asks.*model\.noise.*loss\.energy\.kind"):
        measure(without, batch, config("likelihood"))


def dense(batch, prediction, gamma_squared_s, slope, b, project):
    """Covariance of energy and all forces of structure b, [1 + 3n, 1 + 3n], with a basis of what may vary."""
    atoms = batch.batch == b
    n, sigma, g = int(atoms.sum()), prediction.energy_uncertainty[b], slope[atoms].flatten()
    own = torch.eye(3 * n, dtype=torch.float64)
    if project:
        own -= torch.ones(n, n, dtype=torch.float64).kron(torch.eye(3, dtype=torch.float64)) / n
    covariance = torch.zeros(1 + 3 * n, 1 + 3 * n, dtype=torch.float64)
    covariance[0, 0] = sigma**2
    covariance[1:, 0] = covariance[0, 1:] = -sigma * g
    covariance[1:, 1:] = g[:, None] * g + gamma_squared_s[b] * own
    basis = torch.eye(1 + 3 * n, dtype=torch.float64)
    if project:  # the forces that sum to zero
        values, vectors = torch.linalg.eigh(own)
        basis = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), vectors[:, values > 0.5])
    return covariance, basis


@pytest.fixture
def coherent(batch, prediction):
    """A prediction with the covariances of noise `total`, for every structure, with or without net force."""

    def make(project: bool):
        torch.manual_seed(6)
        atoms = torch.tensor(SIZES, dtype=torch.float64)[batch.batch]
        slope = torch.randn(sum(SIZES), 3, dtype=torch.float64)
        if project:  # an invariant variance has no net slope, and the labels no net force
            for b in range(len(SIZES)):
                slope[batch.batch == b] -= slope[batch.batch == b].mean(0)
        noise = torch.tensor([0.3, 0.7, 1.9], dtype=torch.float64)
        own = noise[batch.batch] * (1 - 1 / atoms if project else 1)
        return (
            dataclasses.replace(
                prediction,
                forces_covariance=slope[:, :, None] * slope[:, None, :]
                + own[:, None, None] * torch.eye(3, dtype=torch.float64),
                energy_forces_covariance=-prediction.energy_uncertainty[batch.batch, None] * slope,
            ),
            noise,
            slope,
        )

    return make


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("labels", ["both", "no energy", "no forces"])
def test_joint_likelihood_is_the_dense_gaussian(batch, coherent, project, labels):
    """p(E) p(F | E) of all structures, O(N), against a Gaussian of 1 + 3N dimensions to 1e-10."""
    prediction, noise, slope = coherent(project)
    has = torch.tensor([True, False, True])
    if labels == "no energy":
        batch = batch._replace(has_energy=has, energy=torch.where(has, batch.energy, torch.nan))
    if labels == "no forces":
        forces = torch.where(has[batch.batch, None], batch.forces, torch.nan)
        batch = batch._replace(has_forces=has, forces=forces)
    settings = {"kind": "likelihood"}
    joint = LossConfig(energy=settings, forces=settings, stress={"weight": 0.0}, joint=True)
    terms, tally = measure(prediction, batch, joint, project)
    want = 0.0
    for b in range(len(SIZES)):
        atoms = batch.batch == b
        covariance, basis = dense(batch, prediction, noise, slope, b, project)
        residual = torch.cat(
            [
                (prediction.energy - batch.energy)[b : b + 1],
                (prediction.forces - batch.forces)[atoms].flatten(),
            ]
        )
        rows = torch.ones(len(residual), dtype=torch.bool)
        rows[0], rows[1:] = batch.has_energy[b], batch.has_forces[b]
        basis = basis[:, basis[rows].abs().sum(0) > 0] * rows[:, None]
        if basis.shape[1]:
            density = torch.distributions.MultivariateNormal(
                torch.zeros(basis.shape[1], dtype=torch.float64), basis.T @ covariance @ basis
            )
            want = want - density.log_prob(basis.T @ torch.where(rows, residual, 0.0))
    torch.testing.assert_close(terms[:2].sum(), want, rtol=1e-10, atol=1e-10)
    loss = total_loss(terms, tally[3], joint)
    torch.testing.assert_close(loss, terms[:2].sum() / (tally[3, 0] + tally[3, 1]) * 1.0)
    loss.backward()
    assert torch.isfinite(prediction.forces.grad).all() and prediction.forces.grad.abs().sum() > 0


def test_marginal_likelihood_is_that_of_the_components(prediction, batch):
    kinds = LossConfig(energy={"kind": "marginal"}, forces={"kind": "marginal"})
    terms, _ = measure(prediction, batch, kinds)
    deviation = prediction.forces_covariance.diagonal(dim1=1, dim2=2).sqrt()
    forces = -torch.distributions.Normal(prediction.forces, deviation).log_prob(batch.forces).sum()
    torch.testing.assert_close(terms[1], forces)
    torch.testing.assert_close(terms[0], measure(prediction, batch, config("likelihood")).terms[0])


def test_stress_likelihood_is_that_of_six_components(prediction, batch):
    torch.manual_seed(7)
    root = torch.randn(3, 6, 6, dtype=torch.float64)
    covariance = root @ root.mT + torch.eye(6, dtype=torch.float64)
    prediction = dataclasses.replace(prediction, virial_covariance=covariance)
    stress = LossConfig(stress={"kind": "likelihood", "weight": 1.0})
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    symmetric = lambda m: (0.5 * (m + m.mT))[:, rows, columns]  # noqa: E731
    density = torch.distributions.MultivariateNormal(symmetric(-prediction.virial / 24), covariance / 24**2)
    want = -density.log_prob(symmetric(batch.stress)).sum()
    torch.testing.assert_close(measure(prediction, batch, stress).terms[2], want, rtol=1e-10, atol=1e-10)
