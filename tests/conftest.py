"""Fixtures shared by all tests: device, dtype, real data, fresh processes; CUDA kernels run on the host."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from uqforce._library import LIBRARY_PATH
from uqforce.model import inference

ROOT = Path(__file__).parents[1]
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--emulate", action="store_true", help="CUDA kernels on the host instead of the CPU's")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("emulate"):
        sys.path.insert(0, str(ROOT / "tests" / "emulation"))
        from library import build

        config.emulation = build(ROOT / "build" / "emulation")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("emulate"):
        return
    chosen = {True: [], False: []}
    for item in items:  # the ops that have no CUDA kernel keep the CPU's
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        op = ROOT / "csrc" / (getattr(case, "folder", None) or item.path.stem.removeprefix("test_"))
        cpu = item.get_closest_marker("cpu_kernels") or (op.is_dir() and not any(op.glob("cuda*")))
        chosen[not cpu].append(item)
    config.hook.pytest_deselected(items=chosen[False])
    items[:] = chosen[True]


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """nequip sets torch's default for the process: no test may see what another left."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True, scope="session")
def tables_made_once() -> Iterator[None]:
    """The table of a radial network depends on nothing else: each is made once for all tests of a process.

    Networks that agree to the bit at some lengths are taken to be the same.
    """
    lengths = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)[:, None]
    make, made = inference.radial_table, {}

    def radial_table(radial, spec, intervals):
        key = (intervals, tuple(spec.flat), radial(lengths).detach().numpy().tobytes())
        if key not in made:
            made[key] = make(radial, spec, intervals)
        table, error = made[key]
        return table.clone(), error

    inference.radial_table = radial_table
    yield
    inference.radial_table = make


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """The CPU always, a CUDA device where there is one."""
    return torch.device(request.param)


@pytest.fixture
def cuda_kernels(device, request) -> bool:
    """Whether CUDA kernels run: on a CUDA device, or with --emulate."""
    return device.type == "cuda" or request.config.getoption("emulate")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Directory of the real data: `UQFORCE_DATA`, or `../shared/data` beside the repository."""
    path = Path(os.environ.get("UQFORCE_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not a directory (set UQFORCE_DATA)")
    return path


@pytest.fixture(scope="session")
def run_in_fresh_process(request) -> Callable[..., str]:
    """`run_in_fresh_process(folder, code, *arguments, **environment)` runs code as a user of an export does.

    The code runs in a new process in `folder` with torch imported and `libuqforce.so` loaded; importing
    uqforce there fails. `arguments` are `sys.argv[1:]`. Returns what it printed; a failure fails the test.
    """
    libraries = [LIBRARY_PATH, *filter(None, [getattr(request.config, "emulation", None)])]
    prelude = f"""
        import sys
        import torch
        sys.modules["uqforce"] = None
        for path in {[str(path) for path in libraries]!r}:
            torch.ops.load_library(path)
    """

    def run(folder: Path, code: str, *arguments: object, **environment: str) -> str:
        program = textwrap.dedent(prelude) + textwrap.dedent(code)
        command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
        options = {"cwd": folder, "env": {**os.environ, **environment}, "timeout": 300}
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def fresh_process(tmp_path, run_in_fresh_process) -> Callable[..., str]:
    """`fresh_process(code, *arguments)`: `run_in_fresh_process` in `tmp_path`."""
    return partial(run_in_fresh_process, tmp_path)
