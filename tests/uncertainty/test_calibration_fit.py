"""Fitted calibrations against known relations, and what a calibrated model then says."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.stats import norm

from uqforce import ops
from uqforce.cli import main
from uqforce.data import Dataset, Frame
from uqforce.errors import CalibrationError
from uqforce.evaluation import metrics
from uqforce.model import (
    Ensemble,
    Graph,
    InferencePotential,
    Prediction,
    inference_form,
    load_model,
    save_model,
)
from uqforce.model.calibration import Calibration, ratio
from uqforce.uncertainty import calibration_fit
from uqforce.uncertainty.calibration_fit import (
    ATOMS_PER_GROUP,
    fit_calibration,
    fit_map,
    fit_origin,
    residuals,
    score_at_error,
)


def test_known_relation_is_found():
    """error = normal * exp(score): the rms error reaches `level` at score ln(level)."""
    rng = np.random.default_rng(0)
    score = rng.uniform(-4, 0, size=20000)
    error = np.abs(rng.normal(size=20000)) * np.exp(score)
    for level in (0.05, 0.2, 0.5):
        assert score_at_error(score, error, level) == pytest.approx(np.log(level), abs=0.15)


def test_limit_rises_with_the_level():
    rng = np.random.default_rng(1)
    score = rng.normal(size=2000)
    error = np.abs(rng.normal(size=2000)) * (1 + score**2)
    limits = [score_at_error(score, error, level) for level in (1.0, 1.5, 2.0)]
    assert limits == sorted(limits)


def test_one_outlier_does_not_set_the_limit():
    score = np.linspace(0, 1, 100 * ATOMS_PER_GROUP)
    error = np.full_like(score, 0.1)
    error[7] = 0.5
    assert np.isnan(score_at_error(score, error, 0.2))


def test_order_does_not_matter():
    rng = np.random.default_rng(2)
    score = rng.normal(size=500)
    error = np.exp(score) * rng.uniform(0.5, 1.5, size=500)
    order = rng.permutation(500)
    assert score_at_error(score, error, 1.0) == score_at_error(score[order], error[order], 1.0)


def test_never_reached_and_bad_input():
    assert np.isnan(score_at_error([1.0, 2.0], [0.1, 0.1], 0.5))
    with pytest.raises(ValueError, match="shapes"):
        score_at_error([1.0], [1.0, 2.0], 0.5)
    with pytest.raises(ValueError, match="finite"):
        score_at_error([np.inf], [1.0], 0.5)


# Maps.


@pytest.fixture
def sample():
    """Structures of 20 atoms; errors have three times the std to the power 3/2."""
    rng = np.random.default_rng(3)
    std = 0.01 * 10 ** rng.uniform(size=4000)
    error = 30 * std**1.5
    return std, error[:, None] * rng.normal(size=(4000, 3)), np.repeat(np.arange(200), 20)


def apply(knots, std):
    std = torch.from_numpy(np.asarray(std))
    return (std * ratio(torch.from_numpy(knots), std)).numpy()


def test_scale_makes_mean_square_z_one(sample):
    std, residual, structure = sample
    found = apply(fit_map(std, residual, structure, "scale"), std)
    assert metrics.zms(residual.ravel(), np.repeat(found, 3)) == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(found / std, found[0] / std[0])
    for other in (0.97, 1.03):  # the factor of greatest likelihood
        assert metrics.gaussian_nll(residual.ravel(), np.repeat(other * found, 3)) > metrics.gaussian_nll(
            residual.ravel(), np.repeat(found, 3)
        )


def test_isotonic_finds_a_monotone_relation(sample):
    std, residual, structure = sample
    knots = fit_map(std, residual, structure, "isotonic")
    found = apply(knots, std)
    np.testing.assert_allclose(found, 30 * std**1.5, rtol=0.25)
    assert (np.diff(found[np.argsort(std)]) >= -1e-15).all()
    assert metrics.ence(residual.ravel(), np.repeat(found, 3)) < 0.08
    scale = apply(fit_map(std, residual, structure, "scale"), std)
    assert metrics.ence(residual.ravel(), np.repeat(scale, 3)) > 0.2
    # beyond the data in proportion, so that what is far away is not called certain
    np.testing.assert_allclose(
        apply(knots, [10.0, 20.0]), 10 * np.array([1, 2]) * knots[1, -1] / knots[0, -1]
    )


def test_conformal_covers_new_structures(sample):
    rng = np.random.default_rng(4)
    std, _, structure = sample
    own = np.exp(0.5 * rng.normal(size=200))[structure, None]  # errors of a structure go together
    residual = own * std[:, None] * rng.standard_t(4, size=(4000, 3))
    knots = fit_map(std[:2000], residual[:2000], structure[:2000], "conformal", 0.9)
    half = norm.ppf(0.95) * apply(knots, std[2000:])[:, None]
    assert np.mean(np.abs(residual[2000:]) <= half) == pytest.approx(0.9, abs=0.03)
    with pytest.raises(CalibrationError, match="takes 99"):
        fit_map(std[:100], residual[:100], structure[:100], "conformal", 0.99)


def test_map_of_one_and_many_knots_by_hand():
    one = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(x * ratio(one, x), 1.5 * x)
    knots = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 6.0]])
    np.testing.assert_allclose(apply(knots, [0.5, 1.0, 1.5, 3.0, 4.0, 8.0]), [1.0, 2.0, 2.0, 4.0, 6.0, 12.0])


def test_origin_of_a_score_is_recovered():
    """Squared distances in 6 dimensions, half of them the score, less a constant."""
    rng = np.random.default_rng(5)
    half = 0.5 * rng.chisquare(6, size=20000)
    residual = 0.1 * np.sqrt(half)[:, None] * rng.normal(size=(20000, 3))
    assert fit_origin(half - 70, residual) == pytest.approx(-70, abs=0.1)
    with pytest.raises(CalibrationError, match="same"):
        fit_origin(np.ones(5), np.ones(5))


@pytest.mark.parametrize("name", ["sideways", "energy"])
def test_bad_maps_are_refused(name):
    with pytest.raises(ValueError, match="map"):
        Calibration().store(**{name: torch.tensor([[1.0, 1.0], [1.0, 2.0]])})


def test_bad_fits_are_refused(sample):
    std, residual, structure = sample
    with pytest.raises(CalibrationError, match="kind"):
        fit_map(std, residual, structure, "platt")
    with pytest.raises(CalibrationError, match="zero"):
        fit_map(std, 0 * residual, structure)


# Models.


def frames(potential, errors, seed=0):
    """Molecules of 8 and 12 atoms, labelled by the model plus `errors(rng, prediction)`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(30):
        atoms = 8 + 4 * (number % 2)
        grid = np.stack(np.meshgrid(range(2), range(2), range(3), indexing="ij"), -1).reshape(-1, 3)[:atoms]
        positions = 1.5 * grid + 0.3 * rng.random((atoms, 3))
        numbers, cell, pbc = np.resize([1, 6, 8], atoms), np.zeros((3, 3)), np.zeros(3, dtype=bool)
        blank = Frame(numbers, positions, cell, pbc, energy=0.0, forces=np.zeros((atoms, 3)))
        dataset = Dataset.build([blank], potential.config.type_names, potential.config.r_max)
        at = residuals(potential, dataset)
        energy, forces = errors(rng, at.predicted)
        found.append(
            Frame(numbers, positions, cell, pbc, energy=energy - at.energy[0], forces=forces - at.forces)
        )
    return found


