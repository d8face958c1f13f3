import numpy as np
import pytest

from uqforce.uncertainty.calibration import ATOMS_PER_GROUP, score_at_error


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
