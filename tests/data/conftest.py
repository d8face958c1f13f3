"""Small structures made by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from ase.data import atomic_numbers

from uqforce.data import Frame


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    """`make_frame("OHH", seed, energy=..., ...)`: random positions, one-letter symbols, fields as given."""

    def make(symbols: str, seed: int = 0, **fields: object) -> Frame:
        random = np.random.RandomState(seed)
        fields.setdefault("positions", random.uniform(0, 1 + len(symbols) ** (1 / 3), (len(symbols), 3)))
        fields.setdefault("cell", np.zeros((3, 3)))
        fields.setdefault("pbc", np.zeros(3, dtype=bool))
        fields.setdefault("source", ("memory", seed))
        return Frame(np.array([atomic_numbers[symbol] for symbol in symbols]), **fields)

    return make


@pytest.fixture
def labelled(make_frame) -> list[Frame]:
    """Molecules and crystals of several sizes; each label is missing somewhere."""
    random = np.random.RandomState(7)
    cell = np.array([[4.0, 0.1, 0.0], [0.3, 4.5, 0.2], [0.0, 0.4, 5.0]])
    frames = []
    for i, symbols in enumerate(["OHH", "CHHHH", "O", "CO", "OHHOHH", "CC"]):
        n, periodic = len(symbols), i % 2 == 1
        stress = random.normal(size=(3, 3))
        frames.append(
            make_frame(
                symbols,
                i,
                cell=cell if periodic else np.zeros((3, 3)),
                pbc=np.array([periodic] * 3),
                energy=float(random.normal()) if i != 4 else None,
                forces=random.normal(size=(n, 3)) if i not in (2, 5) else None,
                stress=stress + stress.T if i in (1, 3) else None,
            )
        )
    return frames
