"""The snippets of the README run as they stand, on the demo's data, in an empty directory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = dict(re.findall(r"^```(bash|python)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S))
HALTED = 3  # exit status of `uqforce md` where the uncertainty passed its limit


@pytest.fixture
def run(tmp_path):
    """Run a snippet where `examples` is the repository's and `uqforce` the tree's command."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = tmp_path / "bin" / "uqforce"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m uqforce.cli "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(command.parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }

    def start(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return start


def test_shell(run, tmp_path):
    done = run("bash", "-e", "-c", SNIPPETS["bash"])
    assert done.returncode in (0, HALTED), done.stdout + done.stderr
    assert (tmp_path / "first" / "model.pt").exists()
    assert ("halted at step" if done.returncode == HALTED else "finished step 100") in done.stdout


def test_python(run):
    done = run(sys.executable, "-c", SNIPPETS["python"])
    assert done.returncode == 0, done.stdout + done.stderr
    energies, scores = zip(*(map(float, line.split()) for line in done.stdout.splitlines()[-100:]))
    assert len(set(energies)) > 1 and all(score > 0 or score < 0 for score in scores)
