"""Run the benchmarks `python bench/run.py [NAME ...]`; bench/NAME.py has `cases() -> Iterable[Case]`.

Prints a table per case and writes bench/results/<machine>/NAME.json with the machine's facts, or one NAME to
the file of --json, anew after every case: what fails stands there with its error, and the others go on.
`ratio` is the time of a rival over ours. "ceiling" is the share of the time that the counted bytes or
operations would take at the best bandwidth and matrix product measured in the same run.
"CPU" is the time that the process's threads computed: with one thread less than "ms" by what the machine
spent on others, with a busy machine the fairer figure. `other_work` is the number of cores that others used.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMON = (
    "run", "measure", "records", "timing", "remote", "systems", "report", "plots", "test_regressions",
    "device_sizes",
)  # fmt: skip
QUICK_SECONDS, SECONDS = 0.15, 1.0
FAILED, LOST = 1, 3  # exit status of measure.py; after LOST the rest needs a new process


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


def measure(args: argparse.Namespace, name: str, threads: int, add: bool, scratch: Path) -> tuple[list, list]:
    """Measure in a new process, because libraries read the number of threads when loaded.

    A process that crashed, or lost its device to an error, is followed by one for the cases after that.

    Returns:
        The entries of the file of results, and a line for everything of this run that failed.
    """
    progress_file, number = scratch / "progress.json", str(threads)
    progress_file.unlink(missing_ok=True)
    variables = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
    variables["UQFORCE_BENCH_SCRATCH"] = str(scratch)
    options = {key: getattr(args, key) for key in ("only", "ours", "seconds", "quick")}
    options |= {"name": name, "command": shlex.join(["python", "bench/run.py", *sys.argv[1:]])}
    options |= {"output": str((args.json or args.output).resolve()), "progress": str(progress_file)}
    done, start, goes_on = [], time.monotonic(), True
    while goes_on:
        options |= {"add": add or bool(done), "done": done}
        options["limit"] = None if args.limit is None else args.limit - (time.monotonic() - start)
        command = [sys.executable, str(HERE / "measure.py"), json.dumps(options)]
        status = subprocess.run(command, env={**os.environ, **variables}).returncode
        progress = json.loads(progress_file.read_text()) if progress_file.exists() else {"done": []}
        before, done = done, progress["done"]
        goes_on = (status == LOST or status < 0) and len(done) > len(before)
    entries = json.loads(Path(progress["path"]).read_text())["cases"] if done else []
    ours = [entry for entry in entries if entry["threads"] == threads and entry["case"] in done]
    wrong = [f"{name}, {entry['case']}: {entry['error']}" for entry in ours if "error" in entry]
    if status not in (0, FAILED):
        wrong.append(f"{name}: exit status {status} after {done[-1] if done else 'no case'}")
    return entries, wrong


def scaling(name: str, entries: list[dict]) -> str:
    """How many times faster each case of ours is with more threads, as text."""
    lines = []
    first = {entry["case"]: entry for entry in reversed(entries)}
    for entry in entries:
        if entry is not (base := first[entry["case"]]) and not ("error" in entry or "error" in base):
            factor = base["rows"][0]["median_ms"] / entry["rows"][0]["median_ms"]
            lines.append(f"  {factor:5.2f}x with {entry['threads']} threads: {entry['case']}")
    return "\n".join([f"{name}, uqforce against {entries[0]['threads']} thread", *lines, ""]) if lines else ""


def main() -> int:
    args, failed = parse(), []
    with tempfile.TemporaryDirectory(prefix="uqforce-bench-") as temporary:
        scratch = (args.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        for name in args.names:
            for turn, threads in enumerate(args.threads):
                entries, wrong = measure(args, name, threads, args.add or turn > 0, scratch)
                failed += wrong
            print(scaling(name, entries), end="", flush=True)
    if failed:
        print("\n".join(["failed:", *(f"  {line}" for line in failed)]), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
