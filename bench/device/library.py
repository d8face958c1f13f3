"""Finds a library that runs here: the one built in place, the one in `.device/`, or builds it.

It fits if it loads beside this torch and Python and has kernels that the card runs. A build is for the card,
with all cores, and its log is this part's.
"""

import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE, CARRIED = ROOT / "uqforce", ROOT / ".device"
FITS = """
import os, sys, torch
from uqforce.device import without_cuda
import uqforce._C
rehearsal = os.environ.get("UQFORCE_REHEARSAL") == "1"
lacking = None if rehearsal or not torch.cuda.is_available() else without_cuda()
sys.exit(f"uqforce {lacking}" if lacking else 0)
"""


def fits(which: str) -> bool:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", FITS], env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        print(f"the library {which} fits", flush=True)
        return True
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    print(f"the library {which} does not fit: {last}", flush=True)
    return False


def carried() -> list[Path]:
    """The library and the bindings of this Python, if both were brought along."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    files = [CARRIED / "libuqforce.so", CARRIED / f"_C{suffix}"]
    return files if all(file.exists() for file in files) else []


def main() -> int:
    if fits("in place"):
        return 0
    if files := carried():
        for file in files:
            shutil.copy2(file, PACKAGE)
        if fits("brought along"):
            return 0
    else:
        print(f"none was brought along in {CARRIED}", flush=True)
    # --split-compile: kernels of a file are optimised side by side, or all wait for the largest file.
    environment = {**os.environ, "UQFORCE_CUDA": "1", "NVCC_APPEND_FLAGS": "--split-compile=0"}
    environment["MAX_JOBS"] = str(os.cpu_count())
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        print("the library does not build: see above", flush=True)
        return 1
    return 0 if fits("built here") else 1


if __name__ == "__main__":
    sys.exit(main())
