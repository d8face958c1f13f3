"""Fair timing: rivals behind one interface, called in turn; medians and spread, rates, peaks of memory."""

import gc
import importlib
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from remote import RemoteFunction, remote

import uqforce

RIVAL_PACKAGES = (
    "ase", "cuequivariance-torch", "e3nn", "matscipy", "nequip", "numpy", "openequivariance", "scikit-learn",
    "vesin",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one call has to do whoever does it: what must be read and written once, and the arithmetic.

    Attributes:
        bytes: of the inputs and the results.
        flops: additions and multiplications of the least known algorithm; 0 where bytes alone matter.
        dtype: which peak they are compared with, "float32" or "float64".
    """

    bytes: float
    flops: float = 0
    dtype: str = "float32"


@dataclass
class Case:
    """One workload and those who do it.

    Attributes:
        name: what is computed, on what: "forward+backward, 15000 edges, float32".
        unit: what a call does `count` times: "edge", "pair", "atom".
        count: how many of them one call does.
        rivals: for each name a function that imports what it needs, prepares the input in the form that suits
            it best and returns the function to time (`remote` where that is in a process of its own). Ours,
            "uqforce", comes first. One that raises ImportError is reported as not installed.
        check: raises AssertionError where the result of a rival differs from that of the first one.
        work: with it the table shows rates and the share of the machine's ceilings.
        memory: measure what one call adds to the memory in use at its peak, each rival in a fresh process.
        target: how many times faster than `against` we want to be.
        against: that rival's name; by default the fastest.
        quick: part of `run.py --quick`.
        device: where it runs: "cpu", or "cuda", whose bandwidth is that of a copy. There a rival that fails
            is reported, and the others run.
        measured: rows that were measured already, in place of rivals.
    """

    name: str
    unit: str
    count: int
    rivals: dict[str, Callable[[], Callable[[], object]]]
    check: Callable[[object, object], None] | None = None
    work: Work | None = None
    memory: bool = False
    target: float | None = None
    against: str | None = None
    quick: bool = True
    device: str = "cpu"
    measured: list[dict] | None = None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, and seconds that the process's threads computed in it."""
    if isinstance(function, RemoteFunction):
        return function.seconds()
    synchronize()
    start = time.perf_counter(), time.process_time()
    function()
    synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def settle(function: Callable[[], object]) -> None:
    """With several threads: let those of the last rival's process fall asleep, and wake one's own.

    OpenMP's threads wait for their next work without leaving the core, for some milliseconds: the rival that
    is called next, in another process, would find one core of two taken.
    """
    if torch.get_num_threads() > 1:
        time.sleep(0.02)
        measure(function)


class OtherWork:
    """How many cores other processes and other virtual machines have kept busy since this was made."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        """Clock, and seconds of all cores that neither idled nor worked for us and our ended children."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy - sum(usage.ru_utime + usage.ru_stime for usage in own)

    def cores(self) -> float:
        clock, busy = self._now()
        return max(0.0, (busy - self.start[1]) / (clock - self.start[0]))


@cache
def ceilings(device: str = "cpu") -> dict[str, float]:
    """What this machine reaches with the threads of this run: the best of several tries.

    `bytes` per second reads 256 MB, on CUDA copies 4 GB (read and written bytes); `float32` and `float64`
    operations per second multiply matrices of 2048^2, on CUDA 8192^2. On the CPU by the time that the threads
    computed: other work on the machine does not lower the ceilings much.
    """
    cuda = device == "cuda"

    def shortest(function: Callable[[], object]) -> float:
        if cuda:
            return min(measure(function)[0] for _ in range(7))
        return min(measure(function)[1] for _ in range(7)) / torch.get_num_threads()

    values = torch.ones((1024 if cuda else 64) << 20, device=device)
    result = {"bytes": (8 if cuda else 4) * len(values) / shortest(values.clone if cuda else values.sum)}
    del values
    size = 8192 if cuda else 128 if os.environ.get("UQFORCE_REHEARSAL") == "1" else 2048
    for dtype in (torch.float32, torch.float64):
        matrix = torch.rand(size, size, dtype=dtype, device=device)
        result[str(dtype).removeprefix("torch.")] = 2 * size**3 / shortest(lambda m=matrix: m @ m)
    return result


def rates(work: Work, seconds: float, device: str = "cpu") -> dict[str, float]:
    """GB/s, GFLOP/s, and the share of the time that the work takes at the higher one of its two ceilings."""
    top = ceilings(device)
    least = max(work.bytes / top["bytes"], work.flops / top[work.dtype])
    result = {"gb_per_s": 1e-9 * work.bytes / seconds, "gflop_per_s": 1e-9 * work.flops / seconds}
    return {**result, "share_of_ceiling": least / seconds}


def run_case(case: Case, seconds: float, module: str = "") -> list[dict]:
    """Time all rivals for about `seconds` each: calls alternate, so that a busy moment hits everyone.

    `module` is where `case` comes from: needed for `Case.memory`.
    """
    if case.measured is not None:
        return case.measured
    rows = {name: {"rival": name} for name in case.rivals}
    functions, first = {}, None
    for name, make in case.rivals.items():
        try:
            functions[name] = make()
            result = functions[name]()
        except ImportError as error:
            rows[name]["error"] = f"not installed: {error.name or error}"
            continue
        except torch.OutOfMemoryError:
            rows[name]["error"] = "out of memory"
            functions.pop(name, None)
            continue
        except Exception as error:
            if case.device == "cpu" or name == next(iter(case.rivals)):
                raise
            rows[name]["error"] = f"failed: {type(error).__name__}: {error}"[:300]
            functions.pop(name, None)
            continue
        if first is None:
            first = result
        elif case.check is not None:
            case.check(first, result)
    rounds = {name: max(3, min(1000, round(seconds / measure(f)[0]))) for name, f in functions.items()}
    times = {name: [] for name in functions}
    for turn in range(max(rounds.values(), default=0)):
        for name, function in functions.items():
            if turn < rounds[name]:
                settle(function)
                times[name].append(measure(function))
    for name, pairs in times.items():
        values, computed = zip(*pairs)
        median = statistics.median(values)
        rows[name] |= {
            "median_ms": 1e3 * median,
            "min_ms": 1e3 * min(values),
            "max_ms": 1e3 * max(values),
            "cpu_ms": 1e3 * statistics.median(computed),
            "calls": len(values),
            f"ns_per_{case.unit}": 1e9 * median / case.count,
        }
        if case.work is not None:
            rows[name] |= rates(case.work, median, case.device)
        if isinstance(functions[name], RemoteFunction):
            rows[name]["peak_mb"] = functions[name].peak_bytes() / 1e6
            functions[name].close()
        elif case.device == "cuda":
            peak = cuda_peak_bytes(functions[name])
            rows[name] |= {"peak_mb": peak / 1e6, f"peak_bytes_per_{case.unit}": peak / case.count}
        elif case.memory:
            rows[name]["peak_mb"] = peak_bytes(module, case.name, name) / 1e6
    return list(rows.values())


def cuda_peak_bytes(function: Callable[[], object]) -> int:
    """What one call adds to the memory that torch's allocator has in use."""
    if not torch.cuda.is_available():  # a rehearsal
        return 0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() - before


def peak_bytes(module: str, case: str, rival: str) -> int:
    """What the first call of an in-process rival adds to the memory in use, in a fresh process."""
    function = remote("timing:rival", module, case, rival)()
    function()
    peak = function.peak_bytes()
    function.close()
    return peak


def rival(module: str, case: str, name: str) -> Callable[[], object]:
    """The function of one rival of the case of that name."""
    cases = importlib.import_module(module).cases()
    function = next(other for other in cases if other.name == case).rivals[name]()
    gc.collect()

    def run() -> None:
        function()

    return run


def machine_facts() -> dict:
    """What a figure depends on: hardware and versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    versions = {}
    for package in RIVAL_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    commit = None
    if shutil.which("git"):
        describe = ["git", "describe", "--always", "--dirty"]
        said = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
        commit = said.stdout.strip() or None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "uqforce": uqforce.build_info(),
        "commit": commit,
        "versions": versions,
    }
