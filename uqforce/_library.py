"""Loads `libuqforce.so`, the compiled ops, once."""

from pathlib import Path

import torch

LIBRARY_PATH = Path(__file__).parent / "libuqforce.so"


def load() -> None:
    """Load the compiled ops into `torch.ops.uqforce`.

    Raises:
        ImportError: the library is missing or was built for another torch; the message says what to do.
    """
    if not LIBRARY_PATH.exists():
        raise ImportError(
            f"{LIBRARY_PATH} does not exist: build it with `python setup.py build_ext --inplace` "
            "or `pip install --no-build-isolation .`"
        )
    from uqforce import _C

    running = torch.__version__.split("+")[0]
    if running.split(".")[:2] != _C.torch_version.split(".")[:2]:
        raise ImportError(
            f"uqforce was built for torch {_C.torch_version} but torch {running} is running: rebuild with "
            f"`pip install --no-build-isolation --force-reinstall uqforce`, or install torch {_C.torch_version}"
        )
    torch.ops.load_library(LIBRARY_PATH)


load()
