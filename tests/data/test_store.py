import json
import os
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_neighbor_list

from uqforce.data import Dataset, read_frames, store, type_names_of
from uqforce.errors import DataError

TYPES = ["H", "C", "O"]
CUTOFF = 3.0


def content(dataset: Dataset) -> list[bytes]:
    """Everything that the items hold."""
    return [np.asarray(value).tobytes() for i in range(len(dataset)) for value in dataset[i]]


def test_memory_and_store_hold_the_same(labelled, tmp_path):
    memory = Dataset.build(labelled, TYPES, CUTOFF)
    mapped = Dataset.build(labelled, TYPES, CUTOFF, tmp_path / "new" / "folder" / "store")
    assert memory.path is None and mapped.path == tmp_path / "new" / "folder" / "store"
    assert content(memory) == content(mapped) == content(Dataset(mapped.path))
    assert isinstance(mapped._data, np.memmap) and np.shares_memory(mapped.positions, mapped._data)
    assert mapped.type_names == TYPES and mapped.cutoff == CUTOFF and len(mapped) == len(labelled)
    assert os.listdir(mapped.path.parent) == ["store"]


def test_arrays(labelled):
    dataset = Dataset.build(labelled, TYPES, CUTOFF)
    assert dataset.num_atoms.tolist() == [len(frame) for frame in labelled]
    assert np.array_equal(dataset.positions, np.concatenate([frame.positions for frame in labelled]))
    assert dataset.num_edges.tolist() == [dataset[i].edge_index.shape[1] for i in range(len(labelled))]
    assert np.array_equal(dataset.centres(1), dataset[1].edge_index[0])
    with pytest.raises(ValueError, match="read-only"):
        dataset.energy[0] = 1
    dataset[0].positions.zero_()  # an item is a copy
    assert np.array_equal(dataset.positions[:3], labelled[0].positions)


def test_indices(labelled):
    dataset = Dataset.build(labelled, TYPES, CUTOFF)
    assert np.array_equal(dataset[-1].positions, labelled[-1].positions)
    assert np.array_equal(dataset[np.int64(2)].positions, labelled[2].positions)
    for index in (6, -7):
        with pytest.raises(IndexError):
            dataset[index]


def test_one_atom_alone(make_frame):
    batch = Dataset.build([make_frame("O")], ["O"], CUTOFF)[0]
    assert (
        batch.positions.shape == (1, 3)
        and batch.edge_index.shape == (2, 0)
        and batch.cell_shift.shape == (0, 3)
    )


def test_unchanged_store_is_used_again(labelled, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "uqforce")
    path = tmp_path / "store"
    expected = content(Dataset.build(labelled, TYPES, CUTOFF, path))
    before = path.stat()
    monkeypatch.setattr(store.ops, "neighbor_list", None)  # calling it would fail
    assert content(Dataset.build(labelled, TYPES, CUTOFF, path)) == expected
    assert path.stat() == before and caplog.text == ""


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda frames: (frames, TYPES, 2.5), "cutoff"),
        (lambda frames: (frames, ["C", "H", "O"], CUTOFF), "type_names"),
        (lambda frames: (frames[1:], TYPES, CUTOFF), "frames"),
        (lambda frames: (frames[::-1], TYPES, CUTOFF), "frames"),
    ],
)
def test_changed_inputs_build_the_store_again(labelled, tmp_path, caplog, change, what):
    caplog.set_level("INFO", "uqforce")
    path = tmp_path / "store"
    old = Dataset.build(labelled, TYPES, CUTOFF, path)
    before = content(old)
    new = Dataset.build(*change(labelled), path)
    assert f"{path}: {what} changed since it was made" in caplog.text
    assert content(new) == content(Dataset.build(*change(labelled))) != before
    assert content(old) == before  # whoever maps the old file keeps it


@pytest.mark.parametrize("field", ["positions", "cell", "pbc", "energy", "forces", "stress"])
def test_every_number_is_in_the_fingerprint(labelled, field):
    before = store.fingerprint(labelled)
    value = getattr(labelled[1], field)
    if field == "pbc":
        changed = ~value
    elif field == "energy":
        changed = np.nextafter(value, 9)
    else:
        changed = value.copy()
        changed.flat[0] = np.nextafter(changed.flat[0], 9)
    setattr(labelled[1], field, changed)
    assert store.fingerprint(labelled) != before
    setattr(labelled[1], field, None if field not in ("positions", "cell", "pbc") else value)
    if field in ("energy", "forces", "stress"):
        assert store.fingerprint(labelled) != before


def test_killed_build_leaves_the_old_store_and_no_rubbish(labelled, tmp_path, monkeypatch):
    path = tmp_path / "store"
    expected = content(Dataset.build(labelled, TYPES, CUTOFF, path))
    real, calls = store.ops.neighbor_list, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(store.ops, "neighbor_list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Dataset.build(labelled, TYPES, 2.5, path)
    assert os.listdir(tmp_path) == ["store"] and content(Dataset(path)) == expected


def test_another_process_builds_the_same_store_meanwhile(labelled, tmp_path, monkeypatch):
    path, real, others = tmp_path / "store", store.ops.neighbor_list, []

    def overtaken(*arguments):
        if not others:
            others.append(None)
            others[0] = Dataset.build(labelled, TYPES, CUTOFF, path)
        return real(*arguments)

    monkeypatch.setattr(store.ops, "neighbor_list", overtaken)
    own = Dataset.build(labelled, TYPES, CUTOFF, path)
    assert content(own) == content(others[0]) == content(Dataset.build(labelled, TYPES, CUTOFF))
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("mapped", [False, True])
def test_another_process_gets_the_same(labelled, tmp_path, mapped):
    dataset = Dataset.build(labelled, TYPES, CUTOFF, tmp_path / "store" if mapped else None)
    sent = pickle.dumps(dataset)
    assert content(pickle.loads(sent)) == content(dataset)
    assert (len(sent) < 500) == mapped  # a mapped store travels as its path


# What is refused


def test_bad_inputs(labelled, make_frame):
    with pytest.raises(DataError, match="at least one frame"):
        Dataset.build([], TYPES, CUTOFF)
    for cutoff in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="must be a positive length"):
            Dataset.build(labelled, TYPES, cutoff)
    with pytest.raises(
        DataError, match=r"frame 0 of memory contains O, not in type_names \['H', 'C'\]: add it"
    ):
        Dataset.build(labelled, ["H", "C"], CUTOFF)
    for names in (["H", "C", "O", "H"], ["H", "C", "O", "Q"]):
        with pytest.raises(DataError, match="must be distinct chemical symbols"):
            Dataset.build(labelled, names, CUTOFF)


