"""Run the benchmarks `python bench/run.py [NAME ...]`; bench/NAME.py has `cases() -> Iterable[Case]`.

Prints a table per case and writes bench/results/<machine>/NAME.json with the machine's facts, or one NAME to
the file of --json. `ratio` is the time of a rival over ours. "ceiling" is the share of the time that the
counted bytes or operations would take at the best bandwidth and matrix product measured in the same run.
"CPU" is the time that the process's threads computed: with one thread less than "ms" by what the machine
spent on others, with a busy machine the fairer figure. `other_work` is the number of cores that others used.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
COMMON = ("run", "measure", "timing", "remote", "systems", "report", "plots", "test_regressions")
QUICK_SECONDS, SECONDS = 0.15, 1.0


def parse() -> argparse.Namespace:
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in COMMON)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(names)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads (default 1)")
    parser.add_argument("--seconds", type=float, help=f"for each rival of a case (default {SECONDS})")
    parser.add_argument("--limit", type=float, help="seconds after which no case begins, for each NAME")
    parser.add_argument("--quick", action="store_true", help=f"fewer cases, {QUICK_SECONDS} seconds each")
    parser.add_argument("--ours", action="store_true", help="without rivals, as for scaling with threads")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="keep what is made (compiled models)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results there, not into --output")
    parser.add_argument("--add", action="store_true", help="keep the file's other cases: a run in parts")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the results")
    args = parser.parse_args()
    args.names = args.names or names
    if unknown := set(args.names) - set(names):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    if args.json and len(args.names) > 1:
        parser.error(f"--json takes one NAME, not {len(args.names)}; --output FOLDER takes several")
    if args.seconds is None:
        args.seconds = QUICK_SECONDS if args.quick else SECONDS
    return args


def measured(args: argparse.Namespace, name: str, threads: int, scratch: Path) -> dict:
    """measure.py's result: in a new process, because libraries read the number of threads when loaded."""
    output = scratch / "measured.json"
    options = {"name": name, "output": str(output)}
    options |= {key: getattr(args, key) for key in ("only", "ours", "seconds", "quick", "limit")}
    number = str(threads)
    variables = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
    variables["UQFORCE_BENCH_SCRATCH"] = str(scratch)
    command = [sys.executable, str(HERE / "measure.py"), json.dumps(options)]
    subprocess.run(command, env={**os.environ, **variables}, check=True)
    return json.loads(output.read_text())


def scaling(name: str, entries: list[dict]) -> str:
    """How many times faster each case of ours is with more threads, as text."""
    lines = []
    first = {entry["case"]: entry for entry in reversed(entries)}
    for entry in entries:
        if entry is not (base := first[entry["case"]]):
            factor = base["rows"][0]["median_ms"] / entry["rows"][0]["median_ms"]
            lines.append(f"  {factor:5.2f}x with {entry['threads']} threads: {entry['case']}")
    return "\n".join([f"{name}, uqforce against {entries[0]['threads']} thread", *lines, ""]) if lines else ""


def main() -> None:
    args = parse()
    command = shlex.join(["python", "bench/run.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="uqforce-bench-") as temporary:
        scratch = (args.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        for name in args.names:
            runs = [measured(args, name, threads, scratch) for threads in args.threads]
            cases = [case for run in runs for case in run["cases"]]
            print(scaling(name, cases), end="", flush=True)
            machine = runs[0]["machine"]
            folder = re.sub(r"[^a-z0-9]+", "-", (machine["gpu"] or machine["cpu"]).lower()).strip("-")
            path = args.json or args.output / folder / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            if args.add and path.exists():
                before, again = json.loads(path.read_text()), {(new["case"], new["threads"]) for new in cases}
                kept = [old for old in before["cases"] if (old["case"], old["threads"]) not in again]
                cases, command = kept + cases, f"{before['command']}; {command}"
            result = {"name": name, "command": command, "machine": machine, "cases": cases}
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
