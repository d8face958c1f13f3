"""Run the benchmarks `python bench/run.py [NAME ...]`; bench/NAME.py has `cases() -> Iterable[Case]`.

Prints a table per case and writes bench/results/<machine>/NAME.json with the machine's facts; --json prints
that instead of the table. Figures taken on a busy machine say so: look at `load_average`.
"""

import argparse
import importlib
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # uqforce as built in place, and the benchmarks

from timing import Case, machine_facts, run_case  # noqa: E402

COMMON = ("run", "timing", "systems")


def table(case: Case, rows: list[dict]) -> str:
    """The rows as text; `ratio` says how many times longer than the first one of them it takes."""
    per = f"ns_per_{case.unit}"
    lines = [f"  {'':24}{'ms':>10}{'min':>10}{'max':>10}{'ns/' + case.unit:>12}{'ratio':>8}"]
    base = next((row["median_ms"] for row in rows if "median_ms" in row), None)
    for row in rows:
        if "error" in row:
            lines.append(f"  {row['rival']:24}{row['error']}")
            continue
        times = "".join(f"{row[key]:10.3f}" for key in ("median_ms", "min_ms", "max_ms"))
        lines.append(f"  {row['rival']:24}{times}{row[per]:12.1f}{row['median_ms'] / base:8.2f}")
    return "\n".join([case.name, *lines])


def main() -> None:
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in COMMON)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(names)}")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and the kernels (default 1)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time given to each rival of a case")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the results")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):
        # The rivals' libraries read it when they are loaded, so everything starts again.
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])

    for name in args.names or names:
        result = {"name": name, "machine": machine_facts(), "cases": []}
        for case in importlib.import_module(name).cases():
            if args.only not in case.name:
                continue
            rows = run_case(case, args.seconds)
            result["cases"].append({"case": case.name, "rows": rows})
            if not args.json:
                print(f"{name}: {table(case, rows)}\n", flush=True)
        text = json.dumps(result, indent=1)
        if args.json:
            print(text)
        machine = result["machine"]["gpu"] or result["machine"]["cpu"]
        folder = args.output / re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
