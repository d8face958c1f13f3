"""From a score to the error it stands for."""

import numpy as np
from sklearn.isotonic import IsotonicRegression

ATOMS_PER_GROUP = 50


def score_at_error(score, error, level: float) -> float:
    """The score at which the rms error of atoms reaches `level`: a limit for dynamics, such as `--halt-nll`.

    Atoms [n] are grouped by ascending score, `ATOMS_PER_GROUP` together, and the groups' mean square errors
    fitted by a non-decreasing function. nan where even the highest scores stay below `level`.

    Raises:
        ValueError: arrays of different or no length, values that are not finite.
    """
    score, error = np.asarray(score, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if score.ndim != 1 or score.shape != error.shape or not len(score):
        raise ValueError(f"need two arrays [n] with n > 0, got shapes {score.shape} and {error.shape}")
    if not (np.isfinite(score).all() and np.isfinite(error).all()):
        raise ValueError("scores and errors must be finite")
    groups = np.array_split(np.argsort(score, kind="stable"), max(1, len(score) // ATOMS_PER_GROUP))
    centres = [np.median(score[group]) for group in groups]
    fitted = IsotonicRegression().fit_transform(centres, [np.mean(error[group] ** 2) for group in groups])
    reached = np.flatnonzero(fitted >= level**2)
    return float(centres[reached[0]]) if len(reached) else float("nan")
