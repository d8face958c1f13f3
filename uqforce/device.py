"""Chooses the device that models run on, and says which kernels run there."""

import functools
import logging
import warnings

import torch

from uqforce._library import build_info
from uqforce.errors import InputError

log = logging.getLogger("uqforce.device")


def choose_device(device: str) -> torch.device:
    """The device to run on; "auto" is CUDA where this build runs on a card of this machine, else the CPU.

    Logs, once per device, which kernels will run.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:K" for the card number K.

    Raises:
        InputError: CUDA was asked for by name and is not there, or the build has no kernels for the card.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        lacking = without_cuda() if available else None
        if lacking:
            warnings.warn(
                f"this machine has a CUDA device but uqforce {lacking}: running on the CPU "
                "(say device='cpu' to be rid of this warning)",
                stacklevel=3,
            )
        device = "cuda" if available and not lacking else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:  # torch's sentence lists every kind of device that it knows
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:K', got {device!r}")
    if chosen.type == "cuda":
        cards = torch.cuda.device_count() if available else 0
        if (chosen.index or 0) >= cards:
            raise InputError(
                f"device {device!r} was asked for, but torch {torch.__version__} sees {cards} CUDA devices"
            )
        lacking = without_cuda(chosen.index)
        if lacking:
            raise InputError(f"device {device!r} was asked for, but uqforce {lacking}: use 'cpu'")
    _announce(chosen)
    return chosen


def without_cuda(card: int | None = None) -> str | None:
    """Why this build does not run models on a CUDA card (default: the current one); None where it does."""
    build = build_info()
    if build["cuda_archs"] is None:
        return "was built without CUDA kernels (rebuild it where nvcc is found, with UQFORCE_CUDA=1)"
    if build["without_cuda"]:
        return f"has no CUDA kernel yet for {', '.join(build['without_cuda'])}"
    if arch_for(card):
        return None
    major, minor = torch.cuda.get_device_capability(card)
    return (
        f"was built for {' '.join(build['cuda_archs'])}, which {torch.cuda.get_device_name(card)} of compute "
        f'capability {major}.{minor} does not run (rebuild it with UQFORCE_CUDA_ARCHS="{major}{minor}")'
    )


def arch_for(card: int | None = None) -> str:
    """What of this build a CUDA card (default: torch's current one) runs; LAMMPS asks the same function.

    Returns:
        "sm_90": machine code. "compute_120": PTX, which the card's driver compiles when it is first used.
        "": nothing.
    """
    major, minor = torch.cuda.get_device_capability(card)
    return torch.ops.uqforce.cuda_arch_for(10 * major + minor, build_info()["cuda_archs"] or [])


@functools.cache
def _announce(device: torch.device) -> None:
    log.info(describe_device(device))


def describe_device(device: torch.device) -> str:
    """Which kernels run on a device that `choose_device` gave, in half a sentence."""
    if device.type == "cpu":
        return f"CPU kernels ({build_info()['instruction_set']}), {torch.get_num_threads()} threads"
    arch = arch_for(device.index)
    compiled = ", which the driver compiles now: minutes, once" if arch.startswith("compute_") else ""
    return (
        f"CUDA kernels for {arch}{compiled} on {torch.cuda.get_device_name(device)} "
        "(tested in emulation only so far, never on a GPU: compare with cpu)"
    )


def describe_cards() -> list[str]:
    """The CUDA cards that torch sees, each with what of this build runs on it."""
    lines = []
    for card in range(torch.cuda.device_count()):
        lacking = without_cuda(card)
        runs = f"uqforce {lacking}" if lacking else f"runs the kernels for {arch_for(card)}"
        lines.append(f"{torch.cuda.get_device_name(card)}: {runs}")
    return lines
