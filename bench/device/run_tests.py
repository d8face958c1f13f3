"""pytest with what is installed of xdist and pytest-timeout: `python bench/device/tests.py ARGUMENTS`."""

import importlib.util
import os
import sys


def main() -> None:
    options = []
    if importlib.util.find_spec("xdist"):
        options += ["-n", str(min(8, os.cpu_count() or 1))]
    if importlib.util.find_spec("pytest_timeout"):
        options += ["--timeout", "60"]
    command = [sys.executable, "-m", "pytest", *options, *sys.argv[1:]]
    print("$", *command, flush=True)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
