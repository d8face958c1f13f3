"""Labelled frames from files, converted to eV and A and checked."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from uqforce.data.frame import Frame, check_frame, require_labels
from uqforce.data.structure_files import Raw, iterate, raw_from_atoms
from uqforce.data.units import Units
from uqforce.errors import DataError


@dataclass(frozen=True)
class Keys:
    """Says under which names files keep their labels; where a file has several names of one they must agree.

    Each is one name or a sequence of names, and () ignores the label. Names are looked up wherever ASE puts
    them (calculator results, `info`, `arrays`). MACE's names (REF_energy, ..., REF_virials) are known.

    Example:
        >>> import uqforce
        >>> frames = uqforce.read_frames("train.xyz", uqforce.Keys(energy="energy", stress=(), virial=()))
        >>> frames[0].stress is None
        True
    """

    energy: str | Sequence[str] = ("energy", "REF_energy")
    forces: str | Sequence[str] = ("forces", "REF_forces")
    stress: str | Sequence[str] = ("stress", "REF_stress")
    virial: str | Sequence[str] = ("virial", "virials", "REF_virial", "REF_virials")
    group: str | Sequence[str] = "group"

    def names(self, label: str) -> tuple[str, ...]:
        """The names of a label, as a tuple."""
        value = getattr(self, label)
        return (value,) if isinstance(value, str) else tuple(value)


DEFAULT_KEYS = Keys()
DEFAULT_UNITS = Units()


def read_frames(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    keys: Keys = DEFAULT_KEYS,
    units: Units = DEFAULT_UNITS,
    index: str = ":",
    require: Iterable[str] = (),
) -> list[Frame]:
    """Read labelled structures from one or several files, convert them to eV and A, and check them.

    paths: .xyz, .extxyz, also compressed (.xz, .gz, .bz2); .npz; or anything else that `ase.io.read` knows.
    An .npz file holds arrays over F frames of n atoms: nuclear_charges (or atomic_numbers, z, Z) [n] or
    [F,n], coords (or positions, coord, R) [F,n,3], and where it has them energies (energy, E) [F], forces
    (force, F) [F,n,3], cell (box) [3,3], [F,3,3] or [F,9], pbc [3] or [F,3] (all True by default where there
    is a cell), and others of `keys`, over F. keys, units: see `Keys` and `Units`. index: a slice such as
    "0:100" or one number, applied to every file. require: labels ("energy", "forces", "stress") that no frame
    may lack.

    A stress has 3x3, 9 or 6 numbers (xx yy zz yz xz xy) and is positive in tension; a virial is turned into
    stress = -virial / volume. For structures without periodic directions the cell becomes zeros, and a
    stress, which has no meaning there, is left out with a warning.

    Raises `DataError`, naming file and frame, for unreadable or truncated files, labels that contradict each
    other, wrong shapes, NaN or infinity, structures without atoms, cells without volume, and missing labels.

    Example:
        >>> import uqforce
        >>> frames = uqforce.read_frames("train.xyz", index=":2", require=["forces"])
        >>> len(frames), frames[0].forces.shape
        (2, (4, 3))
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    frames = [
        _frame(raw, keys, units, (str(path), number))
        for path in map(Path, files)
        for number, raw in iterate(path, index)
    ]
    if not frames:
        raise DataError(f"no frames in {', '.join(map(str, files))} with index {index!r}")
    stress_names = {*keys.names("stress"), *keys.names("virial")}
    if meaningless := [
        frame for frame in frames if not frame.pbc.any() and stress_names.intersection(frame.present)
    ]:
        warnings.warn(
            f"the stress of {len(meaningless)} frames without periodic directions is left out, the first of "
            f"them is {meaningless[0].name}; set pbc in the file if they are periodic",
            stacklevel=2,
        )
    require_labels(frames, require)
    return frames


def frame_from_atoms(
    atoms: Atoms, keys: Keys = DEFAULT_KEYS, units: Units = DEFAULT_UNITS, number: int = 0
) -> Frame:
    """A checked frame from ASE's `Atoms`, number `number` of the caller's list. Raises as `read_frames`."""
    return _frame(raw_from_atoms(atoms), keys, units, ("memory", number))


