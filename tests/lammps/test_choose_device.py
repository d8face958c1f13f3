"""Where `pair_style uqforce` computes on machines with cards, asked of the plugin without one."""

import importlib.metadata
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from uqforce import build_info
from uqforce.errors import PluginError
from uqforce.exporting.opening import read_metadata
from uqforce_lammps.build import FLAGS, csrc, find_lammps

RELEASE = ["sm_80", "sm_90", "compute_90"]


@pytest.fixture(scope="module")
def choose(models, tmp_path_factory) -> Callable[..., str]:
    """`choose(wanted, rank, *archs_of_devices, built=RELEASE)`: the device, or what is wrong."""
    try:
        include, mpi, _ = find_lammps()
    except PluginError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("choose")
    program, library = folder / "choose_device", include.parents[1] / "liblammps.so.0"
    sources = [csrc() / "lammps" / "model_file.cpp", Path(__file__).with_name("choose_device.cpp")]
    paths = [f"-I{path}" for path in (csrc(), include, mpi)]
    command = ["c++", *FLAGS, "-O0", *paths, *sources, library, f"-Wl,-rpath,{library.parent}", "-o", program]
    (libmpi,) = (file for file in importlib.metadata.files("mpich") if file.name == "libmpi.so.12")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(libmpi.locate()).resolve().parent)}
    subprocess.run(command, check=True, env=environment)
    metadata = read_metadata(models())

    def run(
        wanted: str, rank: int, *archs: str, built: list[str] | None = RELEASE, compiled: bool = False
    ) -> str:
        package = {"methods": {}, "processor": "AVX2"} if compiled else {}
        (folder / "model.json").write_text(json.dumps(metadata | package))
        (folder / "build.json").write_text(json.dumps(build_info() | {"cuda_archs": built}))
        asked = [program, folder / "model.json", folder / "build.json", wanted, str(rank), *archs]
        return subprocess.run(
            asked, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    return run


def test_ranks_take_the_devices_in_turn(choose):
    cards = ("sm_90", "sm_90", "compute_90")
    assert [choose("auto", rank, *cards) for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert choose("cuda", 1, *cards) == "cuda:1" and choose("cuda:2", 1, *cards) == "cuda:2"
    assert choose("cpu", 1, *cards) == "cpu"


def test_a_card_that_does_not_run_what_was_built(choose):
    assert [choose("auto", rank, "sm_90", "-") for rank in range(2)] == ["cuda:0", "cpu"]
    for wanted in ("cuda", "cuda:1"):
        assert choose(wanted, 1, "sm_90", "-") == (
            f"device {wanted} was asked for, but uqforce was built for sm_80 sm_90 compute_90, which card 1 "
            "does not run: rebuild it there, see UQFORCE_CUDA_ARCHS"
        )


def test_without_cards_or_kernels(choose):
    assert (
        choose("auto", 0)
        == choose("auto", 0, "-", built=None)
        == choose("auto", 0, "sm_90", compiled=True)
        == "cpu"
    )
    assert "libtorch sees 1 CUDA device(s) here" in choose("cuda:1", 0, "sm_90")
    assert "was built without CUDA kernels" in choose("cuda", 0, "-", built=None)
    assert "an AOTInductor file was compiled for the cpu" in choose("cuda", 0, "sm_90", compiled=True)
