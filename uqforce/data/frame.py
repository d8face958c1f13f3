"""One labelled structure, and the checks that every structure passes before anything is computed from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from uqforce.errors import DataError


@dataclass(slots=True, eq=False)
class Frame:
    """Holds a structure and its labels, in eV and A; a label that the file does not give is None.

    atomic_numbers [n] int64; positions [n,3] float64 A; cell [3,3] float64 A, rows are lattice vectors, zeros
    for a structure without periodic directions; pbc [3] bool; energy eV; forces [n,3] eV/A; stress [3,3]
    eV/A^3, tension positive; group: a name shared by frames that belong together (see `split_by_group`).
    source: file (or "memory") and frame number in it. present: the keys found in the file, for messages.

    Example:
        >>> import uqforce
        >>> frame = uqforce.read_frames("train.xyz")[0]
        >>> len(frame), frame.source, frame.pbc.tolist()
        (4, ('train.xyz', 0), [True, True, True])
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    group: str | None = None
    source: tuple[str, int] = ("memory", 0)
    present: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def name(self) -> str:
        """The frame in words, as used by every message."""
        return f"frame {self.source[1]} of {self.source[0]}"

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols, [n]."""
        return [chemical_symbols[z] for z in self.atomic_numbers]

    @property
    def volume(self) -> float:
        """|det cell| in A^3, 0 without a full cell."""
        return float(abs(np.linalg.det(self.cell)))


def check_frame(frame: Frame) -> None:
    """Raise `DataError` unless shapes agree, numbers are finite and the periodic directions span a volume."""
    n = len(frame)
    if n == 0:
        raise DataError(f"{frame.name} has no atoms: remove it")
    unknown = [int(z) for z in frame.atomic_numbers if not 0 < z < len(chemical_symbols)]
    if unknown:
        raise DataError(f"{frame.name}: atomic number {unknown[0]} is no chemical element")
    shapes = {"positions": (n, 3), "cell": (3, 3), "pbc": (3,), "forces": (n, 3), "stress": (3, 3)}
    for field, shape in shapes.items():
        value = getattr(frame, field)
        if value is not None and value.shape != shape:
            raise DataError(f"{frame.name}: {field} has shape {list(value.shape)}, expected {list(shape)}")
    for field in ("positions", "forces"):
        value = getattr(frame, field)
        if value is not None and not np.isfinite(value).all():
            atom = int(np.flatnonzero(~np.isfinite(value).all(axis=1))[0])
            raise DataError(
                f"{frame.name}: {field} of atom {atom} are {value[atom].tolist()}: repair or remove the frame"
            )
    for field in ("cell", "energy", "stress"):
        value = getattr(frame, field)
        if value is not None and not np.isfinite(value).all():
            raise DataError(
                f"{frame.name}: {field} is {np.asarray(value).tolist()}: repair or remove the frame"
            )
    rows = frame.cell[frame.pbc]
    lengths = np.linalg.norm(rows, axis=1)
    # area or volume spanned, relative to that of orthogonal vectors of the same lengths
    if len(rows) and (lengths.min() == 0 or np.linalg.det(rows @ rows.T) < (1e-6 * lengths.prod()) ** 2):
        raise DataError(
            f"{frame.name}: the cell {frame.cell.tolist()} has no volume in its periodic directions "
            f"(pbc {frame.pbc.tolist()}): give lattice vectors or set pbc to False"
        )


def require_labels(frames: Sequence[Frame], labels: Iterable[str]) -> None:
    """Raise `DataError` unless every frame has all of `labels` ("energy", "forces", "stress").

    The message counts and names the frames, lists the keys that they do have, and says what to do.
    """
    for label in labels:
        missing = [frame for frame in frames if getattr(frame, label) is None]
        if missing:
            names = ", ".join(frame.name for frame in missing[:5]) + (", ..." if len(missing) > 5 else "")
            present = sorted({key for frame in missing for key in frame.present})
            raise DataError(
                f"{len(missing)} of {len(frames)} frames have no {label}: {names}. Keys present in them: "
                f"{', '.join(present) or 'none'}. Name the key, as in Keys({label}='...'), or remove them"
            )


def check_types(frames: Sequence[Frame], type_names: Sequence[str]) -> None:
    """Raise `DataError` unless every element of `frames` is in `type_names` and no name occurs twice."""
    unknown_names = [name for name in type_names if name not in chemical_symbols[1:]]
    if unknown_names or len(set(type_names)) != len(type_names):
        raise DataError(
            f"type_names {list(type_names)} must be distinct chemical symbols; wrong: {unknown_names}"
        )
    allowed = {chemical_symbols.index(name) for name in type_names}
    for frame in frames:
        foreign = set(frame.atomic_numbers.tolist()) - allowed
        if foreign:
            symbols = ", ".join(chemical_symbols[z] for z in sorted(foreign))
            raise DataError(
                f"{frame.name} contains {symbols}, not in type_names {list(type_names)}: add it there"
            )


def type_names_of(frames: Iterable[Frame]) -> list[str]:
    """The chemical symbols that occur in `frames`, by atomic number."""
    return [
        chemical_symbols[z]
        for z in sorted({int(z) for frame in frames for z in set(frame.atomic_numbers.tolist())})
    ]
