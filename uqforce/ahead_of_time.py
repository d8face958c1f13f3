"""Compiles what modules compute ahead of time (AOTInductor): for exported packages and for training steps."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uqforce.errors import InstallationError

# Our kernels have the threads; between them a loop over atoms is short, and one thread adds in one order.
OPTIONS = {"aot_inductor.package": True, "cpp.threads": 1}


def check_compiler() -> None:
    """Raises an `InstallationError` where there is no C++ compiler."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError as error:
        raise InstallationError(
            "there is no C++ compiler: install g++, or name one in the environment variable CXX"
        ) from error


def compile_module(
    module: nn.Module, arguments: Sequence[Tensor], shapes: tuple, described: dict[str, str] | None = None
) -> list[str]:
    """Compile a module's `forward` for tensors like `arguments`, with the `shapes` dynamic.

    Args:
        shapes: as `torch.export.export` takes them.
        described: what the files say about themselves (`aot_inductor.metadata`).

    Returns the compiled files, which `package_pt2` packs; their sources are left out.

    Raises: InstallationError.
    """
    check_compiler()
    options: dict[str, Any] = OPTIONS | ({"aot_inductor.metadata": described} if described else {})
    with torch.no_grad(), quiet():
        program = torch.export.export(module, tuple(arguments), dynamic_shapes=shapes)
        files = torch._inductor.aot_compile(program.module(), tuple(arguments), options=options)
    return [file for file in files if not str(file).endswith(".cpp")]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's compiler says to its own developers; its errors are errors all the same."""
    log = logging.getLogger("torch._inductor")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
