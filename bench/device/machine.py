"""Facts of the machine, and which tools it has: each command's output, or one line that it is missing."""

import platform
import shutil
import subprocess
import sys

COMMANDS = (
    ["nvidia-smi"],
    ["nvcc", "--version"],
    ["c++", "--version"],
    ["git", "describe", "--always", "--dirty"],
    ["ninja", "--version"],
    ["compute-sanitizer", "--version"],
    ["compute-sanitizer", "--help"],
    ["ncu", "--version"],
)


def main() -> None:
    print(f"Python {sys.version} on {platform.platform()}", flush=True)
    missing = []
    for command in COMMANDS:
        print(f"\n$ {' '.join(command)}", flush=True)
        if shutil.which(command[0]) is None:
            missing += [command[0]] if command[0] not in missing else []
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=15)
            print((done.stdout + done.stderr)[:20000], flush=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(error, flush=True)
    print(f"missing tools: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
