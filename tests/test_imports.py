"""Imports run one way, in `ORDER`; `reference` imports torch only, and all others may import `SHARED`."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uqforce"
ORDER = ["ops", "data", "model", "evaluation", "uncertainty", "training", "exporting", "engines", "cli"]
SHARED = ["ahead_of_time", "device", "errors", "files"]  # modules beside the rooms, which import no room
ROOMS = [*ORDER, *SHARED, "reference"]


def imported(source: str, path: Path) -> list[str]:
    """Dotted names of all that a module imports, at any depth; `path` begins with uqforce/."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(path.parent.parts[: len(path.parent.parts) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, path: Path) -> list[str]:
    """Imports of a room's module that run back, or leave torch in `reference`."""
    room = path.parts[1].removesuffix(".py")
    wrong = []
    for name in imported(source, path):
        top, *rest = name.split(".")
        if top != "uqforce":
            if room == "reference" and top != "torch" and top not in sys.stdlib_module_names:
                wrong.append(f"{path}: reference imports torch only, not {name}")
            continue
        target = rest[0] if rest else ""
        if target.startswith("_") or target == room:  # _library, _version, _C
            continue
        if target not in ROOMS:
            wrong.append(f"{path}: {name} is no room: import from the room that defines it")
        elif room == "reference":
            wrong.append(f"{path}: reference imports torch only, not {name}")
        elif room in SHARED and target not in SHARED:
            wrong.append(f"{path}: {room} is imported by every room and imports none, not {name}")
        elif target in ORDER and ORDER.index(target) > ORDER.index(room):
            wrong.append(f"{path}: {room} imports {name}, against {' -> '.join(ORDER)}")
    return wrong


def modules() -> list[Path]:
    paths = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")]
    return [path for path in paths if path.parts[1].removesuffix(".py") in ROOMS]


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders == set(ROOMS) - set(SHARED)


def test_imports_run_one_way():
    assert len(modules()) > 10
    wrong = [text for path in modules() for text in violations((PACKAGE.parent / path).read_text(), path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("uqforce/data/store.py", "from uqforce import ops", True),
        ("uqforce/data/store.py", "import uqforce.ops.neighbor_list", True),
        ("uqforce/data/store.py", "from uqforce.data.batch import Batch", True),
        ("uqforce/data/store.py", "from .batch import Batch", True),
        ("uqforce/data/store.py", "from uqforce._version import __version__", True),
        ("uqforce/data/store.py", "def f():\n    from uqforce.model import load_model", False),
        ("uqforce/data/store.py", "from uqforce import model", False),
        ("uqforce/data/store.py", "from ..training import loop", False),
        ("uqforce/data/store.py", "from uqforce import Calculator", False),
        ("uqforce/ops/gmm_nll.py", "import uqforce.cli", False),
        ("uqforce/cli.py", "from uqforce.exporting import export", True),
        ("uqforce/data/store.py", "from uqforce.errors import ExportError", True),
        ("uqforce/errors.py", "from uqforce.data import DataError", False),
        ("uqforce/engines/calculator.py", "from uqforce.device import choose_device", True),
        ("uqforce/device.py", "from uqforce.errors import InputError", True),
        ("uqforce/device.py", "from uqforce.ops import gate", False),
        ("uqforce/reference/gmm_nll.py", "from uqforce.errors import ExportError", False),
        ("uqforce/reference/gmm_nll.py", "import math\nimport torch.nn.functional as F", True),
        ("uqforce/reference/gmm_nll.py", "from uqforce.reference.edges import edge_vectors", True),
        ("uqforce/reference/gmm_nll.py", "import numpy as np", False),
        ("uqforce/reference/gmm_nll.py", "from uqforce.ops import gmm_nll", False),
    ],
)
def test_the_check_itself(path, source, allowed):
    assert (violations(source, Path(path)) == []) == allowed
