"""`uqforce info` tells the truth about this build and about a model."""

import torch

from uqforce import __version__, build_info
from uqforce.engines import info


def test_build():
    assert len(info.describe_build()) == 10
    text = "\n".join(info.describe_build(everything=True)) + "\n"
    assert __version__ in text and torch.__version__ in text
    assert build_info()["instruction_set"] in text
    lacking = build_info()["without_cuda"] or []
    for op in ("neighbor_list", "tensor_product_conv", "gmm_nll", "force_variance"):
        devices = "CPU" if op in lacking else "CPU, CUDA"
        assert f"op                {op}: {devices}\n" in text


def test_model(exported):
    """First what one wants to know, and every entry where it is asked for."""
    text = "\n".join(info.describe_model(exported))
    for part in ("elements", "H C O", "cutoff", "3.5 A", "forces (eV/A)", "q0.99 12.5", "sha256"):
        assert part in text
    everything = "\n".join(info.describe_model(exported, everything=True))
    for part in ("thresholds.nll.q0.99", "12.5", "outputs.forces", "domain.", "weights_sha256"):
        assert part in everything
