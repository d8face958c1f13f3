"""`uqforce info` tells the truth about this build and about a model."""

import argparse

import pytest
import torch

from uqforce import __version__, build_info
from uqforce.deploy import info


def test_build():
    text = "\n".join(info.describe_build()) + "\n"
    assert __version__ in text and torch.__version__ in text
    assert build_info()["instruction_set"] in text
    devices = "CPU" if build_info()["cuda_archs"] is None else "CPU, CUDA"
    for op in ("neighbor_list", "tensor_product_conv", "gmm_nll", "force_variance"):
        assert f"op                {op}: {devices}\n" in text


def test_model(exported, capsys):
    assert info.run(argparse.Namespace(model=str(exported))) == 0
    text = capsys.readouterr().out
    for part in ("H C O", "cutoff", "3.5", "thresholds.nll.q0.99", "12.5", "outputs.forces", "eV/A"):
        assert part in text


def test_says_once_what_runs(capsys):
    info._announce.cache_clear()
    for _ in range(2):
        assert info.choose_device("cpu") == torch.device("cpu")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"CPU kernels ({build_info()['instruction_set']})" in said


def test_a_cpu_build_on_a_cuda_machine_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(info, "build_info", lambda: build_info() | {"cuda_archs": None})
    with pytest.warns(UserWarning, match="built without CUDA kernels: running on the CPU"):
        assert info.choose_device("auto").type == "cpu"
    with pytest.raises(
        ValueError, match="'cuda:1' was asked for, but uqforce was built without CUDA kernels"
    ):
        info.choose_device("cuda:1")
