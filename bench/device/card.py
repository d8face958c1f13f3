"""The device of the parts, or one line why there is none: no card, a library that does not run on it.

`python bench/device/card.py` is the part on which the others depend.
"""

import os
import sys
from typing import NoReturn

from running import LEFT_OUT

REHEARSAL = os.environ.get("UQFORCE_REHEARSAL") == "1"


def leave_out(why: object) -> NoReturn:
    print(why, flush=True)
    sys.exit(LEFT_OUT)


def device_name() -> str:
    """ "cuda", or in a rehearsal "cpu"; ends the process with LEFT_OUT where CUDA cannot be used."""
    try:
        import torch

        from uqforce.device import arch_for, without_cuda
    except ImportError as error:
        leave_out(error)
    if REHEARSAL:
        print("rehearsal: the CPU in the place of a card")
        return "cpu"
    if not torch.cuda.is_available():
        leave_out(f"torch {torch.__version__} sees no CUDA device")
    if lacking := without_cuda():
        leave_out(f"uqforce {lacking}")
    torch.zeros(1, device="cuda").add_(1).item()
    print(f"{torch.cuda.get_device_name()} runs the kernels for {arch_for()}")
    return "cuda"


if __name__ == "__main__":
    device_name()
