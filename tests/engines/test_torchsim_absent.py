"""Without torch-sim: a sentence that names the command."""

import importlib
import sys

import pytest


def test_the_command_is_named(monkeypatch):
    for name in ("torch_sim.models.interface", "uqforce.engines.torchsim"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"needs torch-sim: pip install 'uqforce\[torchsim\]'"):
        importlib.import_module("uqforce.engines.torchsim")
