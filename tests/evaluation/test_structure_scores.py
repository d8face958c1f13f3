"""Scores of structures from those of their atoms."""

import numpy as np

from uqforce.evaluation.structure_scores import structure_scores


def test_structure_scores():
    scores = structure_scores([1.0, 5.0, -3.0, -4.0], [0, 0, 2, 2], 3)
    np.testing.assert_array_equal(scores.mean, [3.0, np.nan, -3.5])
    np.testing.assert_array_equal(scores.max, [5.0, np.nan, -3.0])
    np.testing.assert_array_equal(scores.sum, [6.0, np.nan, -7.0])
