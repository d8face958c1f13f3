"""What this build can do, on which device it runs, and what a model says about itself."""

import argparse
import functools
import platform
import sys
import warnings
from typing import Any

import torch

from uqforce._library import LIBRARY_PATH, build_info
from uqforce._version import __version__
from uqforce.errors import InputError


def choose_device(device: str) -> torch.device:
    """The device to run on; "auto" is CUDA where this machine and this build have it, else the CPU.

    Says on stderr, once per device, which kernels will run.

    Raises:
        InputError: CUDA was asked for by name and is not there, or the build has no CUDA kernels.
    """
    available, lacking = torch.cuda.is_available(), without_cuda()
    if device == "auto":
        if available and lacking:
            warnings.warn(
                f"this machine has a CUDA device but uqforce {lacking}: running on the CPU "
                "(say device='cpu' to be rid of this warning)",
                stacklevel=3,
            )
        device = "cuda" if available and not lacking else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}") from None
    if chosen.type == "cuda" and not available:
        raise InputError(
            f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA device"
        )
    if chosen.type == "cuda" and lacking:
        raise InputError(f"device {device!r} was asked for, but uqforce {lacking}: use 'cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    _announce(chosen)
    return chosen


def without_cuda() -> str | None:
    """Why models do not run on CUDA with this build; None where they do."""
    build = build_info()
    if build["cuda_archs"] is None:
        return "was built without CUDA kernels (install it where nvcc is found)"
    lacking = build["without_cuda"]
    return f"has no CUDA kernel yet for {', '.join(lacking)}" if lacking else None


@functools.cache
def _announce(device: torch.device) -> None:
    print(f"uqforce: {describe_device(device)}", file=sys.stderr)


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"CUDA kernels on {name} (tested in emulation only so far, never on a GPU: compare with cpu)"
    return f"CPU kernels ({build_info()['instruction_set']}), {torch.get_num_threads()} threads"


def kernels() -> dict[str, list[str]]:
    """Devices for which each op of the library has a kernel; none for an op made of others."""
    names = sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("uqforce::"))
    lacking = build_info()["without_cuda"] or []  # these have a CUDA stub, which only says so
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        short: [
            key
            for key in ("CPU", "CUDA")
            if has_kernel(name, key) and not (key == "CUDA" and short in lacking)
        ]
        for name in names
        for short in [name.removeprefix("uqforce::")]
    }


def describe_build() -> list[str]:
    build = build_info()
    archs = build["cuda_archs"]
    cuda = f"built for sm_{archs}" if archs else "not built (nvcc was not found or UQFORCE_CUDA=0)"
    devices = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return [
        f"uqforce           {__version__}",
        f"torch             {torch.__version__} (library built against {build['torch']})",
        f"Python            {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"library           {LIBRARY_PATH}",
        f"compiler          {build['compiler']}",
        f"instruction set   {build['instruction_set']} (compiled: {', '.join(build['instruction_sets'])})",
        f"threads           {torch.get_num_threads()}",
        f"CUDA kernels      {cuda}",
        f"CUDA devices      {', '.join(devices) or 'none'}",
        *(f"op                {name}: {', '.join(keys) or 'composite'}" for name, keys in kernels().items()),
    ]


def describe_model(metadata: dict[str, Any]) -> list[str]:
    """The metadata of a model as lines of text, one per entry; nested entries as `outer.inner`."""
    entries = flatten(metadata)
    width = max(map(len, entries))
    return [f"{name:<{width}}  {value}" for name, value in entries.items()]


def flatten(entry: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            flat[prefix + key] = f"{len(value)} entries"
        elif isinstance(value, list):
            flat[prefix + key] = " ".join(map(str, value))
        else:
            flat[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return flat


def run(args: argparse.Namespace) -> int:
    from uqforce.exporting.export import open_model

    print("\n".join(describe_build()))
    if args.model:
        _, metadata = open_model(args.model)
        print("\n" + "\n".join(describe_model(metadata)))
    return 0
