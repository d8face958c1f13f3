"""compute-sanitizer over each_op.py, our kernels only: `python bench/device/sanitizer.py memcheck`."""

import os
import subprocess
import sys
from pathlib import Path

EACH_OP = Path(__file__).with_name("each_op.py")


def main() -> None:
    tool = sys.argv[1]
    said = subprocess.run(["compute-sanitizer", "--help"], capture_output=True, text=True).stdout
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    if "--kernel-name " in said:  # else torch's kernels are checked too, which takes longer
        command += ["--kernel-name", "kernel_substring=uqforce"]
    command += ["--target-processes", "all", sys.executable, str(EACH_OP)]
    print("$", *command, flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
