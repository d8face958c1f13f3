import pytest
import torch
from torch.utils.data import DataLoader

from uqforce import ops
from uqforce.data import Batch, Dataset, batches, collate

TYPES = ["H", "C", "O"]
CUTOFF = 3.0


def same(first: Batch, second: Batch) -> bool:
    """Equal to the last bit, dtypes and shapes included."""
    return first.num_structures == second.num_structures and all(
        isinstance(a, int) or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in zip(first, second)
    )


@pytest.fixture
def dataset(labelled) -> Dataset:
    return Dataset.build(labelled, TYPES, CUTOFF)


def test_collate_equals_the_neighbor_list_of_the_batch(dataset, labelled):
    batch = collate([dataset[i] for i in range(len(dataset))])
    assert batch.num_structures == len(labelled) == 6
    assert batch.batch.tolist() == [i for i, frame in enumerate(labelled) for _ in range(len(frame))]
    assert [TYPES[t] for t in batch.atom_types] == [symbol for frame in labelled for symbol in frame.symbols]
    together = ops.neighbor_list(batch.positions, batch.cell, batch.pbc, CUTOFF, batch.batch)
    assert torch.equal(batch.edge_index, together.edge_index)
    assert torch.equal(batch.cell_shift, together.cell_shift)
    assert batch.edge_index.shape[1] > 50 and batch.cell_shift.abs().max() > 0
    vectors = ops.edge_vectors(batch.positions, batch.cell, batch.edge_index, batch.cell_shift, batch.batch)
    assert torch.equal(vectors, together.edge_vec)


def test_labels_and_masks(dataset, labelled):
    batch = collate([dataset[i] for i in range(len(dataset))])
    assert batch.has_energy.tolist() == [frame.energy is not None for frame in labelled]
    assert batch.has_forces.tolist() == [frame.forces is not None for frame in labelled]
    assert batch.has_stress.tolist() == [frame.stress is not None for frame in labelled]
    for i, frame in enumerate(labelled):
        own = batch.batch == i
        assert batch.energy[i] == (frame.energy or 0)
        assert (batch.forces[own].numpy() == (0 if frame.forces is None else frame.forces)).all()
        assert (batch.stress[i].numpy() == (0 if frame.stress is None else frame.stress)).all()


def test_dtypes(dataset):
    batch = collate([dataset[0], dataset[1]])
    integers = ("atom_types", "batch", "edge_index", "cell_shift")
    masks = ("pbc", "has_energy", "has_forces", "has_stress")
    for name, value in batch._asdict().items():
        if name != "num_structures":
            expected = torch.int64 if name in integers else torch.bool if name in masks else torch.float64
            assert value.dtype == expected and value.is_contiguous(), name


def test_to_device_and_dtype(dataset, device):
    batch = collate([dataset[1], dataset[3]])
    moved = batch.to(device, torch.float32)
    assert moved.positions.dtype == moved.stress.dtype == torch.float32 and moved.num_structures == 2
    assert moved.edge_index.dtype == torch.int64 and moved.has_energy.dtype == torch.bool
    assert all(value.device.type == device.type for value in moved if not isinstance(value, int))
    assert same(batch.to("cpu"), batch)


def test_collate_of_batches_is_associative(dataset):
    items = [dataset[i] for i in range(4)]
    assert same(collate([collate(items[:1]), collate(items[1:])]), collate(items))


def test_nothing_gives_an_empty_batch_that_fits_the_others(dataset):
    empty, item = collate([]), dataset[1]
    assert empty.num_structures == 0 and empty.positions.shape == (0, 3) and empty.edge_index.shape == (2, 0)
    assert same(collate([empty, item, empty]), item)
    vectors = ops.edge_vectors(empty.positions, empty.cell, empty.edge_index, empty.cell_shift, empty.batch)
    assert vectors.shape == (0, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mapped", [False, True])
def test_data_loader(labelled, tmp_path, workers, mapped):
    dataset = Dataset.build(labelled, TYPES, CUTOFF, tmp_path / "store" if mapped else None)
    steps = batches(dataset, 4, seed=0, epoch=0)
    loader = DataLoader(dataset, batch_sampler=steps, collate_fn=collate, num_workers=workers)
    loaded = list(loader)
    assert len(loaded) == 2
    for indices, batch in zip(steps, loaded):
        assert same(batch, collate([dataset[i] for i in indices]))
