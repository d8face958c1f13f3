"""The library of CUDA kernels compiled for the host: `pytest --emulate` runs the tests with it.

Loaded behind libuqforce.so it puts every CUDA kernel there is in the place of the CPU's; autograd, checks and
shapes stay those of the package. With `UQFORCE_EMULATION_SANITIZER=undefined` it is a library of its own that
reports what C++ leaves undefined, misaligned vector loads above all: x86 forgives them and a GPU does not.
"""

import os
from pathlib import Path

from torch.utils import cpp_extension

from uqforce._library import LIBRARY_PATH

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-O1", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas", "-DUQFORCE_EMULATION"]


def build(directory: Path) -> Path:
    """Compile what changed since the last time; the library's path."""
    sanitizer = os.environ.get("UQFORCE_EMULATION_SANITIZER")
    checks = []
    if sanitizer:
        directory = directory.with_name(f"{directory.name}-{sanitizer}")
        checks = [f"-fsanitize={sanitizer}", "-fno-sanitize=vptr", "-fno-sanitize-recover=all", "-g1"]
    directory.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "fibres.cpp"]
    for path in sorted([*CSRC.glob("*/cuda*.cu"), *CSRC.glob("*/cuda*.cpp")]):
        # Under names of their own, and of C++: a .cu file would ask for nvcc.
        source = directory / f"{path.parent.name}_{path.stem}.cpp"
        text = f'#include "{path.relative_to(CSRC)}"\n'
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        sources.append(source)
    name = "uqforce_emulation"
    cpp_extension.load(
        name=name,
        sources=[str(path) for path in sources],
        extra_cflags=[*FLAGS, *checks],
        extra_include_paths=[str(HERE), str(CSRC)],
        extra_ldflags=[str(LIBRARY_PATH), f"-Wl,-rpath,{LIBRARY_PATH.parent}", *checks[:1]],
        build_directory=str(directory),
        is_python_module=False,
        with_cuda=False,
    )
    return directory / f"{name}.so"