def build(potential, errors):
    return Dataset.build(frames(potential, errors), potential.config.type_names, potential.config.r_max)


def three_times(rng, predicted):
    """Errors of three (energy: half) the size that the model says."""
    std = predicted["forces_uncertainty"]
    return (
        0.5 * predicted["energy_uncertainty"][0] * rng.normal(),
        3 * std[:, None] * rng.normal(size=(len(std), 3)),
    )


@pytest.mark.parametrize("kind", calibration_fit.KINDS)
def test_a_calibrated_model_says_the_errors_that_it_makes(make_potential, kind, tmp_path):
    potential = make_potential()
    dataset = build(potential, three_times)
    before = residuals(potential, dataset)
    card = fit_calibration(potential, dataset, kind, level=0.8)
    after = residuals(potential, dataset)
    ratios = after.predicted["forces_uncertainty"] / before.predicted["forces_uncertainty"]
    assert np.median(ratios) == pytest.approx(3, rel=0.25)
    energy = after.predicted["energy_uncertainty"] / before.predicted["energy_uncertainty"]
    assert np.median(energy) == pytest.approx(0.5, rel=0.35)
    assert card["forces"]["rms_z"] == pytest.approx(3, rel=0.1) and card["score"] == "nll"
    error = np.sqrt(np.mean(after.forces**2, axis=1))
    assert np.sqrt(np.mean(after.predicted["forces_error"] ** 2)) == pytest.approx(
        np.sqrt(np.mean(error**2)), rel=0.3
    )
    save_model(potential, tmp_path / "model.uqf")
    loaded = load_model(tmp_path / "model.uqf")
    again = residuals(loaded, dataset)
    for name, values in after.predicted.items():
        np.testing.assert_array_equal(again.predicted[name], values)
    assert loaded.card["calibration"] == card
    # fitted anew on the raw uncertainties, not on the calibrated ones
    assert fit_calibration(loaded, dataset, kind, level=0.8) == card


def evaluated(potential, frame_list):
    b = Dataset.build(frame_list, ["H", "C", "O"], 3.5)[0]
    edge_vec = ops.edge_vectors(b.positions, b.cell, b.edge_index, b.cell_shift, b.batch)
    graph = Graph(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures)
    return Prediction(**potential.forward(graph))


