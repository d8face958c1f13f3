"""Metrics against scikit-learn, uncertainty-toolbox, scoringrules, brute force and calibrated simulations."""

import numpy as np
import pytest
from scipy.stats import norm

from uqforce.evaluation import metrics


@pytest.fixture
def sample():
    """Residuals that are calibrated, std over a decade."""
    rng = np.random.default_rng(0)
    std = 0.1 * 10 ** rng.uniform(size=4000)
    return std * rng.normal(size=4000), std


@pytest.fixture
def ranked():
    """A score that goes with the error, imperfectly and with ties."""
    rng = np.random.default_rng(1)
    error = rng.gamma(2.0, 0.05, size=500)
    return np.round(np.log(error) + rng.normal(size=500), 1), error


def test_scores_equal_other_libraries(sample):
    uct = pytest.importorskip("uncertainty_toolbox")
    residual, std = sample
    zero = np.zeros_like(std)
    assert metrics.gaussian_nll(residual, std) == pytest.approx(
        uct.nll_gaussian(zero, std, residual), rel=1e-12
    )
    assert metrics.gaussian_crps(residual, std) == pytest.approx(
        uct.crps_gaussian(zero, std, residual), rel=1e-12
    )
    assert metrics.sharpness(std) == pytest.approx(uct.sharpness(std), rel=1e-12)
    levels = np.linspace(0.01, 0.99, 99)
    mean_score = np.mean([metrics.interval_score(residual, std, level) for level in levels])
    assert mean_score == pytest.approx(uct.interval_score(zero, std, residual), rel=1e-10)
    for scale in (1.0, 2.0):  # theirs is on a grid of 100 levels
        expected = uct.miscalibration_area(zero, scale * std, residual, vectorized=True)
        assert metrics.miscalibration_area(residual, scale * std) == pytest.approx(expected, abs=2e-3)


def test_scores_equal_scoringrules(sample):
    rules = pytest.importorskip("scoringrules")
    residual, std = sample
    assert metrics.gaussian_crps(residual, std) == pytest.approx(
        np.mean(rules.crps_normal(residual, 0.0, std)), rel=1e-12
    )
    assert metrics.gaussian_nll(residual, std) == pytest.approx(
        np.mean(rules.logs_normal(residual, 0.0, std)), rel=1e-12
    )
    half = norm.ppf(0.95) * std
    expected = np.mean(rules.interval_score(residual, -half, half, 0.1))
    assert metrics.interval_score(residual, std, 0.9) == pytest.approx(expected, rel=1e-12)


def test_calibrated_residuals(sample):
    residual, std = sample
    n, bins = len(std), 15
    assert metrics.zms(residual, std) == pytest.approx(1, abs=4 * np.sqrt(2 / n))
    assert metrics.rzv(residual, std) == pytest.approx(1, abs=4 * np.sqrt(0.5 / n))
    assert metrics.ence(residual, std, bins) == pytest.approx(np.sqrt(bins / np.pi / n), rel=0.5)
    assert metrics.miscalibration_area(residual, std) < 1.4 / np.sqrt(n)  # Kolmogorov's distance bounds it
    for level in (0.5, 0.68, 0.9, 0.95):
        tolerance = 4 * np.sqrt(level * (1 - level) / n)
        assert metrics.interval_coverage(residual, std, level) == pytest.approx(level, abs=tolerance)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_miscalibration_is_seen(sample, scale):
    residual, std = sample
    assert metrics.zms(residual, scale * std) == pytest.approx(scale**-2, rel=0.1)
    assert metrics.ence(residual, scale * std) == pytest.approx(abs(1 - 1 / scale), rel=0.1)
    for score in (metrics.gaussian_nll, metrics.gaussian_crps, metrics.interval_score):
        assert score(residual, scale * std) > score(residual, std)
    # the coverage of scale * std is known, so its distance from p is
    p = (np.arange(20000) + 0.5) / 20000
    exact = np.mean(np.abs(2 * norm.cdf(scale * norm.ppf(0.5 + p / 2)) - 1 - p))
    assert metrics.miscalibration_area(residual, scale * std) == pytest.approx(exact, abs=0.02)


def test_bias_is_seen_by_zms_not_by_rzv():
    std = np.full(1000, 0.3)
    assert metrics.zms(2 * std, std) == pytest.approx(4)
    assert metrics.rzv(2 * std, std) == pytest.approx(0, abs=1e-12)


def test_miscalibration_area_equals_fine_grid():
    residual, std = np.array([0.3, -1.0, 0.1]), np.array([0.5, 0.4, 2.0])
    p = (np.arange(200000) + 0.5) / 200000
    inside = np.abs(residual / std)[:, None] <= norm.ppf(0.5 + p / 2)
    assert metrics.miscalibration_area(residual, std) == pytest.approx(
        np.mean(np.abs(inside.mean(axis=0) - p)), abs=1e-5
    )


