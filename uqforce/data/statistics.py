"""Numbers that scale and shift a model: atomic energies, force rms, numbers of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uqforce.data.frame import Frame, check_types, require_labels
from uqforce.data.read import DEFAULT_KEYS, DEFAULT_UNITS, Keys, read_frames
from uqforce.data.store import Dataset
from uqforce.data.units import Units
from uqforce.errors import DataError

# A lone atom in a periodic cell counts as isolated from this length of the lattice vectors on, in A.
_ISOLATED = 8.0


def isolated_energies(
    source: Sequence[Frame] | str | Path,
    type_names: Sequence[str],
    keys: Keys = DEFAULT_KEYS,
    units: Units = DEFAULT_UNITS,
) -> np.ndarray:
    """Energy of the isolated atom of each type, [T] eV, from frames or a file (read with `keys` and `units`).

    Frames of one atom count, not periodic or in a cell with lattice vectors of 8 A or more; others are passed
    over.

    Raises `DataError` for a type without such a frame, one without energy, or two that differ by over 1e-6
    eV.
    """
    frames = read_frames(source, keys, units) if isinstance(source, str | Path) else source
    lone = [f for f in frames if len(f) == 1 and (np.linalg.norm(f.cell[f.pbc], axis=1) >= _ISOLATED).all()]
    require_labels(lone, ["energy"])
    found: dict[str, Frame] = {}
    for frame in lone:
        other = found.setdefault(frame.symbols[0], frame)
        if abs(frame.energy - other.energy) > 1e-6:
            raise DataError(
                f"two energies of an isolated {frame.symbols[0]}: {other.energy} eV in {other.name}, "
                f"{frame.energy} eV in {frame.name}; keep one"
            )
    if missing := [name for name in type_names if name not in found]:
        raise DataError(
            f"no isolated atom of {', '.join(missing)} among {len(frames)} frames (there are: "
            f"{', '.join(found) or 'none'}): add frames with one atom each, or use least_squares_energies"
        )
    return np.array([found[name].energy for name in type_names])


class AtomicEnergies(NamedTuple):
    """energies [T] eV; rank of the composition matrix; report: the fit in a sentence or two."""

    energies: np.ndarray
    rank: int
    report: str


def least_squares_energies(frames: Sequence[Frame], type_names: Sequence[str]) -> AtomicEnergies:
    """Energies per type that add up to the frames' energies as well as possible (unweighted least squares).

    Where the compositions do not determine every type's energy (one molecule only, a type that never occurs),
    the solution of minimum norm is returned, `rank` is below T, and the report says so: such energies serve
    only compositions like those of the frames.

    Raises `DataError` for an element outside `type_names` or frames without any energy.
    """
    check_types(frames, type_names)
    labelled = [frame for frame in frames if frame.energy is not None]
    if not labelled:
        require_labels(frames, ["energy"])
    counts = np.array(
        [[frame.symbols.count(name) for name in type_names] for frame in labelled], dtype=np.float64
    )
    energy = np.array([frame.energy for frame in labelled])
    energies, _, rank, _ = np.linalg.lstsq(counts, energy, rcond=None)
    rms = np.sqrt(np.mean(((counts @ energies - energy) / counts.sum(axis=1)) ** 2))
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(type_names, energies))
    report = f"least-squares atomic energies (eV): {values}; rms residual {rms * 1e3:.1f} meV/atom"
    if rank < len(type_names):
        report += (
            f". The compositions of {len(labelled)} frames have rank {rank} for {len(type_names)} types: "
            "the energies are not unique and those of minimum norm are used, which other compositions "
            "do not obey; isolated-atom energies avoid that"
        )
    return AtomicEnergies(energies, int(rank), report)


@dataclass(frozen=True)
class Statistics:
    """A data set in numbers; values per type have shape [T] and are NaN for a type without atoms (or labels).

    forces_rms: root mean square of the force components, eV/A. avg_num_neighbors: edges per centre atom.
    energy_per_atom_mean and _std: of (energy - sum of the atomic energies given) / n over the structures, eV.
    """

    type_names: tuple[str, ...]
    num_structures: int
    num_atoms: int
    num_atoms_per_type: np.ndarray
    avg_num_neighbors: float
    avg_num_neighbors_per_type: np.ndarray
    forces_rms: float
    forces_rms_per_type: np.ndarray
    energy_per_atom_mean: float
    energy_per_atom_std: float

    def __str__(self) -> str:
        lines = [
            f"{self.num_structures} structures, {self.num_atoms} atoms; energy per atom less atomic energies "
            f"{self.energy_per_atom_mean:.4f} +- {self.energy_per_atom_std:.4f} eV",
            f"{'type':6}{'atoms':>10}{'neighbours':>12}{'force rms, eV/A':>17}",
        ]
        rows = zip(
            (*self.type_names, "all"),
            (*self.num_atoms_per_type, self.num_atoms),
            (*self.avg_num_neighbors_per_type, self.avg_num_neighbors),
            (*self.forces_rms_per_type, self.forces_rms),
        )
        lines += [f"{name:6}{atoms:10d}{neighbors:12.2f}{rms:17.4f}" for name, atoms, neighbors, rms in rows]
        return "\n".join(lines)


def compute_statistics(dataset: Dataset, atomic_energies: np.ndarray | None = None) -> Statistics:
    """The statistics of a data set, energies taken relative to `atomic_energies` [T] eV where given."""
    num_types = len(dataset.type_names)
    types = dataset.atom_types
    atoms = np.bincount(types, minlength=num_types)
    edges = np.zeros(num_types, dtype=np.int64)
    for i in range(len(dataset)):
        own = types[dataset.atom_offsets[i] : dataset.atom_offsets[i + 1]]
        edges += np.bincount(own[dataset.centres(i)], minlength=num_types)
    labelled = np.repeat(dataset.has_forces, dataset.num_atoms)
    squares = np.bincount(types[labelled], (dataset.forces[labelled] ** 2).sum(axis=1), minlength=num_types)
    components = 3 * np.bincount(types[labelled], minlength=num_types)
    shifts = np.zeros(num_types) if atomic_energies is None else np.asarray(atomic_energies)
    offset = np.add.reduceat(shifts[types], dataset.atom_offsets[:-1])
    per_atom = ((dataset.energy - offset) / dataset.num_atoms)[dataset.has_energy]
    with np.errstate(invalid="ignore"):  # 0 / 0 is the documented NaN
        return Statistics(
            type_names=tuple(dataset.type_names),
            num_structures=len(dataset),
            num_atoms=len(types),
            num_atoms_per_type=atoms,
            avg_num_neighbors=float(edges.sum() / len(types)),
            avg_num_neighbors_per_type=edges / atoms,
            forces_rms=float(np.sqrt(squares.sum() / components.sum())),
            forces_rms_per_type=np.sqrt(squares / components),
            energy_per_atom_mean=float(per_atom.mean()) if len(per_atom) else float("nan"),
            energy_per_atom_std=float(per_atom.std()) if len(per_atom) else float("nan"),
        )
