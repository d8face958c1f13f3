"""Every public name is documented, and the example of its docstring runs, on tiny data."""

import doctest
import inspect
import re

import ase.io
import pytest

import uqforce
from tests.small_crystals import crystals

SETTINGS = {
    "output": "first",
    "data": {"train": "train.xyz", "validation": "test.xyz"},
    "model": {"r_max": 3.5, "num_layers": 1, "num_features": [4], "radial_mlp_width": 8},
    "epochs": 2,
}
NAMES = sorted(uqforce._PUBLIC)


@pytest.fixture(scope="session")
def tour(tmp_path_factory):
    """A folder with the files that the examples name: a small model, trained, fitted, exported."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ase.io.write("train.xyz", crystals(13, seed=0))
        ase.io.write("test.xyz", crystals(4, seed=1))
        model = uqforce.load_model(uqforce.train(SETTINGS))
        uqforce.fit(model, "train.xyz", "model.uqf", components=1)
        uqforce.export(model, "model.pt")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tour, monkeypatch):
    monkeypatch.chdir(tour)
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(uqforce, name), name, globs={})
    assert found.examples, f"uqforce.{name} has no example"
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert not failed.failed, "".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name):
    """A sentence first; then each argument and, of functions, the errors."""
    thing = getattr(uqforce, name)
    text = inspect.getdoc(thing)
    assert re.match(r"[A-Z][^\n]*[.:;,\w)]\n", text), text.splitlines()[0]
    if inspect.isfunction(thing):
        assert "Raises" in text
        for argument in inspect.signature(thing).parameters:
            if len(inspect.signature(thing).parameters) > 1:
                assert re.search(rf"\b{argument}\b", text), f"uqforce.{name}: nothing on {argument}"
