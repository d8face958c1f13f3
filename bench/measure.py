"""What run.py starts once per number of threads: `python measure.py OPTIONS_AS_JSON`; tables and JSON."""

import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # uqforce as built in place, and the benchmarks

import torch
from timing import Case, OtherWork, ceilings, machine_facts, run_case

COLUMNS = {  # key of a row: heading, format
    "median_ms": ("ms", "10.3f"),
    "min_ms": ("min", "10.3f"),
    "max_ms": ("max", "10.3f"),
    "cpu_ms": ("CPU", "10.3f"),
    "per_unit": ("ns/{}", "13.1f"),
    "ratio": ("ratio", "8.2f"),
    "gb_per_s": ("GB/s", "8.1f"),
    "gflop_per_s": ("GFLOP/s", "9.1f"),
    "share_of_ceiling": ("ceiling", "9.0%"),
    "peak_mb": ("peak MB", "10.1f"),
    "peak_per_unit": ("B/{}", "11.0f"),
}


def table(case: Case, rows: list[dict]) -> str:
    """The rows as text; `ratio` says how many times longer than the first one of them it takes."""
    base = next((row["median_ms"] for row in rows if "median_ms" in row), None)
    full = [
        row
        | {"per_unit": row[f"ns_per_{case.unit}"], "ratio": row["median_ms"] / base}
        | {"peak_per_unit": row.get(f"peak_bytes_per_{case.unit}")}
        if "median_ms" in row
        else row
        for row in rows
    ]
    used = [key for key in COLUMNS if any(row.get(key) for row in full)]
    width = {key: int(COLUMNS[key][1].partition(".")[0]) for key in used}
    lines = [case.name, " " * 36 + "".join(f"{COLUMNS[k][0].format(case.unit):>{width[k]}}" for k in used)]
    for row in full:
        cells = (f"{row[k]:{COLUMNS[k][1]}}" if row.get(k) else " " * width[k] for k in used)
        lines.append(f"  {row['rival']:34}" + row.get("error", "".join(cells)))
    return "\n".join(lines)


def main(
    name: str, only: str, ours: bool, seconds: float, quick: bool, limit: float | None, output: str
) -> None:
    cases, start = [], time.monotonic()
    for case in importlib.import_module(name).cases():
        if limit is not None and time.monotonic() - start > limit:
            print(f"{name}: {limit:g} s are over, left out: {case.name} and what comes after", flush=True)
            break
        if only not in case.name or (quick and not case.quick):
            continue
        if ours:
            rivals = {rival: make for rival, make in case.rivals.items() if rival.startswith("uqforce")}
            case = dataclasses.replace(case, rivals=rivals)
        threads, others = torch.get_num_threads(), OtherWork()
        rows = run_case(case, seconds, name)
        entry = {"case": case.name, "unit": case.unit, "count": case.count, "threads": threads}
        entry |= {
            "target": case.target,
            "against": case.against,
            "other_work": round(others.cores(), 2),
            "rows": rows,
        }
        if case.work is not None:
            entry |= {"work": dataclasses.asdict(case.work), "ceilings": ceilings(case.device)}
        cases.append(entry)
        print(f"{name}, {threads} thread{'s' * (threads > 1)}: {table(case, rows)}\n", flush=True)
    Path(output).write_text(json.dumps({"machine": machine_facts(), "cases": cases}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
