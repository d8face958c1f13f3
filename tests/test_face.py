"""The face, `import uqforce`: complete, lazy, and never hidden by a room."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import uqforce

OPTIONAL = ("uqforce.engines.torchsim", "uqforce.exporting.metatomic", "uqforce.exporting.pair_nequip")
PUBLIC = [name for name in uqforce.__all__ if name != "__version__"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_there_after_every_module_has_been_imported():
    """A room that bore the name of a public function would take its place."""
    for module in pkgutil.walk_packages(uqforce.__path__, "uqforce."):
        if module.name.rpartition(".")[2].startswith(("_", "in_new_process", "libuqforce")):
            continue  # libraries, and programs of new processes
        try:
            importlib.import_module(module.name)
        except ImportError:
            assert module.name in OPTIONAL
    for name in PUBLIC:
        assert not inspect.ismodule(getattr(uqforce, name)), f"uqforce.{name} is a module"
        assert callable(getattr(uqforce, name))


def test_one_list():
    """What `__getattr__` gives is what editors and type checkers see, and what completion offers."""
    tree = ast.parse(Path(uqforce.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == uqforce._PUBLIC
    errors = {name for name, value in vars(uqforce.errors).items() if isinstance(value, type)}
    assert set(PUBLIC) == set(seen) | errors
    assert set(uqforce.__all__) <= set(dir(uqforce))
    assert (Path(uqforce.__file__).parent / "py.typed").exists()


def test_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        uqforce.trian  # noqa: B018


def test_importing_is_quick():
    """Neither `import uqforce` nor the command line's help imports torch, numpy or ASE."""
    heavy = "assert not {'torch', 'numpy', 'ase'} & set(sys.modules)"
    python(f"import sys, uqforce; dir(uqforce); {heavy}")
    python(f"import sys; from uqforce.cli import main; main(['fit', '--help']); {heavy}")


def test_completion_in_a_fresh_process():
    assert "train" in python("import uqforce; print(*dir(uqforce))").split()
    assert python("from uqforce import *; print(train.__module__)").startswith("uqforce.training")
