"""Loads `libuqforce.so`, the compiled ops, once, and tells how it was built."""

import json
import mmap
from pathlib import Path
from typing import Any

import torch

from uqforce.errors import InstallationError

LIBRARY_PATH = Path(__file__).parent / "libuqforce.so"
REBUILD = (
    "run `make build` in the checkout, or `pip install --no-build-isolation --force-reinstall --no-deps .`"
)


def built_for(library: Path) -> str:
    """Version of torch that `library` was built for, read from its bytes: nothing is loaded.

    Raises:
        InstallationError: the file is missing or is not uqforce's library; the message says what to do.
    """
    if not library.exists():
        raise InstallationError(f"{library} does not exist, uqforce is not built: {REBUILD}")
    mark = b"uqforce built for torch "
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(mark)
        if start < 0:
            raise InstallationError(f"{library} is not the library of uqforce: {REBUILD}")
        return content[start + len(mark) : content.find(b"\0", start)].decode()


def load(library: Path = LIBRARY_PATH) -> None:
    """Load the compiled ops into `torch.ops.uqforce`.

    Raises:
        InstallationError: the library is missing or built for another torch; the message says what to do.
    """
    built, running = built_for(library), torch.__version__.split("+")[0]
    if built.split(".")[:2] != running.split(".")[:2]:
        raise InstallationError(
            f"uqforce was built for torch {built} but torch {running} is running: {REBUILD}, "
            f"or install torch=={built}"
        )
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise InstallationError(
            f"{library}, built for torch {built}, does not load under torch {torch.__version__}: "
            f"{REBUILD} ({error})"
        ) from error


def build_info() -> dict[str, Any]:
    """Return what the compiled library was built from, what it can do and what is in use.

    Keys: `uqforce`, `torch`, `compiler`, `cuda_archs` (nvcc's names, the last one PTX; None without CUDA
    kernels), `without_cuda` (ops that have no CUDA kernel; None: all have one), `instruction_sets` (compiled)
    and `instruction_set` (in use; `UQFORCE_ISA` overrides the choice).

    Raises:
        InstallationError: the library is missing or built for another torch.

    Example:
        >>> import uqforce
        >>> uqforce.build_info()["instruction_set"] in ("baseline", "avx2", "avx512")
        True
    """
    return json.loads(torch.ops.uqforce.build_info())


load()
