"""Fair timing: rivals behind one interface, called in turn; medians and spread; machine facts."""

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import uqforce

RIVAL_PACKAGES = ("ase", "e3nn", "matscipy", "nequip", "numpy", "scikit-learn", "vesin")


@dataclass
class Case:
    """One workload and those who do it.

    Attributes:
        name: what is computed, on what: "forward+backward, 15000 edges, float32".
        unit: what a call does `count` times: "edge", "pair", "atom".
        count: how many of them one call does.
        rivals: for each name a function that imports what it needs, prepares the input in the form that suits
            it best and returns the function to time. Ours, "uqforce", comes first. One that raises
            ImportError is reported as not installed.
        check: raises AssertionError where the result of a rival differs from that of the first one.
    """

    name: str
    unit: str
    count: int
    rivals: dict[str, Callable[[], Callable[[], object]]]
    check: Callable[[object, object], None] | None = None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def run_case(case: Case, seconds: float) -> list[dict]:
    """Time all rivals for about `seconds` each: calls alternate, so that a busy moment hits everyone."""
    functions, rows, first = {}, [], None
    for name, make in case.rivals.items():
        try:
            function = make()
        except ImportError as error:
            rows.append({"rival": name, "error": f"not installed: {error.name}"})
            continue
        result = function()
        if first is None:
            first = result
        elif case.check is not None:
            case.check(first, result)
        functions[name] = function
    rounds = {name: max(3, min(1000, round(seconds / measure(f)))) for name, f in functions.items()}
    times = {name: [] for name in functions}
    for turn in range(max(rounds.values(), default=0)):
        for name, function in functions.items():
            if turn < rounds[name]:
                times[name].append(measure(function))
    for name, values in times.items():
        median = statistics.median(values)
        rows.append(
            {
                "rival": name,
                "median_ms": 1e3 * median,
                "min_ms": 1e3 * min(values),
                "max_ms": 1e3 * max(values),
                "calls": len(values),
                f"ns_per_{case.unit}": 1e9 * median / case.count,
            }
        )
    return rows


def machine_facts() -> dict:
    """What a figure depends on: hardware, versions, threads, and how busy the machine was."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    versions = {}
    for package in RIVAL_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "uqforce": uqforce.build_info(),
        "commit": commit.stdout.strip() or None,
        "versions": versions,
    }
