"""Structures, labels and neighbour lists of a data set in one memory-mapped file.

Layout: `MAGIC`, the length of the header (little-endian uint64), the header (JSON: format version, type
names, cutoff, fingerprint of the frames, and each array's dtype, shape and place), then the arrays, each at a
multiple of 64 bytes, and the edges to the end of the file. A store is there as a whole or not at all.
"""

import hashlib
import io
import json
import logging
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from uqforce import ops
from uqforce.data.batch import Batch
from uqforce.data.frame import Frame, check_types
from uqforce.errors import DataError
from uqforce.files import atomically

log = logging.getLogger("uqforce.data")

MAGIC = b"UQFDATA\0"
FORMAT_VERSION = 1
_ALIGNMENT = 64
# index: centre and neighbour, counted within the structure and sorted by centre
_EDGE = np.dtype([("index", "<i4", (2,)), ("shift", "<i2", (3,))], align=True)


class Dataset:
    """Structures with their labels and neighbour lists, in memory or mapped from a store.

    `dataset[i]` is structure i as a `Batch` of one, and `collate` joins such batches. The labels are also
    there as read-only arrays over all F structures and N atoms: atom_types [N]; positions, forces [N,3];
    cell, stress [F,3,3]; pbc [F,3]; energy, has_energy, has_forces, has_stress, num_atoms, num_edges [F]; the
    atoms of structure i are atom_offsets[i] to atom_offsets[i+1]. Workers and forked processes share one
    mapping.
    """

    path: Path | None
    type_names: list[str]
    cutoff: float

    def __init__(self, path: str | Path) -> None:
        """Map the store at `path`. Raises `DataError` where it is no store, damaged, or of another format."""
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path} does not exist: make it with Dataset.build(frames, ..., path)")
        header = _read_header(self.path)
        if header["version"] != FORMAT_VERSION:
            raise DataError(
                f"{self.path} has format version {header['version']}, this uqforce reads {FORMAT_VERSION}: "
                "build it again with Dataset.build"
            )
        self._open(np.memmap(self.path, dtype=np.uint8, mode="r"), header)

    @classmethod
    def build(
        cls,
        frames: Sequence[Frame],
        type_names: Sequence[str],
        cutoff: float,
        path: str | Path | None = None,
    ) -> "Dataset":
        """Compute the neighbour lists of `frames` within `cutoff` (A); keep all at `path` or in memory.

        A store already at `path` is used when it was made from the same frames, types and cutoff, and
        replaced, and that logged, when not. Several processes may build one store at the same time.

        Raises `DataError` for no frames, an element outside `type_names`, a cutoff that is not positive, or a
        file at `path` that is no store.
        """
        if not frames:
            raise DataError("a data set needs at least one frame")
        if not 0 < cutoff < float("inf"):
            raise DataError(f"cutoff {cutoff} must be a positive length in A")
        check_types(frames, type_names)
        identity = {
            "version": FORMAT_VERSION,
            "type_names": list(type_names),
            "cutoff": float(cutoff),
            "frames": fingerprint(frames),
        }
        if path is None:
            memory = io.BytesIO()
            _write(memory, frames, identity)
            return cls._from_bytes(memory.getvalue())
        path = Path(path)
        if path.exists():
            header = _read_header(path)
            changed = [key for key, value in identity.items() if header.get(key) != value]
            if not changed:
                return cls(path)
            log.info(
                f"{path}: {', '.join(changed)} changed since it was made; computing the neighbour lists again"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomically(path) as place, open(place, "xb") as file:
            _write(file, frames, identity)
        return cls(path)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, index: int) -> Batch:
        i = range(len(self))[operator.index(index)]
        atoms = slice(self.atom_offsets[i], self.atom_offsets[i + 1])
        edges = self._edges[self._edge_offsets[i] : self._edge_offsets[i + 1]]
        structure = slice(i, i + 1)

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.array(array))  # a copy: the mapping is read-only

        return Batch(
            positions=tensor(self.positions[atoms]),
            cell=tensor(self.cell[structure]),
            pbc=tensor(self.pbc[structure]),
            atom_types=tensor(self.atom_types[atoms]),
            batch=torch.zeros(atoms.stop - atoms.start, dtype=torch.int64),
            num_structures=1,
            edge_index=torch.from_numpy(edges["index"].T.astype(np.int64, order="C")),
            cell_shift=torch.from_numpy(edges["shift"].astype(np.int64)),
            energy=tensor(self.energy[structure]),
            forces=tensor(self.forces[atoms]),
            stress=tensor(self.stress[structure]),
            has_energy=tensor(self.has_energy[structure]),
            has_forces=tensor(self.has_forces[structure]),
            has_stress=tensor(self.has_stress[structure]),
        )

    def centres(self, index: int) -> np.ndarray:
        """The centres of the edges of structure `index`, counted within it, ascending; [E] int32."""
        return self._edges["index"][self._edge_offsets[index] : self._edge_offsets[index + 1], 0]

    def __reduce__(self) -> tuple:
        """Another process maps the same file; data in memory are copied to it."""
        if self.path is not None:
            return Dataset, (self.path,)
        return Dataset._from_bytes, (self._data.tobytes(),)

    @classmethod
    def _from_bytes(cls, data: bytes) -> "Dataset":
        dataset = cls.__new__(cls)
        dataset.path = None
        dataset._open(np.frombuffer(data, dtype=np.uint8), _parse_header(io.BytesIO(data), "memory"))
        return dataset

    def _open(self, data: np.ndarray, header: dict) -> None:
        self._data = data
        self.type_names, self.cutoff = header["type_names"], header["cutoff"]

        def view(dtype: np.dtype, shape: Sequence[int], start: int) -> np.ndarray:
            stop = start + dtype.itemsize * int(np.prod(shape))
            if stop > len(data):
                raise DataError(
                    f"{self.path} is truncated at {len(data)} bytes: delete it and build it again"
                )
            return np.asarray(data[start:stop]).view(dtype).reshape(shape)

        start = header["data_start"]
        arrays = {
            name: view(np.dtype(dtype), shape, start + place)
            for name, (dtype, shape, place) in header["arrays"].items()
        }
        self.atom_offsets, self._edge_offsets = arrays["atom_offsets"], arrays["edge_offsets"]
        self.num_atoms, self.num_edges = np.diff(self.atom_offsets), np.diff(self._edge_offsets)
        self.atom_types, self.positions = arrays["atom_types"], arrays["positions"]
        self.cell, self.pbc = arrays["cell"], arrays["pbc"]
        self.energy, self.forces, self.stress = arrays["energy"], arrays["forces"], arrays["stress"]
        self.has_energy, self.has_forces = arrays["has_energy"], arrays["has_forces"]
        self.has_stress = arrays["has_stress"]
        self._edges = view(_EDGE, [int(self._edge_offsets[-1])], start + header["edges_start"])