def test_atoms_very_far_outside_the_cell(make_frame):
    def crystal(cells: int):
        return make_frame(
            "OC",
            positions=np.array([[0, 0, 0], [1, 1, 3.0 * cells]]),
            cell=3 * np.eye(3),
            pbc=np.ones(3, bool),
        )

    assert Dataset.build([crystal(30000)], TYPES, CUTOFF)[0].cell_shift.abs().max() == 30000
    with pytest.raises(DataError, match=r"frame 0 .*: atoms lie 40000 cells apart: wrap them into the cell"):
        Dataset.build([crystal(40000)], TYPES, CUTOFF)


def test_files_that_are_no_store(labelled, tmp_path):
    with pytest.raises(DataError, match=r"does not exist: make it with Dataset.build"):
        Dataset(tmp_path / "absent")
    other = tmp_path / "results.txt"
    other.write_text("years of work")
    for attempt in (lambda: Dataset(other), lambda: Dataset.build(labelled, TYPES, CUTOFF, other)):
        with pytest.raises(DataError, match=r"results.txt is no data store of uqforce and is left alone"):
            attempt()
    assert other.read_text() == "years of work"


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_truncated_store(labelled, tmp_path, kept):
    path = tmp_path / "store"
    Dataset.build(labelled, TYPES, CUTOFF, path)
    os.truncate(path, int(kept * path.stat().st_size))
    for attempt in (lambda: Dataset(path), lambda: Dataset.build(labelled, TYPES, CUTOFF, path)):
        with pytest.raises(
            DataError, match=rf"{path} (is truncated|has a damaged header).*delete it and build it again"
        ):
            attempt()


def test_store_of_another_version(labelled, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "uqforce")
    path = tmp_path / "store"
    monkeypatch.setattr(store, "FORMAT_VERSION", 999)
    Dataset.build(labelled, TYPES, CUTOFF, path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has format version 999, this uqforce reads 1: build it again"):
        Dataset(path)
    Dataset.build(labelled, TYPES, CUTOFF, path)
    assert "version changed since it was made" in caplog.text and len(Dataset(path)) == len(labelled)


def test_header_is_readable_text(labelled, tmp_path):
    """The layout of the module's docstring, read without its code."""
    path = tmp_path / "store"
    Dataset.build(labelled, TYPES, CUTOFF, path)
    data = path.read_bytes()
    assert data[:8] == b"UQFDATA\0"
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    start = -(-(16 + length) // 64) * 64
    dtype, shape, place = header["arrays"]["positions"]
    count = int(np.prod(shape))
    positions = np.frombuffer(data, dtype, count, start + place).reshape(shape)
    assert (start + place) % 64 == 0
    assert np.array_equal(positions, np.concatenate([frame.positions for frame in labelled]))


# Real data


@pytest.mark.parametrize("name", ["Si_test", "Mo_test", "Li_test"])
def test_neighbors_of_crystals_equal_those_of_ase(data_dir, name):
    frames = read_frames(data_dir / "mlearn_elements" / f"{name}.xyz.xz", index="::6", require=["stress"])
    dataset = Dataset.build(frames, type_names_of(frames), 4.0)
    assert len({frame.group for frame in frames}) > 1
    for i, frame in enumerate(frames):
        item = dataset[i]
        mine = np.concatenate([item.edge_index.T.numpy(), item.cell_shift.numpy()], axis=1)
        atoms = Atoms(frame.atomic_numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        first, second, shift = ase_neighbor_list("ijS", atoms, 4.0)
        assert len(mine) == len(first) > 0
        reference = np.concatenate([np.stack([first, second], axis=1), shift], axis=1)
        assert set(map(tuple, mine.tolist())) == set(map(tuple, reference.tolist()))
        assert np.array_equal(item.stress[0], frame.stress) and item.has_stress.all()


def test_3bpa(data_dir, tmp_path):
    frames = read_frames(data_dir / "3bpa" / "train_300K.xyz.xz", require=["energy", "forces"])
    dataset = Dataset.build(frames, ["H", "C", "N", "O"], 5.0, tmp_path / "store")
    assert len(dataset) == 500 and (dataset.num_atoms == 27).all()
    assert dataset.has_energy.all() and dataset.has_forces.all() and not dataset.has_stress.any()
    item, frame = dataset[123], frames[123]
    distances = np.linalg.norm(frame.positions[:, None] - frame.positions[None], axis=-1)
    assert item.edge_index.shape[1] == ((distances < 5.0) & (distances > 0)).sum()
    assert item.energy == frame.energy and np.array_equal(item.forces, frame.forces)
