import numpy as np
import pytest

from uqforce.data import (
    Dataset,
    compute_statistics,
    isolated_energies,
    least_squares_energies,
    read_frames,
    type_names_of,
)
from uqforce.errors import DataError

TYPES = ["H", "C", "O", "N"]  # no nitrogen in the frames


# Isolated atoms


def test_isolated_energies(make_frame):
    big, small = (dict(cell=size * np.eye(3), pbc=np.ones(3, bool)) for size in (10, 3))
    frames = [
        make_frame("O", 0, energy=-5.0),
        make_frame("H", 1, energy=-1.0, **big),
        make_frame("C", 2, energy=-7.0, **small),  # a crystal, not an isolated atom
        make_frame("CO", 3, energy=-20.0),
        make_frame("O", 4, energy=-5.0),
    ]
    assert isolated_energies(frames, ["H", "O"]).tolist() == [-1.0, -5.0]
    with pytest.raises(
        DataError, match=r"no isolated atom of C, N among 5 frames \(there are: O, H\): add frames"
    ):
        isolated_energies(frames, TYPES)
    with pytest.raises(
        DataError, match=r"two energies of an isolated O: -5.0 eV in frame 0 .* -5.1 eV in frame 5"
    ):
        isolated_energies([*frames, make_frame("O", 5, energy=-5.1)], ["O"])
    with pytest.raises(DataError, match="1 of 1 frames have no energy"):
        isolated_energies([make_frame("O")], ["O"])


def test_isolated_energies_of_3bpa(data_dir):
    energies = isolated_energies(data_dir / "3bpa" / "iso_atoms.xyz", ["H", "C", "N", "O"])
    assert energies.tolist() == [
        -13.587222780835477,
        -1029.4889999855063,
        -1484.9814568572233,
        -2041.9816003861047,
    ]


# Least squares


def test_least_squares_recovers_energies(make_frame):
    truth = {"H": -13.5, "C": -1029.0, "O": -2041.0}
    symbols = ["OHH", "CHHHH", "CO", "CHHHOH", "OO", "HH"]
    frames = [make_frame(text, i, energy=sum(truth[s] for s in text)) for i, text in enumerate(symbols)]
    frames.append(make_frame("CCC"))  # without energy: no say
    fit = least_squares_energies(frames, ["H", "C", "O"])
    assert fit.rank == 3 and np.allclose(fit.energies, [-13.5, -1029.0, -2041.0], rtol=1e-12)
    assert (
        "not unique" not in fit.report
        and "residual 0.0 meV/atom" in fit.report
        and "H -13.5000" in fit.report
    )


def test_least_squares_says_that_it_is_not_unique(make_frame):
    frames = [make_frame("OHH", i, energy=-10.0 + i) for i in range(3)]
    fit = least_squares_energies(frames, ["H", "O", "C"])
    assert fit.rank == 1
    assert np.allclose(fit.energies, [-9 * 2 / 5, -9 / 5, 0.0])  # minimum norm: along (2, 1, 0)
    assert "have rank 1 for 3 types: the energies are not unique" in fit.report
    with pytest.raises(DataError, match="3 of 3 frames have no energy"):
        least_squares_energies([make_frame("OHH", i) for i in range(3)], ["H", "O"])
    with pytest.raises(DataError, match="contains O, not in type_names"):
        least_squares_energies(frames, ["H"])


def test_least_squares_of_3bpa(data_dir):
    frames = read_frames(data_dir / "3bpa" / "train_300K.xyz.xz")
    fit = least_squares_energies(frames, ["H", "C", "N", "O"])
    mean = np.mean([frame.energy for frame in frames])
    assert fit.rank == 1 and fit.energies @ [12, 12, 2, 1] == pytest.approx(mean, rel=1e-12)


# Statistics


def test_statistics_against_loops(labelled):
    shifts = np.array([1.0, 2.0, 3.0, 4.0])
    dataset = Dataset.build(labelled, TYPES, 3.0)
    found = compute_statistics(dataset, shifts)
    neighbors = {name: [] for name in TYPES}
    components = {name: [] for name in TYPES}
    per_atom = []
    for i, frame in enumerate(labelled):
        counts = np.bincount(dataset[i].edge_index[0], minlength=len(frame))
        for k, symbol in enumerate(frame.symbols):
            neighbors[symbol].append(counts[k])
            if frame.forces is not None:
                components[symbol].extend(frame.forces[k])
        if frame.energy is not None:
            per_atom.append((frame.energy - sum(shifts[TYPES.index(s)] for s in frame.symbols)) / len(frame))
    flat = [np.concatenate(list(values.values())) for values in (neighbors, components)]
    assert found.num_structures == 6 and found.num_atoms == len(flat[0])
    assert (
        found.num_atoms_per_type.tolist() == [len(neighbors[name]) for name in TYPES]
        and 0 in found.num_atoms_per_type
    )
    assert found.avg_num_neighbors == pytest.approx(np.mean(flat[0]), rel=1e-12)
    assert found.forces_rms == pytest.approx(np.sqrt(np.mean(np.square(flat[1]))), rel=1e-12)
    for t, name in enumerate(TYPES[:3]):
        assert found.avg_num_neighbors_per_type[t] == pytest.approx(np.mean(neighbors[name]), rel=1e-12)
        assert found.forces_rms_per_type[t] == pytest.approx(
            np.sqrt(np.mean(np.square(components[name]))), rel=1e-12
        )
    assert np.isnan(found.avg_num_neighbors_per_type[3]) and np.isnan(found.forces_rms_per_type[3])
    assert found.energy_per_atom_mean == pytest.approx(np.mean(per_atom), rel=1e-12)
    assert found.energy_per_atom_std == pytest.approx(np.std(per_atom), rel=1e-12)
    assert [line.split()[0] for line in str(found).splitlines()[2:]] == [*TYPES, "all"]


def test_statistics_without_labels(make_frame):
    found = compute_statistics(Dataset.build([make_frame("OHH")], ["H", "O"], 3.0))
    assert np.isnan(found.forces_rms) and np.isnan(found.energy_per_atom_mean) and found.num_atoms == 3


def test_statistics_of_3bpa(data_dir):
    frames = read_frames(data_dir / "3bpa" / "train_300K.xyz.xz")
    types = type_names_of(frames)
    atomic = isolated_energies(data_dir / "3bpa" / "iso_atoms.xyz", types)
    found = compute_statistics(Dataset.build(frames, types, 5.0), atomic)
    assert found.forces_rms == pytest.approx(0.9480, abs=5e-5)  # the number that comes with the data
    assert (
        -6 < found.energy_per_atom_mean < -4 and found.energy_per_atom_std < 0.01
    )  # binding energy per atom
