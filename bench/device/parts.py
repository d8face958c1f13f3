"""What `bench/device.sh` does: `python bench/device/parts.py check|time`.

check (250 s): are the results right? Facts of the machine, the library, every op against the CPU's
kernels, the tests, and beside these compute-sanitizer's four tools.
time (400 s): how fast is it? Models, kernels, a training step, a profile by kernel, rivals, the largest
system that fits.

Every part is a process with a budget and a log of its own; see running.py. The exit status is 0 if all
passed. With --rehearse it runs on the CPU with small sizes, which shows that the scripts work, no more.
"""

import argparse
import os
import sys
from pathlib import Path

from running import LIMIT, Part, Run

HERE = Path(__file__).parent
BENCH, ROOT = HERE.parent, HERE.parents[1]
SECONDS = {"check": 250, "time": 400}
SANITIZERS = ("memcheck", "initcheck", "racecheck", "synccheck")
TESTS = ["tests/ops", "tests/model", "tests/engines/test_calculator.py"]
REHEARSED_TESTS = ["tests/ops/test_gate.py", "tests/test_device.py"]
# Names of bench/device_*.py in their order, and seconds: of ours alone, and with rivals.
MEASURED = {"models": 70, "inference": 40, "convolutions": 30, "others": 40, "training": 30}
WITH_RIVALS = {"convolutions": 35, "others": 20, "training": 25}


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def prepared() -> list[list[Part]]:
    """What both begin with. The library may have to be built, which takes minutes."""
    return [
        [Part("machine", python("machine.py"), 20), Part("packages", python("packages.py"), 60)],
        [Part("library", python("library.py"), 220)],
        [Part("card", python("card.py"), 30, after=("library",))],
    ]


def check(rehearsal: bool) -> list[list[Part]]:
    chosen = REHEARSED_TESTS if rehearsal else [*TESTS, "-k", "cuda"]
    # -vv against the -q of pyproject.toml: a name per test, so that a log cut off tells how far it came.
    options = ["-vv", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    tests = python("run_tests.py", *options, *chosen)
    beside = [Part("tests", tests, 220, after=("card",))]
    for tool in SANITIZERS:
        # Else torch hands out pieces of large blocks, and nothing beyond a tensor is out of bounds.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = python("sanitizer.py", tool)
        beside.append(Part(tool, command, 220, ("card",), tool="compute-sanitizer", environment=environment))
    return [*prepared(), [Part("smoke", python("smoke.py"), 60, after=("card",))], beside]


def measured(name: str, output: Path, *options: str, rehearsal: bool) -> list[str]:
    """bench/run.py, which begins no case when the time is nearly over."""
    command = [sys.executable, str(BENCH / "run.py"), f"device_{name}"]
    command += ["--seconds", "0" if rehearsal else "0.2", "--limit", LIMIT]
    return [*command, "--output", str(output), *options]


def time(rehearsal: bool, folder: Path) -> list[list[Part]]:
    stages = prepared()
    for name, seconds in MEASURED.items():
        command = measured(name, folder, "--ours", rehearsal=rehearsal)
        stages.append([Part(name, command, seconds, after=("card",))])
    profile = Part("profile", python("kernel_profile.py", folder), 25, after=("card",))
    counters = Part("counters", python("counters.py", folder), 45, after=("card",), tool="ncu")
    stages += [[profile], [counters]]
    for name, seconds in WITH_RIVALS.items():
        command = measured(name, folder / "rivals", rehearsal=rehearsal)
        stages.append([Part(f"rivals_{name}", command, seconds, after=("card",))])
    command = measured("largest", folder, rehearsal=rehearsal)
    return [*stages, [Part("largest", command, 35, after=("card",))]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=SECONDS)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default build/device-<what>")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="all of it in one .tar.gz, too")
    parser.add_argument("--seconds", type=float, help="in all; budgets of parts are shortened in proportion")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these, and what they need")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes")
    args = parser.parse_args()
    folder = (args.output or ROOT / "build" / f"device-{args.what}").resolve()
    archive = args.archive and args.archive.resolve()
    seconds = args.seconds or SECONDS[args.what]
    os.environ |= {
        "UQFORCE_REHEARSAL": "1" if args.rehearse else "0",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT), str(BENCH), str(ROOT / "build" / "site"), os.environ.get("PYTHONPATH")])
        ),
        "OMP_NUM_THREADS": "1",
    }
    os.chdir(ROOT)
    stages = check(args.rehearse) if args.what == "check" else time(args.rehearse, folder)
    share = seconds / SECONDS[args.what]
    stages = [[part._replace(seconds=part.seconds * share) for part in stage] for stage in stages]
    if args.only:
        needed = {part.name for stage in prepared() for part in stage} | set(args.only)
        stages = [[part for part in stage if part.name in needed] for stage in stages]
    return 0 if Run(args.what, folder, seconds, archive).stages(stages) else 1


if __name__ == "__main__":
    sys.exit(main())