def test_reliability_bins():
    std = np.array([3.0, 1.0, 2.0, 4.0])
    residual = np.array([1.0, 2.0, 0.0, -1.0])
    rmv, rmse = metrics.reliability(residual, std, bins=2)
    np.testing.assert_allclose(rmv, np.sqrt([2.5, 12.5]))
    np.testing.assert_allclose(rmse, np.sqrt([2.0, 1.0]))
    assert metrics.ence(residual, std, 2) == pytest.approx(np.mean(np.abs(rmv - rmse) / rmv))


def test_relative_log_likelihood(sample):
    residual, std = sample
    rmse = np.sqrt(np.mean(residual**2))
    assert metrics.relative_log_likelihood(residual, np.full_like(std, rmse)) == pytest.approx(0, abs=1e-12)
    assert metrics.relative_log_likelihood(
        residual, np.maximum(np.abs(residual), 1e-3 * rmse)
    ) == pytest.approx(1)
    assert 0 < metrics.relative_log_likelihood(residual, std) < 1
    assert metrics.relative_log_likelihood(residual, 0.2 * std) < 0
    with pytest.raises(ValueError, match="undefined"):
        metrics.relative_log_likelihood(np.zeros(3), np.ones(3))


def test_dispersion_and_sharpness():
    assert metrics.dispersion([2.0, 2.0]) == 0
    assert metrics.dispersion([1.0, 3.0]) == 0.5
    assert metrics.sharpness([1.0, 7.0]) == 5


def test_classification_by_counting_pairs(ranked):
    score, error = ranked
    result = metrics.classification(score, error, 0.15)
    above, below = score[error > 0.15], score[error <= 0.15]
    pairs = (above[:, None] > below).mean() + 0.5 * (above[:, None] == below).mean()
    assert result.auroc == pytest.approx(pairs, rel=1e-12)
    assert (result.positives, result.count) == (len(above), len(score))
    assert len(above) / len(score) < result.auprc < 1
    for cutoff in (0.0, 10.0):
        assert np.isnan(metrics.classification(score, error, cutoff).auroc)


def test_spearman(ranked):
    score, error = ranked
    assert metrics.spearman(score, 2 * score**3) == pytest.approx(1)
    assert 0 < metrics.spearman(score, error) < 1
    assert np.isnan(metrics.spearman(np.ones(5), np.arange(5)))


def test_detection_rates_by_counting(ranked):
    score, error = ranked
    score_cutoffs, error_cutoffs = np.quantile(score, [0.3, 0.6, 1.0]), [0.05, 0.1, 5.0]
    tpr, ppv = metrics.detection_rates(score, error, score_cutoffs, error_cutoffs)
    for a, score_cutoff in enumerate(score_cutoffs):
        for b, error_cutoff in enumerate(error_cutoffs):
            tp = sum(s > score_cutoff and e > error_cutoff for s, e in zip(score, error))
            fn = sum(s <= score_cutoff and e > error_cutoff for s, e in zip(score, error))
            fp = sum(s > score_cutoff and e <= error_cutoff for s, e in zip(score, error))
            np.testing.assert_equal(tpr[a, b], tp / (tp + fn) if tp + fn else np.nan)
            np.testing.assert_equal(ppv[a, b], tp / (tp + fp) if tp + fp else np.nan)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_retention_and_ause(ranked, metric):
    score, error = ranked
    curve = metrics.retention_curve(score, error, metric)
    kept = error[np.argsort(score, kind="stable")[:100]]
    expected = np.sqrt(np.mean(kept**2)) if metric == "rmse" else np.mean(kept)
    assert curve[99] == pytest.approx(expected)
    assert metrics.ause(error, error, metric) == 0
    assert 0 < metrics.ause(score, error, metric) < 1
    shuffled = np.random.default_rng(2).normal(size=(200, len(error)))
    assert np.mean([metrics.ause(s, error, metric) for s in shuffled]) == pytest.approx(1, abs=0.05)
    assert metrics.ause(-error, error, metric) > 1


def test_bootstrap_resamples_structures():
    # 40 structures of 25 atoms that share one error: the mean is known no better than from 40 numbers
    rng = np.random.default_rng(3)
    structure = np.repeat(np.arange(40), 25)
    error = rng.normal(size=40)[structure]
    value, low, high = metrics.bootstrap(np.mean, structure, error, samples=2000)
    assert value == pytest.approx(error.mean())
    assert high - low == pytest.approx(2 * 1.96 * error.std() / np.sqrt(40), rel=0.1)
    shuffle = rng.permutation(len(error))
    assert metrics.bootstrap(np.mean, structure[shuffle], error[shuffle], samples=2000)[1:] == pytest.approx(
        (low, high), rel=1e-9
    )


