"""ncu's hardware counters of the first launches of our kernels: `python bench/device/counters.py FOLDER`.

Writes counters.ncu-rep and, of it, counters.csv. The card's clocks are left as they are.
"""

import subprocess
import sys
from pathlib import Path

PROFILE = Path(__file__).with_name("kernel_profile.py")
KERNELS = "regex:(value|vjp|map|rows|forward|backward)_kernel|tiled|tensor"
LAUNCHES = 24


def main() -> int:
    folder = Path(sys.argv[1])
    report = folder / "counters.ncu-rep"
    command = ["ncu", "--clock-control", "none", "--set", "detailed", "--kernel-name", KERNELS]
    command += ["--launch-count", str(LAUNCHES), "--export", str(report), "--force-overwrite"]
    command += [sys.executable, str(PROFILE), str(folder), "--plain"]
    print("$", *command, flush=True)
    status = subprocess.run(command).returncode
    if not report.exists():
        print(f"ncu wrote no report, exit status {status}")
        return 1
    with (folder / "counters.csv").open("w") as file:
        again = ["ncu", "--import", str(report), "--page", "details", "--csv"]
        return status or subprocess.run(again, stdout=file).returncode


if __name__ == "__main__":
    sys.exit(main())