def _frame(raw: Raw, keys: Keys, units: Units, source: tuple[str, int]) -> Frame:
    pbc = np.array(raw.pbc, dtype=bool)
    cell = np.array(raw.cell, dtype=np.float64) * units.length_factor
    frame = Frame(
        atomic_numbers=np.array(raw.numbers, dtype=np.int64),
        positions=np.array(raw.positions, dtype=np.float64) * units.length_factor,
        cell=cell if pbc.any() else np.zeros((3, 3)),
        pbc=pbc,
        source=source,
        present=tuple(raw.values),
    )
    check_frame(frame)  # the labels' conversion needs sound shapes and a cell with a volume
    if (energy := _label("energy", keys, raw.values, frame)) is not None:
        frame.energy = float(energy) * units.energy_factor
    if (forces := _label("forces", keys, raw.values, frame)) is not None:
        frame.forces = forces * units.forces_factor
    if pbc.any():
        frame.stress = _stress(frame, keys, units, raw.values)
    frame.group = next((str(raw.values[name]) for name in keys.names("group") if name in raw.values), None)
    check_frame(frame)
    return frame


def _stress(frame: Frame, keys: Keys, units: Units, values: dict[str, object]) -> np.ndarray | None:
    stress = _label("stress", keys, values, frame)
    virial = _label("virial", keys, values, frame)
    if stress is None and virial is None:
        return None
    if frame.volume == 0:
        raise DataError(
            f"{frame.name} has a stress or virial but its cell {frame.cell.tolist()} has no volume"
        )
    if stress is not None:
        stress = stress * units.stress_factor
    if virial is not None:
        from_virial = -virial * units.energy_factor / frame.volume
        if stress is not None and not np.allclose(stress, from_virial, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise DataError(
                f"{frame.name}: stress {stress.tolist()} and -virial/volume {from_virial.tolist()} (eV/A^3) "
                "differ: check their units and signs, or drop one with Keys(stress=()) or Keys(virial=())"
            )
        stress = from_virial if stress is None else stress
    finite = np.isfinite(stress).all()  # if not, check_frame says so
    if finite and np.abs(stress - stress.T).max() > 1e-2 * np.abs(stress).max():
        raise DataError(
            f"{frame.name}: stress {stress.tolist()} is not symmetric: check the order of its components"
        )
    return (stress + stress.T) / 2


def _label(label: str, keys: Keys, values: dict[str, object], frame: Frame) -> np.ndarray | None:
    """The label in the file's unit: energy [], forces [n,3], stress and virial [3,3]; None where absent."""
    found = {}
    for name in keys.names(label):
        if values.get(name) is not None:
            try:
                value = np.asarray(values[name], dtype=np.float64)
            except (TypeError, ValueError):
                raise DataError(f"{frame.name}: {name} is {values[name]!r}, expected numbers") from None
            found[name] = _shaped(label, name, value, frame)
    if not found:
        return None
    (first, value), *others = found.items()
    for other, second in others:
        if not np.allclose(value, second, rtol=1e-6, atol=1e-8, equal_nan=True):
            at = np.unravel_index(np.nanargmax(np.abs(value - second)), value.shape)
            raise DataError(
                f"{frame.name} has both {first} and {other} and they differ ({value[at]} and {second[at]}): "
                f"name the one to use, as in Keys({label}={other!r})"
            )
    return value


def _shaped(label: str, name: str, value: np.ndarray, frame: Frame) -> np.ndarray:
    if label == "energy" and value.size == 1:
        return value.reshape(())
    if label == "forces" and value.shape in ((len(frame), 3), (3 * len(frame),)):
        return value.reshape(-1, 3)
    if label in ("stress", "virial") and value.size == 9:
        return value.reshape(3, 3)
    if label in ("stress", "virial") and value.shape == (6,):
        return voigt_6_to_full_3x3_stress(value)
    expected = {"energy": "one number", "forces": f"[{len(frame)}, 3]"}.get(label, "3x3, 9 or 6 numbers")
    raise DataError(f"{frame.name}: {name} has shape {list(value.shape)}, expected {expected}")
