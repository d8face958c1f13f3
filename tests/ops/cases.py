"""The cases of all ops: `OP_CASES` of the test file of each definition in `uqforce/reference`."""

import importlib
from pathlib import Path

from tests.ops.op_case import OpCase

HERE = Path(__file__).parent
DEFINITIONS = [path.stem for path in sorted((HERE.parents[1] / "uqforce" / "reference").glob("[a-z]*.py"))]
CASES: list[OpCase] = [
    case
    for name in DEFINITIONS
    if (HERE / f"test_{name}.py").exists()
    for case in importlib.import_module(f"tests.ops.test_{name}").OP_CASES
]
