"""What run.py starts once per number of threads: `python measure.py OPTIONS_AS_JSON`; tables and JSON.

The file of results is written before and after every case, so that whatever ends the process loses one case.
"""

import dataclasses
import importlib
import json
import re
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # uqforce as built in place, and the benchmarks

import torch
from records import write_json
from timing import Case, OtherWork, ceilings, machine_facts, run_case, synchronize

FAILED, LOST = 1, 3  # exit status
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


class Results:
    """The file of one benchmark, complete after every case."""

    def __init__(
        self, name: str, command: str, output: str, progress: str, add: bool, done: list[str]
    ) -> None:
        facts = machine_facts()
        folder = re.sub(r"[^a-z0-9]+", "-", (facts["gpu"] or facts["cpu"]).lower()).strip("-")
        target = Path(output)
        self.path = target if target.suffix == ".json" else target / folder / f"{name}.json"
        self.progress, self.done = Path(progress), list(done)
        self.content = {"name": name, "command": command, "machine": facts, "cases": []}
        if add and self.path.exists():
            before = json.loads(self.path.read_text())
            again = before["command"] == command or before["command"].endswith(f"; {command}")
            self.content["command"] = before["command"] if again else f"{before['command']}; {command}"
            self.content["cases"] = before["cases"]

    def put(self, entry: dict) -> None:
        """In the place of what was measured of that case before."""
        same = (entry["case"], entry["threads"])
        kept = [old for old in self.content["cases"] if (old["case"], old["threads"]) != same]
        self.content["cases"] = [*kept, entry]
        self.done += [entry["case"]] if entry["case"] not in self.done else []
        write_json(self.path, self.content)
        write_json(self.progress, {"path": str(self.path), "done": self.done})


def measured(case: Case, name: str, seconds: float) -> dict:
    others, rows = OtherWork(), run_case(case, seconds, name)
    entry = {"unit": case.unit, "count": case.count, "target": case.target, "against": case.against}
    entry |= {"other_work": round(others.cores(), 2), "rows": rows}
    if case.work is not None:
        entry |= {"work": dataclasses.asdict(case.work), "ceilings": ceilings(case.device)}
    return entry


def sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def device_is_lost() -> bool:
    """Whether an error of CUDA stays: then every later call of this process fails too."""
    try:
        synchronize()
    except Exception:
        return True
    return False


def main(
    name: str, command: str, output: str, progress: str, add: bool, done: list[str],
    only: str, ours: bool, seconds: float, quick: bool, limit: float | None,
) -> int:  # fmt: skip
    """Measure the cases but those of `done`; the exit status: 0, FAILED, or LOST where a new process goes on.

    What fails is written as the case's `error`, with its traceback on stderr, and the next case begins.
    """
    start, status, threads = time.monotonic(), 0, torch.get_num_threads()
    results = Results(name, command, output, progress, add, done)
    title = f"{name}, {threads} thread{'s' * (threads > 1)}: "
    try:
        cases = iter(importlib.import_module(name).cases())
        while (case := next(cases, None)) is not None:
            if limit is not None and time.monotonic() - start > limit:
                print(f"{name}: the time is over, left out: {case.name} and what comes after", flush=True)
                break
            if case.name in done or only not in case.name or (quick and not case.quick):
                continue
            if ours:
                rivals = {rival: make for rival, make in case.rivals.items() if rival.startswith("uqforce")}
                case = dataclasses.replace(case, rivals=rivals)
            entry = {"case": case.name, "threads": threads}
            # Stays if the process is killed now; of a case that ran there is `rows` in its place.
            results.put(entry | {"error": "the process ended in this case", "rows": []})
            try:
                entry |= measured(case, name, seconds)
                text = table(case, entry["rows"])
            except Exception as error:
                traceback.print_exc()
                entry |= {"error": sentence(error), "rows": []}
                text, status = f"{case.name}\n  failed: {sentence(error)}", FAILED
            results.put(entry)
            print(f"{title}{text}\n", flush=True)
            if status == FAILED and device_is_lost():
                print(f"{name}: the device is lost to this process, the rest is a new one's", flush=True)
                return LOST
    except Exception as error:  # of the module, or of the function that makes the cases
        traceback.print_exc()
        entry = {"case": "the cases after those above", "threads": threads}
        results.put(entry | {"error": sentence(error), "rows": []})
        print(f"{title}no further case: {sentence(error)}\n", flush=True)
        return FAILED
    return status


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
