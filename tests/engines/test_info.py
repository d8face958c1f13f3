"""`uqforce info` tells the truth about this build and about a model."""

import argparse

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
