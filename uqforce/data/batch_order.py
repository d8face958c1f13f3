"""Which structures are seen in which step: a pure function of its arguments, so any step can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from uqforce.data.batch import Batch, collate
from uqforce.errors import InputError

if TYPE_CHECKING:
    from uqforce.data.store import Dataset


def batches(
    dataset: Sized,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
) -> list[list[int]]:
    """The structures of every step of one epoch for one process.

    `batch_size` counts the structures of a step over all processes. Step k takes entries k*batch_size to
    (k+1)*batch_size of the epoch's permutation (or of 0, 1, 2, ... without `shuffle`) and process `rank`
    every world_size-th of them, so every structure is seen exactly once per epoch, all processes take the
    same number of steps, and the union of their shares does not depend on their number. The last step keeps
    what is left; where that is fewer structures than processes, some shares are empty lists, which `collate`
    turns into empty batches.

    A run killed after k steps resumes with `batches(...)[k:]`. The permutation comes from numpy's frozen
    `RandomState([seed, epoch])` and is the same under every version of numpy.

    Raises InputError for batch_size or world_size below 1, a rank outside the world, or a negative seed or
    epoch.
    """
    if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size:
        raise InputError(
            f"batch_size {batch_size} and world_size {world_size} must be positive and rank {rank} lie in "
            f"[0, {world_size})"
        )
    n = len(dataset)
    order = np.random.RandomState([seed, epoch]).permutation(n) if shuffle else np.arange(n)
    return [order[start : start + batch_size][rank::world_size].tolist() for start in range(0, n, batch_size)]


def ordered_batches(
    structures: Dataset | Sequence[Batch],
    batch_size: int,
    device: torch.device | str | None = None,
    rank: int = 0,
    world_size: int = 1,
    title: str | None = None,
) -> Iterator[Batch]:
    """Yield a data set as batches in its own order, which is how models are evaluated over it.

    The arguments are those of `batches`; shares without structures are left out. With a `title` a terminal
    shows how far it is, after a second.

    Example:
        >>> atoms = sum(len(batch.positions) for batch in ordered_batches(dataset, 8))
    """
    shares = batches(structures, batch_size, 0, 0, rank, world_size, shuffle=False)
    for share in tqdm(shares, title, leave=False, delay=1, disable=True if title is None else None):
        if share:
            yield collate([structures[i] for i in share]).to(device)
