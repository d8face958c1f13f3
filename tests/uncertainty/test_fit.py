"""The mixture inside a potential: what is stored, that `nll` is scikit-learn's, and its symmetries."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors import safe_open
from sklearn.mixture import GaussianMixture

from uqforce import ops
from uqforce.cli import main
from uqforce.data import Dataset, collate, read_frames
from uqforce.evaluation import metrics
from uqforce.exporting.export import export
from uqforce.exporting.opening import load_exported
from uqforce.model import InferencePotential, ModelConfig, Potential, load_model, save_model
from uqforce.uncertainty import fit, mixture_fit

TYPES, CUTOFF = ["H", "O"], 3.0


@pytest.fixture
def frames_file(tmp_path):
    """Twelve rattled clusters of five waters."""
    rng = np.random.default_rng(0)
    grid = 2.8 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    water = np.array([[0.0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    positions = (grid[:, None] + water).reshape(-1, 3)
    frames = [Atoms("OHH" * 5, positions + 0.1 * rng.normal(size=(15, 3))) for _ in range(12)]
    path = tmp_path / "frames.xyz"
    ase.io.write(path, frames)
    return path


def make_potential(dtype="float64") -> Potential:
    torch.manual_seed(0)
    config = ModelConfig(
        type_names=TYPES,
        r_max=CUTOFF,
        num_layers=2,
        l_max=1,
        num_features=[8, 4],
        radial_mlp_width=8,
        dtype=dtype,
    )
    return Potential(config).eval()


@pytest.fixture
def dataset(frames_file) -> Dataset:
    return Dataset.build(read_frames(frames_file), TYPES, CUTOFF)


def predict(potential, batch, positions=None):
    positions = batch.positions if positions is None else positions
    neighbors = ops.neighbor_list(positions, batch.cell, batch.pbc, CUTOFF, batch.batch)
    return potential(
        neighbors.edge_vec, neighbors.edge_index, batch.atom_types, batch.batch, batch.num_structures
    )


def test_nll_equals_sklearn(dataset):
    potential = make_potential()
    mixture_fit.fit_potential(potential, dataset, n_components=3)
    prediction = predict(potential, collate([dataset[i] for i in range(len(dataset))]))
    features = prediction.features.numpy()
    reference = GaussianMixture(3)
    mixture = potential.mixture
    reference.means_, reference.precisions_cholesky_ = (
        mixture.means.numpy(),
        mixture.precisions_cholesky.numpy(),
    )
    reference.weights_ = mixture.log_weights.exp().numpy()
    reference.covariances_ = np.empty((3, 0))
    np.testing.assert_allclose(prediction.nll.numpy(), -reference.score_samples(features), rtol=0, atol=1e-10)
    # and the thresholds are the quantiles of these very scores
    thresholds = potential.card["thresholds"]["nll"]
    assert thresholds["max"] == pytest.approx(prediction.nll.max().item(), abs=1e-10)
    assert thresholds["q0.9"] == pytest.approx(np.quantile(prediction.nll.numpy(), 0.9), abs=1e-10)


def test_features_are_the_predictions(dataset):
    potential = make_potential("float32")
    features = mixture_fit.collect_features(potential, dataset, batch_size=5)
    prediction = predict(potential, collate([dataset[i] for i in range(len(dataset))]))
    assert features.dtype == torch.float32 and not features.requires_grad
    torch.testing.assert_close(features, prediction.features)


def test_nll_symmetries(dataset):
    potential = make_potential()
    mixture_fit.fit_potential(potential, dataset, n_components=2)
    batch = dataset[3]
    nll = predict(potential, batch).nll
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.manual_seed(1)))[0]
    for matrix in (rotation, -rotation):  # a rotation and a reflection
        moved = predict(potential, batch, batch.positions @ matrix.T + 5.0).nll
        torch.testing.assert_close(moved, nll, rtol=0, atol=1e-9)
    order = torch.randperm(len(nll), generator=torch.manual_seed(2))
    permuted = batch._replace(positions=batch.positions[order], atom_types=batch.atom_types[order])
    torch.testing.assert_close(predict(potential, permuted).nll, nll[order], rtol=0, atol=1e-9)


def test_nll_rises_away_from_the_training_set(dataset):
    potential = make_potential()
    mixture_fit.fit_potential(potential, dataset)
    batch = dataset[0]
    far = predict(potential, batch, 0.8 * batch.positions)
    assert far.nll.max() > potential.card["thresholds"]["nll"]["max"]


def test_verb_stores_the_mixture(frames_file, tmp_path, capsys):
    model, output = tmp_path / "model.uqf", tmp_path / "fitted.uqf"
    save_model(make_potential(), model)
    assert main(["fit", str(model), str(frames_file), "-o", str(output)]) == 0
    potential = load_model(output)
    card = potential.card["mixture"]
    assert card["components"] == len(potential.mixture.means) and card["atoms"] == 180
    assert card["bic"] == min(trial["bic"] for trial in card["trials"])
    assert json.loads(json.dumps(potential.card)) == potential.card
    printed = capsys.readouterr().out
    for value in (f"{card['bic']:.1f}", f"{potential.card['thresholds']['nll']['q0.99']:.2f}"):
        assert value in printed
    assert len(load_model(model).mixture.means) == 0
    tied = ["--in-place", "--components", "2", "--covariance", "tied"]
    assert main(["fit", str(model), str(frames_file), *tied]) == 0
    again = load_model(model)
    assert (again.card["mixture"]["components"], again.card["mixture"]["covariance"]) == (2, "tied")
    assert torch.equal(*again.mixture.precisions_cholesky)


def test_projected_mixture_in_every_form(dataset, frames_file, tmp_path):
    """The projection is applied by the potential, its file, its inference form and the exported file."""
    potential = make_potential()
    found = mixture_fit.fit_potential(potential, dataset, n_components=2, projection=3)
    save_model(potential, tmp_path / "model.uqf")
    export(potential, tmp_path / "model.pt")
    batch = collate([dataset[i] for i in range(3)])
    want = predict(potential, batch)
    assert want.features.shape[1] == 8 and potential.mixture.means.shape == (2, 3)
    torch.testing.assert_close(want.nll, found.nll(want.features), rtol=0, atol=1e-12)
    loaded = load_model(tmp_path / "model.uqf")
    assert torch.equal(predict(loaded, batch).nll, want.nll)
    torch.testing.assert_close(predict(loaded.train(), batch).nll.detach(), want.nll, rtol=0, atol=1e-12)
    torch.testing.assert_close(predict(InferencePotential(potential), batch).nll, want.nll)
    torch.testing.assert_close(predict(load_exported(tmp_path / "model.pt")[0], batch)["nll"], want.nll)
    assert loaded.card["mixture"]["projection"] == 3
    mixture_fit.fit_potential(loaded, dataset, n_components=2)  # and is gone again
    assert loaded.mixture.projection is None and predict(loaded, batch).nll.shape == want.nll.shape


def test_mixture_per_type_in_every_form(dataset, frames_file, tmp_path, capsys):
    """Each atom has the score of its type's own mixture, scikit-learn's, in every form of the model."""
    save_model(make_potential(), tmp_path / "model.uqf")
    arguments = ["--in-place", "--per-type", "--components", "2"]
    assert main(["fit", str(tmp_path / "model.uqf"), str(frames_file), *arguments]) == 0
    assert "H: 2 components" in capsys.readouterr().out
    potential = load_model(tmp_path / "model.uqf")
    export(potential, tmp_path / "model.pt")
    batch = collate([dataset[i] for i in range(len(dataset))])
    want = predict(potential, batch)
    features = want.features.numpy()
    for kind in range(2):
        rows = (batch.atom_types == kind).numpy()
        spread = np.cov(features[rows].T, bias=True)
        floor = mixture_fit.RELATIVE_FLOOR * np.trace(spread) / len(spread)
        own = GaussianMixture(2, reg_covar=floor, random_state=0).fit(features[rows])
        np.testing.assert_allclose(want.nll.numpy()[rows], -own.score_samples(features[rows]), rtol=1e-9)
    torch.testing.assert_close(predict(potential.train(), batch).nll.detach(), want.nll, rtol=0, atol=1e-10)
    torch.testing.assert_close(predict(InferencePotential(potential), batch).nll, want.nll)
    torch.testing.assert_close(predict(load_exported(tmp_path / "model.pt")[0], batch)["nll"], want.nll)
    assert potential.card["thresholds"]["nll"]["max"] == pytest.approx(want.nll.max().item())
    assert set(potential.card["mixture"]["types"]) == set(TYPES)


def test_bad_mixtures_per_type(dataset):
    potential = make_potential()
    with pytest.raises(mixture_fit.MixtureError, match="mixture of O: cannot fit 61"):
        mixture_fit.fit_potential(potential, dataset, n_components=61, per_type=True)
    with pytest.raises(mixture_fit.MixtureError, match="no such atom"):
        mixture_fit.fit_per_type(np.eye(3), [0, 0, 0], TYPES, 1)
    with pytest.raises(mixture_fit.MixtureError, match="projection"):
        mixture_fit.fit_per_type(np.eye(3), [0, 0, 1], TYPES, 1, projection=1)
    with pytest.raises(ValueError, match="each of 2 types"):
        potential.set_mixture(torch.zeros(2, 8), torch.eye(8).repeat(2, 1, 1), torch.zeros(2),
                              counts=torch.tensor([2, 0]))  # fmt: skip


def test_verb_stores_the_rigidity(frames_file, tmp_path, capsys):
    model, labelled = tmp_path / "model.uqf", tmp_path / "labelled.xyz"
    save_model(make_potential(), model)
    frames = ase.io.read(frames_file, ":")
    for number, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=0.1 * number, forces=np.zeros((15, 3)))
    ase.io.write(labelled, frames)
    arguments = ["--in-place", "--score", "llpr", "--regulariser", "1e-4"]
    assert main(["fit", str(model), str(labelled), *arguments]) == 0
    assert "carries llpr" in capsys.readouterr().out
    stored = load_model(model)
    assert stored.card["llpr"]["regulariser"] == 1e-4 and stored.rigidity.factor.shape == (8, 8)


def test_verb_reports_the_ranking(frames_file, tmp_path, capsys):
    """Of labelled structures, with the projection and with all features, as computed by hand."""
    potential, model, labelled = make_potential(), tmp_path / "model.uqf", tmp_path / "labelled.xyz"
    save_model(potential, model)
    rng, frames = np.random.default_rng(1), ase.io.read(frames_file, ":")
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=rng.normal(size=(15, 3)))
    ase.io.write(labelled, frames)
    arguments = ["--in-place", "--components", "2", "--projection", "2", "--test", str(labelled)]
    assert main(["fit", str(model), str(frames_file), *arguments]) == 0
    printed, fitted = capsys.readouterr().out, load_model(model)
    ranking = fitted.card["mixture"]["ranking"]["labelled.xyz"]
    assert [ranking[kind]["features"] for kind in ("stored", "all features")] == [2, 8]
    dataset = Dataset.build(read_frames(labelled), TYPES, CUTOFF)
    out = predict(fitted, collate([dataset[i] for i in range(12)]))
    error = metrics.atom_force_error(out.forces, np.concatenate([atoms.get_forces() for atoms in frames]))
    assert ranking["stored"]["spearman"] == pytest.approx(metrics.spearman(out.nll, error), abs=1e-9)
    plain = mixture_fit.fit_mixture(out.features, 2).nll(out.features)
    assert ranking["all features"]["spearman"] == pytest.approx(metrics.spearman(plain, error), abs=1e-9)
    top = metrics.classification(plain, error, np.quantile(error, 0.9)).auroc
    assert ranking["all features"]["auroc_top_tenth"] == pytest.approx(top, abs=1e-9)
    assert f"{top:.3f}" in printed and f"{ranking['stored']['spearman']:.3f}" in printed
    assert main(["fit", str(model), str(frames_file), "--in-place", "--test", str(frames_file)]) == 1
    assert "forces" in capsys.readouterr().err


def test_files_without_projection_are_as_before(tmp_path):
    """What an older uqforce wrote and reads: format 1, no entry for a projection."""
    potential = make_potential()
    assert "mixture.projection" not in potential.state_dict()
    for projection, version in ((None, 1), (torch.eye(8)[:, :1], 2)):
        k = 8 if projection is None else 1
        potential.set_mixture(torch.zeros(1, k), torch.eye(k)[None], torch.zeros(1), projection)
        save_model(potential, tmp_path / "model.uqf")
        with safe_open(tmp_path / "model.uqf", framework="pt") as file:
            assert json.loads(file.metadata()["uqforce"])["format_version"] == version
            assert ("mixture.projection" in file.keys()) == (version == 2)  # noqa: SIM118
    with pytest.raises(ValueError, match="does not fit 8 features"):
        potential.set_mixture(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1), torch.zeros(3, 2))


def test_verb_reports_errors(frames_file, tmp_path, capsys):
    model = tmp_path / "model.uqf"
    save_model(make_potential(), model)
    assert main(["fit", str(model), str(frames_file), "--in-place", "--components", "500"]) == 1
    assert "500 components to 180 atoms" in capsys.readouterr().err
    assert len(load_model(model).mixture.means) == 0


def test_verb_says_what_did_not_go_well():
    features = np.random.default_rng(0).normal(size=(300, 3))
    features[:, 2] = 1.0
    text = fit.summary(mixture_fit.fit_mixture(features, 5, max_iter=2), TYPES)
    assert "without converging" in text and "1 of 3 directions" in text


def test_wrong_data_set(frames_file):
    dataset = Dataset.build(read_frames(frames_file), TYPES, CUTOFF + 1)
    with pytest.raises(mixture_fit.MixtureError, match="cutoff"):
        mixture_fit.collect_features(make_potential(), dataset)
