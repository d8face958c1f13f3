"""The emulation of CUDA finds the faults that it is there for; nvcc compiles every kernel without spills."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulation.resources import compiled

ROOT = Path(__file__).parents[1]
EMULATION, CSRC = ROOT / "tests" / "emulation", ROOT / "csrc"


def test_faults_are_found(tmp_path):
    program = tmp_path / "kernels"
    command = ["c++", "-std=c++20", "-O1", f"-I{EMULATION}", f"-I{CSRC}", "-o", program]
    subprocess.run([*command, EMULATION / "kernels.cpp", EMULATION / "fibres.cpp"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    values = [float(i % 17) for i in range(3 * 96)]
    sums = " ".join(f"{sum(values[96 * b : 96 * (b + 1)]):g}" for b in range(3))
    assert said["block_sum"] == said["warp_sum"] == f"{sums}, always"
    assert said["block_sum without barriers"] != f"{sums}, always"
    assert said["block_race"].endswith("and others")
    assert "nan" in said["unset_memory"]
    assert "none can go on" in said["deadlock"]
    assert "reads lane 20 in a shuffle whose mask lacks" in said["wrong_mask"]
    assert said["copy_ahead"] == f"{values[15]:g} {values[15]:g} {values[15]:g}, always"
    assert "nan" in said["copy_ahead without wait"]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize(
    "source", sorted(CSRC.glob("*/cuda*.cu")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_no_kernel_spills(source, arch, tmp_path):
    kernels = compiled(source, arch, tmp_path)
    assert kernels and not [kernel for kernel in kernels if kernel.spilled > 0]
