"""Training and validation frames, drawn with a seed or by group or from separate files; check for leakage.

Separate files need no function: read each, then `check_leakage({"train": a, "validation": b})`.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from uqforce.data.frame import Frame
from uqforce.errors import DataError

log = logging.getLogger("uqforce.data")


class Split(NamedTuple):
    """Training and validation frames, each in the order of the input."""

    train: list[Frame]
    validation: list[Frame]


def split_random(
    frames: Sequence[Frame], validation: int | float, train: int | float | None = None, seed: int = 0
) -> Split:
    """Draw validation and training frames without replacement; integers are counts, floats fractions.

    Of one permutation (numpy's frozen `RandomState(seed)`) the first are the validation frames and the next
    the training frames, all that are left where `train` is None. So for one seed the validation frames do not
    depend on `train`, and smaller training sets are contained in larger ones.

    Raises `DataError` where a part would be empty or the two need more frames than there are.
    """
    n = len(frames)
    num_validation = _count(validation, n, "validation")
    num_train = n - num_validation if train is None else _count(train, n, "train")
    if num_train < 1 or num_train + num_validation > n:
        raise DataError(
            f"cannot draw {num_train} training and {num_validation} validation frames from {n}: "
            "each part needs at least one frame and together they may not exceed what there is"
        )
    order = np.random.RandomState(seed).permutation(n)
    parts = order[num_validation : num_validation + num_train], order[:num_validation]
    return Split(*([frames[i] for i in np.sort(part)] for part in parts))


def split_by_group(frames: Sequence[Frame], validation: Sequence[str] | float, seed: int = 0) -> Split:
    """Keep frames of one `group` together; validation groups by name, or drawn to reach a fraction.

    With a fraction, groups are taken in an order drawn with `seed` until at least that fraction of the frames
    is in the validation part.

    Raises `DataError` for frames without a group, unknown names, or an empty part.
    """
    if missing := [frame for frame in frames if frame.group is None]:
        raise DataError(
            f"{len(missing)} of {len(frames)} frames have no group, first {missing[0].name}; keys present "
            f"in it: {', '.join(missing[0].present) or 'none'}. Name one, as in Keys(group='config_type')"
        )
    sizes: dict[str, int] = defaultdict(int)
    for frame in frames:
        sizes[frame.group] += 1
    if isinstance(validation, float):
        wanted, chosen = _count(validation, len(frames), "validation"), set[str]()
        names = sorted(sizes)
        for i in np.random.RandomState(seed).permutation(len(names)):
            if sum(sizes[name] for name in chosen) >= wanted:
                break
            chosen.add(names[i])
    else:
        chosen = {validation} if isinstance(validation, str) else set(validation)
        if unknown := chosen - set(sizes):
            raise DataError(
                f"no frame has group {', '.join(sorted(unknown))}; groups are {', '.join(sorted(sizes))}"
            )
    split = Split(
        [frame for frame in frames if frame.group not in chosen],
        [frame for frame in frames if frame.group in chosen],
    )
    if not all(split):
        raise DataError(
            f"validation groups {sorted(chosen)} of {sorted(sizes)} leave one part of the split empty"
        )
    return split


def _count(amount: int | float, n: int, part: str) -> int:
    if isinstance(amount, float):
        if not 0 < amount < 1:
            raise DataError(
                f"{part} = {amount}: a fraction lies between 0 and 1; write an integer for a count"
            )
        return max(1, round(amount * n))
    if amount < 1:
        raise DataError(f"{part} = {amount}: at least one frame is needed")
    return amount


def check_leakage(splits: Mapping[str, Sequence[Frame]], allow_duplicates: bool = False) -> int:
    """The number of pairs of equal frames in different splits, such as {"train": ..., "validation": ...}.

    Raises `DataError` listing them where there are any, unless `allow_duplicates`, which logs the same
    text.
    """
    lines = []
    for (first, a), (second, b) in combinations(splits.items(), 2):
        lines += [f"{first}: {a[i].name} = {second}: {b[j].name}" for i, j in find_duplicates(a, b)]
    if lines:
        shown = "\n  ".join(lines[:20] + [f"... {len(lines) - 20} more"] * (len(lines) > 20))
        text = f"{len(lines)} pairs of equal frames are in different splits:\n  {shown}"
        if not allow_duplicates:
            raise DataError(f"{text}\nRemove them from one split, or set allow_duplicates=True")
        log.warning(text)
    return len(lines)


def find_duplicates(
    first: Sequence[Frame], second: Sequence[Frame], tolerance: float = 1e-4
) -> list[tuple[int, int]]:
    """Pairs (i, j) with first[i] equal to second[j]: species in order, pbc, coordinates within `tolerance`.

    All coordinates of positions and cell (A) have to agree within `tolerance`; a frame that was shifted,
    rotated or renumbered is another frame. Isolated atoms, which are equal by nature, are left out.

    Frames are hashed by a few weighted means of their coordinates, rounded to boxes; each frame of `second`
    is filed in every box that an equal frame could fall in, so rounding never hides a pair. Linear in the
    number of frames.
    """
    filed: dict[tuple, list[int]] = defaultdict(list)
    for j, frame in enumerate(second):
        if len(frame) > 1 or frame.pbc.any():
            species, means, _ = _signature(frame)
            low, high = (_boxes(means + sign * tolerance, tolerance) for sign in (-1, 1))
            for box in product(*({int(a), int(b)} for a, b in zip(low, high))):
                filed[species, box].append(j)
    pairs = []
    for i, frame in enumerate(first):
        species, means, coordinates = _signature(frame)
        box = tuple(_boxes(means, tolerance).astype(int).tolist())
        for j in filed.get((species, box), ()):
            if np.abs(coordinates - _signature(second[j])[2]).max() <= tolerance:
                pairs.append((i, j))
    return pairs


def _signature(frame: Frame) -> tuple[bytes, np.ndarray, np.ndarray]:
    coordinates = np.concatenate([frame.positions.ravel(), frame.cell.ravel()])
    weights = np.random.RandomState(0).standard_normal((4, len(coordinates)))
    weights /= np.abs(weights).sum(axis=1, keepdims=True)  # a mean moves by no more than the coordinates do
    return frame.atomic_numbers.tobytes() + frame.pbc.tobytes(), weights @ coordinates, coordinates


def _boxes(means: np.ndarray, tolerance: float) -> np.ndarray:
    return np.floor(means / (20 * tolerance))
