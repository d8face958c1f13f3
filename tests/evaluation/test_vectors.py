"""Scores of force vectors against dense Gaussians, sampling and scoringrules."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from uqforce.evaluation import metrics, vectors


@pytest.fixture
def sample():
    """Calibrated residuals with covariances of condition number up to 100."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(400, 3, 3)))[0]
    factor = axes * (0.1 * 10 ** rng.uniform(size=(400, 1, 3)))
    covariance = factor @ np.swapaxes(factor, 1, 2)
    return np.einsum("nab,nb->na", factor, rng.normal(size=(400, 3))), covariance


def test_block_nll_equals_scipy(sample):
    residual, covariance = sample
    dense = [-multivariate_normal(cov=c).logpdf(r) / 3 for r, c in zip(residual, covariance)]
    assert vectors.block_nll(residual, covariance) == pytest.approx(np.mean(dense), rel=1e-12)


def test_diagonal_covariances_are_components():
    rng = np.random.default_rng(1)
    std = 0.1 + rng.random((50, 3))
    residual = std * rng.normal(size=(50, 3))
    covariance = np.einsum("na,ab->nab", std**2, np.eye(3))
    flat = residual.ravel(), std.ravel()
    assert vectors.block_nll(residual, covariance) == pytest.approx(metrics.gaussian_nll(*flat), rel=1e-12)
    assert vectors.mahalanobis(residual, covariance) == pytest.approx(metrics.zms(*flat), rel=1e-12)


def test_scores_do_not_depend_on_orientation(sample):
    residual, covariance = sample
    axes = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = residual @ axes.T, axes @ covariance @ axes.T
    assert vectors.block_nll(*turned) == pytest.approx(vectors.block_nll(*sample), rel=1e-10)
    assert vectors.energy_score(*turned) == pytest.approx(vectors.energy_score(*sample), rel=2e-4)
    assert vectors.mahalanobis(*sample) == pytest.approx(1, abs=4 * np.sqrt(2 / 1200))


def test_energy_score_of_isotropic_gaussians():
    """Closed form: E|X - y| of a non-central Maxwell distribution, E|X - X'| = 4 s / sqrt(pi)."""
    from scipy.special import erf

    s, length = 0.3, np.array([1e-3, 0.1, 0.5, 2.0])
    for d in length:
        a = d / (np.sqrt(2) * s)
        away = s * np.sqrt(2 / np.pi) * np.exp(-(a**2)) + (d + s**2 / d) * erf(a)
        exact = away - 2 * s / np.sqrt(np.pi)
        got = vectors.energy_score([[d, 0.0, 0.0]], [s**2 * np.eye(3)])
        assert got == pytest.approx(exact, rel=5e-3 if d > 1 else 1e-4)


def test_energy_score_equals_scoringrules(sample):
    rules = pytest.importorskip("scoringrules")
    residual, covariance = sample[0][:8], sample[1][:8]
    draws = np.random.default_rng(3).normal(size=(2000, 3))
    members = np.einsum("nab,sb->nsa", np.linalg.cholesky(covariance), draws)
    scores = rules.es_ensemble(residual, members)
    assert vectors.energy_score(residual, covariance) == pytest.approx(np.mean(scores), rel=0.02)


def test_energy_score_is_lowest_for_the_truth(sample):
    residual, covariance = sample
    honest = vectors.energy_score(residual, covariance)
    for wrong in (0.25 * covariance, 4 * covariance, np.eye(3) * covariance.mean() * np.ones((400, 1, 1))):
        assert vectors.energy_score(residual, wrong) > honest


@pytest.mark.parametrize(
    "residual, covariance, message",
    [
        (np.zeros((2, 3)), np.eye(3), r"\[N,3,3\]"),
        (np.zeros((0, 3)), np.zeros((0, 3, 3)), "empty"),
        (np.zeros((1, 3)), np.full((1, 3, 3), np.nan), "finite"),
        (np.zeros((1, 3)), np.diag([1.0, 1.0, 0.0])[None], "positive definite"),
    ],
)
def test_bad_input(residual, covariance, message):
    for score in (vectors.block_nll, vectors.energy_score, vectors.mahalanobis):
        with pytest.raises(ValueError, match=message):
            score(residual, covariance)
