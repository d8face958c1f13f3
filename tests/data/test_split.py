import numpy as np
import pytest

from uqforce.data import Units, check_leakage, find_duplicates, read_frames, split_by_group, split_random
from uqforce.errors import DataError


@pytest.fixture
def frames(make_frame):
    groups = ["a"] * 10 + ["b"] * 6 + ["c"] * 4
    return [make_frame("OHH", i, group=group) for i, group in enumerate(groups)]


def numbers(frames) -> list[int]:
    return [frame.source[1] for frame in frames]


def test_random_split_by_count_and_fraction(frames):
    split = split_random(frames, validation=5, seed=1)
    assert len(split.validation) == 5 and len(split.train) == 15
    assert sorted(numbers(split.train) + numbers(split.validation)) == list(range(20))
    assert numbers(split.train) == sorted(numbers(split.train))
    assert numbers(split_random(frames, validation=0.25, seed=1).validation) == numbers(split.validation)
    assert numbers(split_random(frames, validation=5, seed=2).validation) != numbers(split.validation)
    assert numbers(split.validation) == [2, 3, 6, 10, 16]  # pinned: the same on every machine


def test_smaller_training_sets_are_nested(frames):
    small, large = (split_random(frames, validation=4, train=size, seed=5) for size in (6, 12))
    assert numbers(small.validation) == numbers(large.validation)
    assert set(numbers(small.train)) < set(numbers(large.train))
    assert numbers(small.train) == sorted(np.random.RandomState(5).permutation(20)[4:10])  # as documented


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"validation": 20}, "cannot draw 0 training and 20 validation frames from 20"),
        ({"validation": 5, "train": 16}, "cannot draw 16 training"),
        ({"validation": 0}, "at least one"),
        ({"validation": 1.0}, "a fraction lies between 0 and 1"),
        ({"validation": 5, "train": -0.5}, "a fraction lies between 0 and 1"),
    ],
)
def test_impossible_splits_are_refused(frames, arguments, text):
    with pytest.raises(DataError, match=text):
        split_random(frames, **arguments)


def test_groups_stay_together(frames):
    split = split_by_group(frames, ["b"])
    assert {frame.group for frame in split.validation} == {"b"} and len(split.train) == 14
    for seed in range(6):
        split = split_by_group(frames, 0.3, seed=seed)
        assert len(split.validation) >= 6
        assert not {frame.group for frame in split.train} & {frame.group for frame in split.validation}
    drawn = {tuple(numbers(split_by_group(frames, 0.3, seed=seed).validation)) for seed in range(6)}
    assert len(drawn) > 1


def test_group_errors(frames, make_frame):
    with pytest.raises(DataError, match="no frame has group d; groups are a, b, c"):
        split_by_group(frames, ["a", "d"])
    with pytest.raises(DataError, match="leave one part of the split empty"):
        split_by_group(frames, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"1 of 21 frames have no group.*keys present in it: config_type"):
        split_by_group([*frames, make_frame("CO", 99, present=("config_type",))], ["a"])


def test_duplicates_are_found_within_the_tolerance_only(make_frame):
    random = np.random.RandomState(3)
    first = [make_frame("CHHHOHH", i) for i in range(200)]
    second = []
    for i in range(0, 200, 2):
        noise = random.uniform(-1, 1, first[i].positions.shape)
        size = 0.99e-4 if i % 4 == 0 else 3e-4
        second.append(
            make_frame("CHHHOHH", positions=first[i].positions + size * noise / np.abs(noise).max())
        )
    assert find_duplicates(first, second) == [(i, i // 2) for i in range(0, 200, 4)]
    assert find_duplicates(second, first) == [(i // 2, i) for i in range(0, 200, 4)]


def test_species_order_cell_and_pbc_distinguish_frames(make_frame):
    cell = 5 * np.eye(3)
    frame = make_frame("CO", 1, cell=cell, pbc=np.array([True] * 3))
    others = [
        make_frame("OC", positions=frame.positions, cell=cell, pbc=frame.pbc),
        make_frame("CO", positions=frame.positions, cell=1.001 * cell, pbc=frame.pbc),
        make_frame("CO", positions=frame.positions, cell=cell, pbc=np.array([True, True, False])),
    ]
    assert find_duplicates([frame], others) == []
    assert find_duplicates([frame], [*others, frame]) == [(0, 3)]


def test_isolated_atoms_are_no_duplicates(make_frame):
    atom = make_frame("O", positions=np.zeros((1, 3)))
    assert find_duplicates([atom], [atom]) == []


def test_leakage_is_an_error_unless_allowed(frames, caplog):
    parts = {"train": frames[:10], "validation": frames[8:12], "test": frames[15:]}
    with pytest.raises(
        DataError, match=r"2 pairs[^$]*train: frame 8 of memory = validation: frame 8 of memory"
    ):
        check_leakage(parts)
    assert check_leakage(parts, allow_duplicates=True) == 2
    assert "2 pairs of equal frames" in caplog.text
    caplog.clear()
    assert check_leakage({"train": frames[:10], "validation": frames[10:]}) == 0
    assert caplog.text == ""


def test_3bpa_mixed_set_shares_31_frames_with_the_training_set(data_dir):
    train, mixed = (
        read_frames(data_dir / "3bpa" / f"{name}.xyz.xz") for name in ("train_300K", "mixedT_300K_167")
    )
    pairs = find_duplicates(train, mixed)
    assert len(pairs) == 31  # the number that comes with the data
    assert all(train[i].energy == mixed[j].energy for i, j in pairs)
    with pytest.raises(DataError, match=r"31 pairs[\s\S]*\.\.\. 11 more"):
        check_leakage({"train": train, "test": mixed})
    split = split_random(train, validation=50, seed=0)
    assert check_leakage(split._asdict()) == 0


def test_frames_shared_by_rmd17_and_the_botnet_ethanol_set_have_the_same_labels(data_dir):
    """One set comes in kcal/mol as .npz, the other in eV as text: an independent check of both readers."""
    botnet = read_frames([data_dir / "ethanol_ood" / f"{name}.xyz.xz" for name in ("train", "test_MD")])
    rmd17 = read_frames(
        [data_dir / "rmd17" / f"rmd17_ethanol_{part}_01.npz" for part in ("train", "test")],
        units=Units("kcal/mol"),
    )
    pairs = find_duplicates(botnet, rmd17)
    assert len(pairs) > 20
    for i, j in pairs:
        assert botnet[i].energy == pytest.approx(rmd17[j].energy, rel=1e-8)
        assert np.abs(botnet[i].forces - rmd17[j].forces).max() < 1e-6