def fingerprint(frames: Sequence[Frame]) -> str:
    """A hash of all that enters a store from `frames`: species, geometry and labels, not their origin."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        for field in ("atomic_numbers", "positions", "cell", "pbc", "energy", "forces", "stress"):
            value = getattr(frame, field)
            data = b"" if value is None else np.ascontiguousarray(value).tobytes()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def columns(frames: Sequence[Frame], type_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a store, by the names that they have in `Dataset`; a label that is missing is 0."""
    index = {name: i for i, name in enumerate(type_names)}

    def label(name: str, shape: tuple[int, ...]) -> list[np.ndarray]:
        values = (getattr(frame, name) for frame in frames)
        return [
            np.zeros([len(frame), 3] if name == "forces" else shape) if value is None else np.asarray(value)
            for frame, value in zip(frames, values)
        ]

    return {
        "atom_offsets": np.cumsum([0, *map(len, frames)], dtype=np.int64),
        "edge_offsets": np.zeros(len(frames) + 1, dtype=np.int64),
        "atom_types": np.array(
            [index[symbol] for frame in frames for symbol in frame.symbols], dtype=np.int64
        ),
        "positions": np.concatenate([frame.positions for frame in frames]),
        "cell": np.stack([frame.cell for frame in frames]),
        "pbc": np.stack([frame.pbc for frame in frames]),
        "energy": np.stack(label("energy", ())),
        "forces": np.concatenate(label("forces", ())),
        "stress": np.stack(label("stress", (3, 3))),
        **{
            f"has_{name}": np.array([getattr(frame, name) is not None for frame in frames])
            for name in ("energy", "forces", "stress")
        },
    }


def _write(file: BinaryIO, frames: Sequence[Frame], identity: dict) -> None:
    arrays = columns(frames, identity["type_names"])
    places, end = {}, 0
    for name, array in arrays.items():
        places[name] = (array.dtype.str, array.shape, end)
        end = _aligned(end + array.nbytes)
    text = json.dumps({**identity, "arrays": places, "edges_start": end}).encode()
    _write_aligned(file, MAGIC + len(text).to_bytes(8, "little") + text)
    start = file.tell()
    for array in arrays.values():
        _write_aligned(file, array.tobytes())
    offsets = arrays["edge_offsets"]  # known, and written again, when all edges are
    bar = tqdm(frames, "neighbour lists", leave=False, delay=1, disable=None)
    for i, frame in enumerate(bar):
        edges = _edges(frame, identity["cutoff"])
        file.write(edges.tobytes())
        offsets[i + 1] = offsets[i] + len(edges)
    file.seek(start + places["edge_offsets"][2])
    file.write(offsets.tobytes())


def _edges(frame: Frame, cutoff: float) -> np.ndarray:
    neighbors = ops.neighbor_list(
        torch.from_numpy(frame.positions),
        torch.from_numpy(frame.cell)[None],
        torch.from_numpy(frame.pbc)[None],
        cutoff,
    )
    shift = neighbors.cell_shift.numpy()
    if shift.size and np.abs(shift).max() > np.iinfo(np.int16).max:
        raise DataError(f"{frame.name}: atoms lie {np.abs(shift).max()} cells apart: wrap them into the cell")
    edges = np.zeros(len(shift), dtype=_EDGE)
    edges["index"] = neighbors.edge_index.numpy().T
    edges["shift"] = shift
    return edges


def _write_aligned(file: BinaryIO, data: bytes) -> None:
    file.write(data.ljust(_aligned(len(data)), b"\0"))


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _read_header(path: Path) -> dict:
    with open(path, "rb") as file:
        return _parse_header(file, str(path))


def _parse_header(file: BinaryIO, name: str) -> dict:
    if file.read(len(MAGIC)) != MAGIC:
        raise DataError(f"{name} is no data store of uqforce and is left alone: choose another path")
    length = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(length))
    except ValueError:
        raise DataError(f"{name} has a damaged header: delete it and build it again") from None
    return {**header, "data_start": _aligned(len(MAGIC) + 8 + length)}
