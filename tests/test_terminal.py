"""What a user sees on the terminal: verbs as commands of their own process, on tiny data."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import yaml

from tests.small_crystals import crystals
from uqforce.cli.verbs import verbs

ROOT = Path(__file__).parents[1]
CONFIG = {
    "output": "first",
    "data": {"train": "train.xyz", "validation": "test.xyz"},
    "model": {"r_max": 3.5, "num_layers": 1, "num_features": [4], "radial_mlp_width": 8},
    "epochs": 1,
}


@pytest.fixture(scope="module")
def uqforce(tmp_path_factory):
    """`uqforce(command)` runs the command line in a folder with train.xyz, test.xyz and configurations."""
    folder = tmp_path_factory.mktemp("terminal")
    ase.io.write(folder / "train.xyz", crystals(13, seed=0))
    ase.io.write(folder / "test.xyz", crystals(4, seed=1))
    for name, more in {"first": {}, "compiled": {"output": "compiled", "compile": True}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(CONFIG | more))
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}

    def run(command: str) -> subprocess.CompletedProcess:
        line = f"set -o pipefail; {sys.executable} -m uqforce.cli {command}"
        environment = plain | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )

    return run


def test_a_plain_run_says_nothing_on_stderr(uqforce):
    """No verb of the way from data to dynamics shows a warning, its own or another library's."""
    for command in (
        "train first.yaml",
        "fit first/best.uqf train.xyz -o model.uqf --components 1",
        "fit model.uqf train.xyz --score llpr --in-place",
        "calibrate model.uqf test.xyz -o calibrated.uqf",
        "eval calibrated.uqf test.xyz -o evaluation",
        "export model.uqf -o model.pt",
        "md model.pt test.xyz -o run --steps 3",
        "info model.uqf",
    ):
        done = uqforce(command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout, command


def test_compiling_says_nothing_on_stderr(uqforce):
    """torch's compiler warns of what only its developers can change."""
    for command in ("train compiled.yaml", "export compiled/best.uqf -o model.pt2 --format aoti"):
        done = uqforce(command)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_a_reader_that_has_seen_enough(uqforce):
    """As `head`: no traceback."""
    done = uqforce("template --full | head -1")
    assert done.stdout.startswith("# Training of a uqforce potential") and done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_mistake_is_a_sentence(uqforce):
    done = uqforce("info nothing.uqf")
    assert done.returncode == 1 and done.stderr.startswith("uqforce info: ") and done.stderr.count("\n") == 1
    done = uqforce("info --no-such-option")
    assert done.returncode == 2 and "No such option" in done.stderr and "Traceback" not in done.stderr


def test_every_verb_explains_itself(uqforce):
    """Its help names the exit statuses once, and each verb's every argument and option."""
    assert "3 dynamics halted by a limit" in " ".join(uqforce("--help").stdout.split())
    for name, verb in verbs.commands.items():
        text = verb.get_help(verb.make_context(name, [], resilient_parsing=True))
        for parameter in verb.params:
            if parameter.name != "help":
                shown = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
                assert (shown or parameter.name.upper()) in text, (name, parameter.name)
                assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)