def test_everything_that_goes_with_an_uncertainty_follows(make_potential):
    potential = make_potential()
    chosen = frames(potential, three_times)[:1]
    raw = evaluated(potential, chosen)
    potential.calibration.store(
        energy=torch.tensor([[1.0], [2.0]]), forces=torch.tensor([[1.0], [3.0]]),
        error=torch.tensor([[1.0], [1.0]]), origin=raw.nll.min() - 1.0,
    )  # fmt: skip
    got = evaluated(potential, chosen)
    factors = {
        "energy_uncertainty": 2, "energy_uncertainty_aleatoric": 2, "energies_variance": 4,
        "forces_uncertainty": 3, "forces_uncertainty_aleatoric": 3, "forces_covariance": 9,
        "energy_forces_covariance": 6, "virial_covariance": 9, "energy": 1, "forces": 1, "nll": 1,
    }  # fmt: skip
    for name, factor in factors.items():
        torch.testing.assert_close(getattr(got, name), factor * getattr(raw, name), rtol=1e-12, atol=0)
    torch.testing.assert_close(got.forces_error, torch.sqrt(raw.nll - raw.nll.min() + 1))
    trace = got.forces_covariance.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(got.forces_uncertainty, torch.sqrt(trace / 3))
    fast = evaluated(InferencePotential(potential), chosen)
    for name in factors:
        torch.testing.assert_close(getattr(fast, name), getattr(got, name), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(fast.forces_error, got.forces_error, rtol=1e-5, atol=0)
    script = evaluated(torch.jit.script(potential), chosen)
    torch.testing.assert_close(script.forces_uncertainty, got.forces_uncertainty, rtol=1e-12, atol=0)


def test_an_ensemble_is_calibrated_as_one(make_potential, tmp_path):
    members = [make_potential(seed=seed) for seed in range(3)]
    members[0].rigidity.store(torch.eye(8))
    ensemble = Ensemble(members)
    dataset = build(ensemble, three_times)
    before = residuals(ensemble, dataset)
    card = fit_calibration(ensemble, dataset, score="llpr")
    after = residuals(ensemble, dataset)
    np.testing.assert_allclose(
        after.predicted["forces_uncertainty"],
        card["forces"]["rms_z"] * before.predicted["forces_uncertainty"],
        rtol=1e-10,
    )
    assert card["forces"]["rms_z"] == pytest.approx(3, rel=0.1)
    save_model(ensemble, tmp_path / "ensemble.uqf")
    chosen = frames(ensemble, three_times)[:1]
    want = evaluated(ensemble, chosen)
    parts = want.forces_uncertainty_aleatoric.square() + want.forces_uncertainty_epistemic.square()
    torch.testing.assert_close(want.forces_uncertainty.square(), parts)
    loaded = load_model(tmp_path / "ensemble.uqf")
    assert loaded.card["calibration"] == card
    for form in (loaded, inference_form(loaded), torch.jit.script(loaded)):
        got = evaluated(form, chosen)
        for name in ("forces_uncertainty", "energy_uncertainty", "forces_error", "energy_llpr", "llpr"):
            torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-6, atol=1e-9)


def test_training_sees_no_calibration(make_potential):
    potential = make_potential()
    chosen = frames(potential, three_times)[:1]
    raw = evaluated(potential.train(), chosen)
    potential.calibration.store(forces=torch.tensor([[1.0], [3.0]]))
    got = evaluated(potential, chosen)
    torch.testing.assert_close(got.forces_uncertainty, raw.forces_uncertainty, rtol=0, atol=0)


def test_nothing_to_calibrate(make_bare_potential, make_potential):
    bare = make_bare_potential()
    dataset = build(make_potential(), three_times)
    with pytest.raises(CalibrationError, match="nothing to calibrate"):
        fit_calibration(bare, dataset)
    with pytest.raises(CalibrationError, match="no llpr"):
        fit_calibration(make_potential(), dataset, score="llpr")


def test_verb(make_potential, make_bare_potential, tmp_path, capsys):
    potential, model, data = make_potential(), tmp_path / "model.uqf", tmp_path / "data.xyz"
    save_model(potential, model)
    images = []
    for frame in frames(potential, three_times):
        atoms = Atoms(frame.atomic_numbers, frame.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
        images.append(atoms)
    ase.io.write(data, images)
    arguments = ["calibrate", str(model), str(data), "--in-place"]
    assert main([*arguments, "--kind", "conformal", "--level", "0.8"]) == 0
    text = capsys.readouterr().out
    assert "30 structures, 300 atoms" in text and "forces_error from nll" in text
    card = load_model(model).card["calibration"]
    assert card["kind"] == "conformal" and card["level"] == 0.8
    assert f"was {card['forces']['rms_z']:.3g}" in text
    assert main([*arguments, "--kind", "conformal", "--level", "0.99"]) == 1
    assert "takes 99" in capsys.readouterr().err
    save_model(make_bare_potential(), model)
    assert main(arguments) == 1
    assert "nothing to calibrate" in capsys.readouterr().err
