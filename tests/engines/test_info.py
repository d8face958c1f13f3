"""`uqforce info` tells the truth about this build and about a model."""

import argparse

import pytest
import torch

from uqforce import __version__, build_info
from uqforce.engines import info


def test_build():
    text = "\n".join(info.describe_build()) + "\n"
    assert __version__ in text and torch.__version__ in text
    assert build_info()["instruction_set"] in text
    lacking = build_info()["without_cuda"] or []
    for op in ("neighbor_list", "tensor_product_conv", "gmm_nll", "force_variance"):
        devices = "CPU" if op in lacking else "CPU, CUDA"
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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"cuda_archs": None}, "uqforce was built without CUDA kernels"),
        (
            {"cuda_archs": ["sm_90"], "without_cuda": ["gmm_nll"]},
            "uqforce has no CUDA kernel yet for gmm_nll",
        ),
    ],
)
def test_a_build_that_lacks_kernels_on_a_cuda_machine_says_so(build, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(info, "build_info", lambda: build_info() | build)
    with pytest.warns(UserWarning, match=f"{message}.*: running on the CPU"):
        assert info.choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match=f"'cuda:1' was asked for, but {message}"):
        info.choose_device("cuda:1")
