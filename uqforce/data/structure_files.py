"""Structures and whatever stands beside them, as files give them: unconverted and unchecked.

Extended XYZ is cut into frames here and ASE parses each one. ASE alone seeks back to every frame, which in a
compressed file means decompressing from its start every time, ends silently at a blank line, and does not say
which frame is broken.
"""

import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import get_compression, open_with_compression

from uqforce.errors import DataError

T = TypeVar("T")


class Raw(NamedTuple):
    """numbers [n], positions [n,3], cell [3,3], pbc [3]; values: everything else by the file's own names."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    values: dict[str, object]


def iterate(path: Path, index: str) -> Iterator[tuple[int, Raw]]:
    """The frames of a file with their numbers; `index` is a Python slice or one number.

    Raises `DataError`, naming file and frame, for a file that cannot be read, is truncated or malformed.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    window = _window(index)
    name = Path(get_compression(str(path))[0])
    if name.suffix in (".xyz", ".extxyz"):
        for number, lines in _select(_xyz_frames(path), window):
            yield number, raw_from_atoms(_parse_xyz(path, number, lines))
    elif name.suffix == ".npz":
        yield from _select(_npz_frames(path), window)
    else:
        for number, atoms in _select(_ase_frames(path), window):
            yield number, raw_from_atoms(atoms)


def raw_from_atoms(atoms: Atoms) -> Raw:
    """ASE moves energy, forces and stress into a calculator, and leaves virial and REF_* in info, arrays."""
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    results = atoms.calc.results if atoms.calc is not None else {}
    return Raw(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, {**arrays, **atoms.info, **results}
    )


def _window(index: str) -> slice:
    parts = index.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
        window = slice(*numbers)
    except (TypeError, ValueError):
        raise DataError(
            f"index {index!r} is neither a number nor a slice such as '0:100' or '::10'"
        ) from None
    if len(parts) > 1:
        return window
    (number,) = numbers
    return slice(number, None if number == -1 else number + 1)


def _select(items: Iterable[T], window: slice) -> Iterator[tuple[int, T]]:
    numbered = enumerate(items)
    if any(part is not None and part < 0 for part in (window.start, window.stop, window.step)):
        yield from list(numbered)[window]
    else:
        yield from islice(numbered, window.start, window.stop, window.step)


def _xyz_frames(path: Path) -> Iterator[list[str]]:
    number = 0
    try:
        with open_with_compression(str(path)) as file:
            while header := file.readline():
                if not header.strip():
                    continue
                if not header.strip().isdecimal():
                    raise DataError(
                        f"{path}: frame {number} should begin with its number of atoms, found "
                        f"{header.strip()[:60]!r}; the frame before it may have more lines than it announces"
                    )
                num_atoms = int(header)
                lines = [header, *islice(file, num_atoms + 1)]
                if len(lines) < num_atoms + 2:
                    raise DataError(
                        f"{path} is truncated: frame {number} announces {num_atoms} atoms, "
                        f"{max(len(lines) - 2, 0)} lines of atoms follow"
                    )
                if not lines[-1].endswith("\n"):
                    warnings.warn(
                        f"{path} ends without a newline: if truncated, the last number of frame {number} "
                        "is wrong",
                        stacklevel=2,
                    )
                yield lines
                number += 1
    except (EOFError, OSError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read after {number} frames, it may be truncated: {error}"
        ) from error


def _parse_xyz(path: Path, number: int, lines: list[str]) -> Atoms:
    try:
        return next(read_xyz(StringIO("".join(lines)), index=0, properties_parser=_parse_comment))
    except Exception as error:  # ASE raises whatever its parsing stumbled over
        raise DataError(
            f"{path}: frame {number} is malformed or truncated ({type(error).__name__}: {error}); "
            "compare its lines with its Properties and its first line"
        ) from error


_TENSOR = re.compile(r"(?<!\w)(stress|virial)=([\"'{\[])([^\"'}\]]*)[\"'}\]]")


def _parse_comment(line: str) -> dict[str, object]:
    """ASE's parser, which wants nine numbers of `stress` and `virial`, with six (Voigt) allowed as well."""

    def expand(match: re.Match) -> str:
        numbers = match[3].replace(",", " ").split()
        if len(numbers) != 6:
            return match[0]
        xx, yy, zz, yz, xz, xy = numbers
        return f'{match[1]}="{xx} {xy} {xz} {xy} {yy} {yz} {xz} {yz} {zz}"'

    return key_val_str_to_dict(_TENSOR.sub(expand, line))


def _ase_frames(path: Path) -> Iterator[Atoms]:
    number = 0
    try:
        for atoms in iread(str(path), index=":"):
            yield atoms
            number += 1
    except Exception as error:  # each of ASE's formats raises its own kind
        raise DataError(
            f"{path}: ASE cannot read frame {number} ({type(error).__name__}: {error})"
        ) from error


# Other names under which .npz files keep the same things: rMD17 and sGDML, and exports of DeePMD's systems.
_NPZ_NAMES = {
    "atomic_numbers": ("nuclear_charges", "numbers", "z", "Z"),
    "positions": ("coords", "coord", "R"),
    "cell": ("box",),
    "energy": ("energies", "E"),
    "forces": ("force", "F"),
}


def _npz_frames(path: Path) -> Iterator[Raw]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    present = ", ".join(arrays)
    for key, aliases in _NPZ_NAMES.items():
        found = [alias for alias in aliases if alias in arrays]
        if key not in arrays and found:
            arrays[key] = arrays[found[0]] if key in ("energy", "forces") else arrays.pop(found[0])
    for key in ("atomic_numbers", "positions"):
        if key not in arrays:
            raise DataError(
                f"{path} has no {key} (or {', '.join(_NPZ_NAMES[key])}); its arrays are: {present}"
            )
    numbers, positions = arrays.pop("atomic_numbers"), arrays.pop("positions")
    if positions.ndim == 2:  # DeePMD's [F, 3n]
        positions = positions.reshape(len(positions), -1, 3)
    num_frames = len(positions)
    for key in ("energy", "forces", "stress", "virial"):
        if key in arrays and arrays[key].shape[:1] != (num_frames,):
            raise DataError(
                f"{path}: {key} has shape {list(arrays[key].shape)} for {num_frames} frames of positions"
            )
    cell = arrays.pop("cell", None)
    pbc = arrays.pop("pbc", np.array([cell is not None] * 3))
    cell = (
        np.zeros((3, 3))
        if cell is None
        else cell.reshape(*cell.shape[:-1], 3, 3)
        if cell.shape[-1] == 9
        else cell
    )
    per_frame = {key: array for key, array in arrays.items() if array.ndim and len(array) == num_frames}
    for i in range(num_frames):
        yield Raw(
            numbers[i] if numbers.ndim == 2 else numbers,
            positions[i],
            cell[i] if cell.ndim == 3 else cell,
            pbc[i] if pbc.ndim == 2 else pbc,
            {key: array[i] for key, array in per_frame.items()},
        )
