"""Last-layer rigidity against linear regression on the same features, and in every form of a model."""

import numpy as np
import pytest
import torch

from uqforce import ops
from uqforce.data import Dataset, Frame, collate
from uqforce.model import Graph, InferencePotential, load_model, save_model
from uqforce.uncertainty.llpr_fit import fit_rigidity, jacobian


@pytest.fixture
def dataset(make_potential):
    rng, found = np.random.default_rng(0), []
    for atoms in (5, 6, 7, 8, 6, 7):
        grid = np.stack(np.meshgrid(*[range(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms]
        positions = 1.5 * grid + 0.4 * rng.random((atoms, 3))
        found.append(
            Frame(np.resize([1, 6, 8], atoms), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool),
                  energy=rng.normal(), forces=rng.normal(size=(atoms, 3)))
        )  # fmt: skip
    config = make_potential().config
    return Dataset.build(found, config.type_names, config.r_max)


def everything(dataset):
    b = collate([dataset[i] for i in range(len(dataset))])
    return b, ops.edge_vectors(b.positions, b.cell, b.edge_index, b.cell_shift, b.batch)


def test_jacobian_is_the_change_with_the_weights(make_potential, dataset):
    potential = make_potential(per_type_energy_scales={"H": 0.5, "C": 1.0, "O": 2.0})
    b, edge_vec = everything(dataset)
    j = jacobian(potential, b)
    out = potential(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures)
    torch.testing.assert_close(j.energy_error, b.energy - out.energy)
    torch.testing.assert_close(j.forces_error, b.forces - out.forces)
    last = potential.network.readout.last
    step = torch.randn(last.weight.shape, dtype=torch.float64, generator=torch.manual_seed(1)) * 1e-3
    with torch.no_grad():
        last.weight += step
    moved = potential(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures)
    direction = step.flatten() * last.alpha  # the map is linear: no error of higher order
    torch.testing.assert_close(moved.energy - out.energy, j.energy @ direction, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved.forces - out.forces, j.forces @ direction, rtol=1e-9, atol=1e-12)


def test_rigidity_is_the_variance_of_a_linear_fit(make_potential, dataset):
    """Energies of weights drawn from the posterior of the last layer spread as the rigidity says."""
    potential = make_potential()
    b, edge_vec = everything(dataset)
    fit = fit_rigidity(potential, dataset, regulariser=1e-4)
    j = jacobian(potential, b)
    rows = torch.cat([j.energy / fit.energy_rmse, j.forces.flatten(0, 1) / fit.forces_rmse])
    hessian = rows.T @ rows
    prior = 1e-4 * torch.linalg.eigvalsh(hessian)[-1] * torch.eye(8, dtype=torch.float64)
    covariance = torch.linalg.inv(hessian + prior)
    torch.testing.assert_close(fit.factor @ fit.factor.T, covariance, rtol=1e-8, atol=1e-12)
    out = potential(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures)
    torch.testing.assert_close(
        out.energy_llpr.square(), torch.einsum("bi,ij,bj->b", j.energy, covariance, j.energy)
    )
    torch.testing.assert_close(
        out.llpr.square(), torch.einsum("ni,ij,nj->n", out.features, covariance, out.features)
    )
    assert potential.card["llpr"]["energy_rmse"] == pytest.approx(fit.energy_rmse)
    assert fit.energy_rmse == pytest.approx(j.energy_error.square().mean().sqrt().item())


def test_what_the_training_set_has_not_is_less_rigid(make_potential, dataset):
    potential = make_potential()
    fit_rigidity(potential, dataset)
    b, edge_vec = everything(dataset)
    known = potential(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures).llpr
    squeezed = potential(0.8 * edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures).llpr
    assert (squeezed / known).log().mean() > np.log(1.3)


def test_every_form_of_a_model_carries_it(make_potential, dataset, tmp_path):
    potential = make_potential()
    fit_rigidity(potential, dataset)
    b, edge_vec = everything(dataset)
    arguments = edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures
    want = potential(*arguments)
    save_model(potential, tmp_path / "model.uqf")
    forms = {
        "file": load_model(tmp_path / "model.uqf"),
        "inference": InferencePotential(potential),
        "script": torch.jit.script(potential),
    }
    for name, form in forms.items():
        got = form.forward(Graph(*arguments))
        for field in ("llpr", "energy_llpr"):
            torch.testing.assert_close(
                got[field], getattr(want, field), rtol=1e-6, atol=1e-9, msg=f"{name} {field}"
            )
    assert potential.train()(*arguments).llpr is None


def test_bad_input(make_potential, dataset):
    with pytest.raises(ValueError, match="regulariser"):
        fit_rigidity(make_potential(), dataset, regulariser=0.0)
