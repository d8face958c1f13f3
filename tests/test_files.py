"""A file appears whole or not at all, and nothing else is left beside it."""

import os

import pytest

from uqforce.files import atomically, remove_unfinished, write_atomically


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "model.nequip.pth"
    path.write_text("old")
    with atomically(path) as place:
        assert place.name == path.name
        place.write_text("new")
        (place.parent / "beside it").write_text("more")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == [path.name]
    reference = tmp_path / "reference"
    reference.write_text("")
    assert path.stat().st_mode == reference.stat().st_mode


@pytest.mark.parametrize("durable", [True, False])
def test_an_error_leaves_the_old_file(tmp_path, durable):
    path = tmp_path / "numbers.txt"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomically(path, durable) as place:
        place.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_what_a_killed_process_left_is_removed(tmp_path):
    writing = atomically(tmp_path / "numbers.txt")
    writing.__enter__().write_text("half of the n")
    assert len(os.listdir(tmp_path)) == 1
    (tmp_path / ".mine").write_text("")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [".mine"]
