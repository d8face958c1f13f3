"""The tree is formatted and its types fit: ruff, clang-format, mypy, in the versions of the `dev` extra."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINS = dict(re.findall(r'"(ruff|clang-format|mypy)==([\d.]+)"', (ROOT / "pyproject.toml").read_text()))


def tool(name: str) -> str:
    """Path of the pinned version of a tool; another version would format differently, so it is not used."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None or PINS[name] not in subprocess.check_output([path, "--version"], text=True):
        pytest.skip(f"{name} {PINS[name]} is not installed: pip install {name}=={PINS[name]}")
    return path


def check(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check():
    check(tool("ruff"), "check", ".")


def test_ruff_format():
    check(tool("ruff"), "format", "--check", ".")


def test_types():
    check(tool("mypy"))


def test_clang_format():
    files = [*(ROOT / "csrc").rglob("*"), *(ROOT / "tests" / "cpp").rglob("*")]
    sources = [path for path in files if path.suffix in (".h", ".cpp", ".cu")]
    assert len(sources) > 5
    check(tool("clang-format"), "--dry-run", "-Werror", *sources)


def test_pre_commit_uses_the_same_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    pins = {
        name: version for name, version in PINS.items() if name != "mypy"
    }  # of this environment, not its own
    assert set(re.findall(r"(ruff|clang-format)==([\d.]+)", text)) == set(pins.items())