def test_atom_force_error():
    assert metrics.atom_force_error([[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])[0] == pytest.approx(np.sqrt(3))
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        metrics.atom_force_error(np.zeros(6), np.zeros(6))


@pytest.mark.parametrize(
    "residual, std, message",
    [
        ([1.0], [1.0, 2.0], "one length"),
        ([[1.0]], [[1.0]], "one-dimensional"),
        ([], [], "empty"),
        ([np.nan], [1.0], "not finite"),
        ([1.0], [0.0], "positive"),
    ],
)
def test_bad_input(residual, std, message):
    with pytest.raises(ValueError, match=message):
        metrics.gaussian_nll(residual, std)


def test_bad_arguments():
    with pytest.raises(ValueError, match="level"):
        metrics.interval_coverage([1.0], [1.0], 95)
    with pytest.raises(ValueError, match="bins"):
        metrics.reliability([1.0, 2.0], [1.0, 1.0], bins=3)
    with pytest.raises(ValueError, match="metric"):
        metrics.ause([1.0], [1.0], "mse")
    with pytest.raises(ValueError, match="structure indices"):
        metrics.bootstrap(np.mean, [0, 1], [1.0])


def test_conformal_factor_of_single_entries_is_an_order_statistic(sample):
    residual, std = sample[0][:99], sample[1][:99]
    score = np.sort(np.abs(residual / std))
    for level in (0.5, 0.9, 0.99):
        expected = score[int(np.ceil(100 * level - 1e-9)) - 1]
        assert metrics.conformal_factor(residual, std, np.arange(99), level) == expected
    assert metrics.conformal_factor(residual, std, np.arange(99), 0.995) == np.inf


def test_conformal_intervals_cover_new_structures():
    """Errors of a structure share a scale; with 20 structures to learn from, coverage is what was asked."""
    rng = np.random.default_rng(4)

    def draw(structures):
        scale = rng.gamma(2.0, size=structures)
        atoms = rng.integers(1, 30, size=structures)  # of different size
        index = np.repeat(np.arange(structures), atoms)
        return scale[index] * rng.standard_t(3, size=len(index)), np.ones(len(index)), index

    covered = []
    for _ in range(2000):
        factor = metrics.conformal_factor(*draw(20), 0.8)
        residual, std, _ = draw(1)
        covered.append(np.mean(np.abs(residual) <= factor * std))
    error = np.std(covered) / np.sqrt(len(covered))
    assert 0.8 - 4 * error < np.mean(covered) < 0.8 + 1 / 21 + 4 * error


def test_coverage_curve_and_width(sample):
    residual, std = sample
    levels = np.array([0.1, 0.5, 0.68, 0.95])
    expected = [metrics.interval_coverage(residual, std, level) for level in levels]
    np.testing.assert_array_equal(metrics.coverage_curve(residual, std, levels), expected)
    assert metrics.interval_width([1.0, 3.0], 0.95) == pytest.approx(2 * 1.959964 * 2, rel=1e-6)


def test_coverage_equals_uncertainty_toolbox(sample):
    uct = pytest.importorskip("uncertainty_toolbox")
    residual, std = sample
    levels, observed = uct.get_proportion_lists_vectorized(np.zeros_like(std), 1.3 * std, residual)
    np.testing.assert_allclose(metrics.coverage_curve(residual, 1.3 * std, levels), observed, atol=1e-12)


def test_nece_by_hand_and_calibrated(sample):
    residual, std, width = np.array([0.1, -0.3, 0.15, 0.9]), np.array([0.2, 0.5, 0.1, 0.4]), 0.25
    expected = 0.0
    for low in np.arange(-2, 5) * width:
        observed = np.mean((residual >= low) & (residual < low + width))
        promised = np.mean(norm.cdf(low + width, scale=std) - norm.cdf(low, scale=std))
        expected += observed * abs(observed - promised) / width
    assert metrics.nece(residual, std, width) == pytest.approx(expected, rel=1e-12)
    residual, std = sample
    assert metrics.nece(residual, std) < 0.2 * metrics.nece(residual, 0.5 * std)
    # the width of the bins changes little: an integral of densities
    wide, narrow = (metrics.nece(residual, 0.5 * std, share * np.std(residual)) for share in (0.3, 0.1))
    assert wide == pytest.approx(narrow, rel=0.1)
    with pytest.raises(ValueError, match="width"):
        metrics.nece(residual, std, 0.0)


def test_ranking_equals_scikit_learn(ranked):
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, error = ranked
    found = metrics.classification(score, error, 0.1)
    assert found.auroc == roc_auc_score(error > 0.1, score)
    assert found.auprc == average_precision_score(error > 0.1, score)


def test_reference_of_calibrated_residuals(sample):
    residual, std = sample
    reference = metrics.when_calibrated(lambda r, s: metrics.ence(r, s, 15), std)
    assert reference.low < metrics.ence(residual, std, 15) < reference.high
    assert reference.value == pytest.approx(np.sqrt(15 / np.pi / len(std)), rel=0.1)
    assert metrics.ence(residual, 1.2 * std, 15) > reference.high
