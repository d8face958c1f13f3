"""What this build can do, on which cards it runs, and what a model says about itself."""

import argparse
import platform
from typing import Any

import torch

from uqforce._library import LIBRARY_PATH, build_info
from uqforce._version import __version__
from uqforce.device import describe_cards


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
    cuda = f"built for {' '.join(archs)}" if archs else "not built (docs/building.md)"
    return [
        f"uqforce           {__version__}",
        f"torch             {torch.__version__} (library built against {build['torch']})",
        f"Python            {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"library           {LIBRARY_PATH}",
        f"compiler          {build['compiler']}",
        f"instruction set   {build['instruction_set']} (compiled: {', '.join(build['instruction_sets'])})",
        f"threads           {torch.get_num_threads()}",
        f"CUDA kernels      {cuda}",
        f"CUDA devices      {'; '.join(describe_cards()) or 'none'}",
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
    from uqforce.exporting.opening import open_model

    print("\n".join(describe_build()))
    if args.model:
        _, metadata = open_model(args.model)
        print("\n" + "\n".join(describe_model(metadata)))
    return 0
