"""The mixture: scikit-learn's likelihood, the choice of components, degenerate input."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from uqforce import ops
from uqforce.uncertainty import mixture_fit


def blobs(components, dim, count, seed=0):
    """Well separated Gaussians of different shape and orientation, [count, dim]."""
    rng = np.random.default_rng(seed)
    centres = 20 * rng.normal(size=(components, dim))
    shapes = rng.normal(size=(components, dim, dim))
    which = rng.integers(components, size=count)
    return centres[which] + np.einsum("nij,nj->ni", shapes[which], rng.normal(size=(count, dim)))


@pytest.mark.parametrize("components", [1, 2, 5, 8])
def test_bic_finds_the_number_of_components(components):
    fit = mixture_fit.fit_mixture(blobs(components, 4, 2000))
    assert len(fit.means) == fit.chosen.components == components
    assert fit.chosen.bic == min(trial.bic for trial in fit.trials)
    assert all(trial.converged for trial in fit.trials if trial.components <= components)


def test_search_is_the_count_not_the_index():
    """The best of counts 1, 2, 3, ... stands at index count - 1: nequip 0.6 fitted one too few."""
    fit = mixture_fit.fit_mixture(blobs(3, 4, 2000))
    assert [trial.components for trial in fit.trials[:4]] == [1, 2, 3, 4]
    assert fit.means.shape == (3, 4) and len(fit.trials) == 3 + mixture_fit.PATIENCE


def test_fit_is_a_mixture():
    features = blobs(3, 5, 600)
    fit = mixture_fit.fit_mixture(features, n_components=3)
    assert [trial.components for trial in fit.trials] == [3]
    assert fit.means.dtype == torch.float64 and fit.precisions_cholesky.shape == (3, 5, 5)
    assert fit.log_weights.exp().sum().item() == pytest.approx(1)
    torch.testing.assert_close(fit.precisions_cholesky, fit.precisions_cholesky.triu())


@pytest.mark.parametrize("covariance", mixture_fit.COVARIANCES)
def test_every_covariance_equals_sklearn(covariance):
    """Scores, weights and BIC of the stored full form are those of scikit-learn's own model."""
    features = blobs(3, 5, 600)
    floor = mixture_fit.RELATIVE_FLOOR * np.linalg.eigvalsh(np.cov(features.T, bias=True)).mean()
    own = GaussianMixture(4, covariance_type=covariance, reg_covar=floor, random_state=7).fit(features)
    fit = mixture_fit.fit_mixture(features, 4, covariance=covariance, seed=7)
    assert fit.precisions_cholesky.shape == (4, 5, 5) and fit.chosen.bic == own.bic(features)
    torch.testing.assert_close(fit.precisions_cholesky, fit.precisions_cholesky.triu())
    anywhere = np.vstack([features, 3 * features])
    nll = ops.gmm_nll(torch.from_numpy(anywhere), *fit[:3])
    np.testing.assert_allclose(nll, -own.score_samples(anywhere), rtol=1e-12, atol=1e-10)
    assert (fit.precisions_cholesky.triu(1).abs().max() == 0) == (covariance == "diag")
    assert torch.equal(fit.precisions_cholesky[0], fit.precisions_cholesky[3]) == (covariance == "tied")


def test_simple_covariances_allow_more_components():
    """19 atoms of 8 features: full covariances for two components, diagonal ones for nine."""
    features = np.random.default_rng(0).normal(size=(19, 8))
    largest = {
        c: mixture_fit.fit_mixture(features, covariance=c).trials[-1].components
        for c in mixture_fit.COVARIANCES
    }
    assert largest["full"] == 2 and largest["diag"] > 2 and largest["tied"] > 2


def test_unknown_covariance():
    with pytest.raises(mixture_fit.MixtureError, match="one of full, diag, tied, got 'spherical'"):
        mixture_fit.fit_mixture(np.eye(3), covariance="spherical")


def test_projection_is_sklearns():
    """The mixture of the leading principal components, which PCA gives up to their signs."""
    features = blobs(3, 6, 600)
    fit = mixture_fit.fit_mixture(features, 3, projection=2)
    pca = PCA(2).fit(features)
    torch.testing.assert_close(
        (fit.projection.T @ torch.from_numpy(pca.components_.T)).abs(), torch.eye(2).double()
    )
    assert fit.explained == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-12)
    projected = features @ fit.projection.numpy()
    floor = mixture_fit.RELATIVE_FLOOR * np.var(projected, axis=0).mean()
    own = GaussianMixture(3, reg_covar=floor, random_state=0).fit(projected)
    np.testing.assert_allclose(fit.nll(torch.from_numpy(features)), -own.score_samples(projected), rtol=1e-9)
    assert fit.quantiles["max"] == pytest.approx(-own.score_samples(projected).min(), rel=1e-9)


def test_projection_to_every_component_changes_nothing():
    features = torch.from_numpy(blobs(2, 4, 500))
    plain, rotated = mixture_fit.fit_mixture(features, 2), mixture_fit.fit_mixture(features, 2, projection=4)
    assert plain.projection is None and plain.explained == 1.0
    torch.testing.assert_close(rotated.nll(features), plain.nll(features), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("projection", [0, 4])
def test_projection_out_of_range(projection):
    with pytest.raises(mixture_fit.MixtureError, match=f"3 features to {projection} principal"):
        mixture_fit.fit_mixture(np.eye(3), projection=projection)


def test_same_mixture_in_any_unit():
    features = blobs(3, 5, 600)
    fit, scaled = mixture_fit.fit_mixture(features), mixture_fit.fit_mixture(1e-4 * features)
    torch.testing.assert_close(scaled.means, 1e-4 * fit.means)
    assert scaled.quantiles["q0.9"] - fit.quantiles["q0.9"] == pytest.approx(5 * np.log(1e-4), rel=1e-6)


def test_quantiles_increase_to_the_maximum():
    fit = mixture_fit.fit_mixture(blobs(2, 3, 500))
    assert list(fit.quantiles) == ["q0.5", "q0.9", "q0.95", "q0.99", "q0.999", "max"]
    assert list(fit.quantiles.values()) == sorted(fit.quantiles.values())


def test_flat_directions_are_counted():
    features = blobs(2, 3, 500)
    with_copies = np.hstack([features, features[:, :1], np.ones((500, 1))])
    fit = mixture_fit.fit_mixture(with_copies)
    assert fit.flat_directions == 2 and mixture_fit.fit_mixture(features).flat_directions == 0
    assert all(torch.isfinite(tensor).all() for tensor in fit[:3])


def test_unconverged_is_said():
    fit = mixture_fit.fit_mixture(np.random.default_rng(0).normal(size=(500, 4)), n_components=6, max_iter=2)
    assert not fit.chosen.converged and fit.chosen.iterations == 2


@pytest.mark.parametrize(
    "features, components, message",
    [
        (np.zeros(3), None, "must be"),
        (np.zeros((0, 3)), None, "at least one atom"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), None, "the first is atom 1"),
        (np.full((10, 3), 0.1), None, "equal"),
        (np.ones((1, 3)), None, "equal"),
        (np.eye(3), 4, "4 components to 3 atoms"),
        (np.eye(3), 0, "0 components"),
    ],
)
def test_bad_features(features, components, message):
    with pytest.raises(mixture_fit.MixtureError, match=message):
        mixture_fit.fit_mixture(features, components)
