"""Without nequip: a sentence that names the command, and everything else works."""

import subprocess
import sys

import pytest

from uqforce.cli import main
from uqforce.errors import NequipError
from uqforce.exporting.nequip import nequip, to_nequip


@pytest.fixture
def no_nequip(monkeypatch):
    for name in [name for name in sys.modules if name == "nequip" or name.startswith("nequip.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nequip", None)


def test_the_command_is_named(no_nequip, potential, tmp_path, monkeypatch, capsys):
    with pytest.raises(NequipError, match=r"pip install 'uqforce\[nequip\]'"):
        to_nequip(potential)
    (tmp_path / "model.ckpt").write_bytes(b"")
    arguments = ["import", str(tmp_path / "model.ckpt"), "--trust", "-o", str(tmp_path / "model.uqf")]
    assert main(arguments) == 1
    assert "pip install 'uqforce[nequip]'" in capsys.readouterr().err
    with pytest.raises(NequipError), nequip():
        pass


def test_nothing_else_imports_it():
    modules = (
        "uqforce",
        "uqforce.cli",
        "uqforce.exporting.nequip",
        "uqforce.engines.calculator",
        "uqforce.training",
    )
    code = f"import sys, {', '.join(modules)};"
    code += "assert not any(name.split('.')[0] in ('nequip', 'lightning', 'hydra') for name in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
