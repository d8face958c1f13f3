"""Rivals that need a process of their own: another allocator, another environment, their own peak of memory.

The process makes the function, calls it when told and answers with the seconds it took, so that the calls of
rivals in different processes alternate like those in one. Only the standard library is imported: this file
also runs in environments without uqforce. The child is `python remote.py MODULE:FUNCTION ARGUMENTS_AS_JSON`.
"""

import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
"""glibc returns no memory to the system: large temporaries cost no page faults after the first call."""
MEMORY = {"": {}, ", memory kept": KEEP_MEMORY}
"""What a rival's name says of its allocator, and the setting."""


class RemoteFunction:
    """A function in another process: calling it returns its first result.

    Raises:
        ModuleNotFoundError: the other process lacks a package.
        RuntimeError: it failed; its own message is above, on stderr.
    """

    def __init__(self, target: str, arguments: list, environment: dict[str, str], python: str):
        command = [python, str(HERE / "remote.py"), target, json.dumps(arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
        )
        self._receive()

    def _receive(self) -> object:
        try:
            kind, value = pickle.load(self.process.stdout)
        except EOFError:
            raise RuntimeError(f"{self.process.args} ended, exit status {self.process.wait()}") from None
        if kind == "missing":
            self.close()
            raise ModuleNotFoundError(f"no module named {value}", name=value)
        return value

    def _ask(self, what: bytes) -> object:
        self.process.stdin.write(what + b"\n")
        self.process.stdin.flush()
        return self._receive()

    def __call__(self) -> object:
        return self._ask(b"result")

    def seconds(self) -> tuple[float, float]:
        """Of one more call, and how much of it the process's threads computed."""
        return self._ask(b"seconds")

    def peak_bytes(self) -> int:
        """What the first call added to the memory in use, at its peak (Linux)."""
        return self._ask(b"peak")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def remote(
    target: str, *arguments, environment: dict[str, str] | None = None, python: str = sys.executable
) -> Callable[[], RemoteFunction]:
    """A maker for `Case.rivals`: of what `MODULE:FUNCTION` makes of `arguments` (JSON) in another process."""
    return lambda: RemoteFunction(target, list(arguments), environment or {}, python)


def made(name: str, target: str, *arguments: str) -> str:
    """Path of a file that MODULE:FUNCTION(path, *arguments) writes in a process of its own, once in a run."""
    path = Path(os.environ["UQFORCE_BENCH_SCRATCH"]) / name
    if not path.exists():
        program = "import sys, remote; remote.find(sys.argv[1])(*sys.argv[2:])"
        command = [sys.executable, "-c", program, target, str(path), *arguments]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return str(path)


def find(target: str) -> Callable:
    """The function of a name MODULE:FUNCTION."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def memory_in_use(field: str, process: int | str = "self") -> int:
    """Bytes: "VmRSS" now, or "VmHWM" at the peak since "5" was written to clear_refs."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", status)[1])


def serve(target: str, arguments: list) -> None:
    """Answer "result", "seconds" and "peak", line by line, until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(kind: str, value: object) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    try:
        function = find(target)(*arguments)
    except ModuleNotFoundError as error:
        return answer("missing", error.name)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_in_use("VmRSS")
    first = function()
    peak = getattr(function, "peak", memory_in_use("VmHWM") - before)
    computed = getattr(function, "computed", time.process_time)
    answer("ready", None)
    for line in sys.stdin:
        if line == "result\n":
            answer("result", first)
        elif line == "seconds\n":
            start = time.perf_counter(), computed()
            function()
            answer("seconds", (time.perf_counter() - start[0], computed() - start[1]))
        else:
            answer("peak", peak)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    serve(sys.argv[1], json.loads(sys.argv[2]))
