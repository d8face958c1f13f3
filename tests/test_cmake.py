"""The CMake build: an exported model in a C++ host, and the installed package in another project."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import ase
import pytest
import torch

import uqforce
from uqforce import Calculator

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cmake"  # kept: the second run compiles only what changed


def run(*command: str | Path) -> str:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def configure(source: Path, build: Path, *prefixes: Path | str) -> None:
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    paths = ";".join(map(str, [*prefixes, torch.utils.cmake_prefix_path]))
    options = [
        f"-DCMAKE_PREFIX_PATH={paths}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DUQFORCE_CUDA=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    run("cmake", "-S", source, "-B", build, *options, *launcher)


def build_and_test(build: Path) -> None:
    run("cmake", "--build", build, "--parallel", "2")
    out = run("ctest", "--test-dir", build, "--output-on-failure")
    # ctest before and since 4.0
    assert re.search(r"100% tests passed(, 0 tests failed)? out of 2", out), out


@pytest.fixture(scope="module")
def library() -> Path:
    """`libuqforce.so` built by CMake; building it also runs the driver of `tests/cpp`."""
    configure(ROOT, BUILD)
    build_and_test(BUILD)
    return BUILD / "libuqforce.so"


def test_driver_finds_energy_and_forces(library):
    """The fixture ran ctest; the driver is no accident: other forces in its file make it fail."""
    folder = BUILD / "tests" / "cpp"
    command = [folder / "driver", library, folder / "model.pt"]
    assert subprocess.run([*command, folder / "structure.txt"], capture_output=True).returncode == 0
    *lines, last = (folder / "structure.txt").read_text().splitlines()
    numbers = last.split()
    numbers[-1] = str(float(numbers[-1]) + 1e-3)
    (folder / "wrong.txt").write_text("\n".join([*lines, " ".join(numbers)]) + "\n")
    assert subprocess.run([*command, folder / "wrong.txt"], capture_output=True).returncode == 1


def test_library_says_the_same_as_ours(library):
    code = f"import torch; torch.ops.load_library({str(library)!r}); print(torch.ops.uqforce.build_info())"
    info = json.loads(run(sys.executable, "-c", code))
    assert info["cuda_archs"] is None and "gmm_nll" in info["without_cuda"]
    about_cuda = {key: info[key] for key in ("cuda_archs", "without_cuda")}
    assert info == uqforce.build_info() | about_cuda


def test_cuda_tensors_in_a_build_without_cuda(library):
    """One clear sentence, no fall-back."""
    code = f"""
        import torch
        torch.ops.load_library({str(library)!r})
        cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        x = torch.zeros(1, 2)
        torch.ops.uqforce.gmm_nll.default.redispatch(cuda, x, x, torch.eye(2)[None], torch.zeros(1))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    sentence = (
        "NotImplementedError: uqforce was built without CUDA kernels for uqforce::gmm_nll: move the tensors"
    )
    assert sentence in done.stderr and done.returncode == 1


@pytest.fixture(scope="module")
def prefix(library, tmp_path_factory) -> Path:
    """Where the library is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


def test_example(prefix, tmp_path):
    """examples/cpp prints what Python computes."""
    configure(ROOT / "examples" / "cpp", tmp_path, prefix)
    run("cmake", "--build", tmp_path)
    model = BUILD / "tests" / "cpp" / "model.pt"
    out = run(tmp_path / "water", model)
    water = ase.Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    energy = Calculator(model).get_potential_energy(water)
    assert float(re.search(r"energy\n\s*(\S+)\n", out)[1]) == pytest.approx(energy, abs=1e-4)
    assert "forces\n" in out


def test_installed_package_is_found(prefix, tmp_path):
    """A project of its own: find_package(uqforce), the driver linked with uqforce::uqforce."""
    build = tmp_path / "host"
    configure(ROOT / "tests" / "cpp", build, prefix)
    build_and_test(build)
