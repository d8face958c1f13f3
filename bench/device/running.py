"""Runs the parts of `bench/device.sh`: each a process with a budget and a log of its own, results on disk.

Only the standard library is imported. A part that lacks a package, crashes or takes too long is named with
its reason, and the others run. `parts.json`, `summary.txt` and the archive are written when a part ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from records import write_json

LEFT_OUT = 77  # exit status of a part that cannot run here; the last line it printed says why
LIMIT = "<limit>"  # in a command: the seconds after which it ought to begin nothing new
TICK = 0.05


class Part(NamedTuple):
    """A command with at most `seconds` of time.

    Attributes:
        name: of the part, of its log `<name>.log`, and in the summary.
        after: the parts without whose success it is left out.
        tool: a program that it needs.
        environment: variables beside those of the caller.
    """

    name: str
    command: list[str]
    seconds: float
    after: tuple[str, ...] = ()
    tool: str | None = None
    environment: dict[str, str] = {}  # noqa: RUF012, never changed


@dataclass
class Outcome:
    """What became of a part: "passed", "failed", "crashed", "out of time" or "left out", and why."""

    part: str
    outcome: str = ""
    why: str = ""
    seconds: float = 0.0


@dataclass
class Running:
    part: Part
    process: subprocess.Popen
    start: float
    end: float
    log: Path
    stopped: bool = field(default=False)

    def stop(self) -> None:
        """The whole process group: first so that Python can end, after two seconds without asking."""
        number = signal.SIGKILL if self.stopped else signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.end, self.stopped = time.monotonic() + 2, True

    def outcome(self, status: int) -> Outcome:
        last = last_line(self.log)
        seconds = round(time.monotonic() - self.start, 1)
        if self.stopped:
            budget = f"stopped after {seconds:g} s"
            return Outcome(self.part.name, "out of time", f"{budget}; its last line: {last}", seconds)
        if status < 0:
            name = signal.Signals(-status).name
            return Outcome(self.part.name, "crashed", f"{name}; its last line: {last}", seconds)
        kind = {0: "passed", LEFT_OUT: "left out"}.get(status, "failed")
        return Outcome(self.part.name, kind, last if status else "", seconds)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it printed nothing")


class Run:
    """Parts in stages; those of a stage run side by side."""

    def __init__(self, title: str, folder: Path, seconds: float, archive: Path | None = None) -> None:
        self.title, self.folder, self.archive = title, folder, archive
        self.start, self.seconds = time.monotonic(), seconds
        self.outcomes: list[Outcome] = []
        folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def stages(self, stages: Iterable[list[Part]]) -> bool:
        """Run all; whether every part passed."""
        for stage in stages:
            self.stage(stage)
        print(self.summary(), flush=True)
        return all(outcome.outcome == "passed" for outcome in self.outcomes)

    def stage(self, parts: list[Part]) -> None:
        running = []
        for part in parts:
            why = self.cannot_run(part)
            if why:
                self.ended(Outcome(part.name, "left out", why))
            else:
                running.append(self.begin(part))
        while running:
            time.sleep(TICK)
            for one in list(running):
                status = one.process.poll()
                if status is not None:
                    running.remove(one)
                    self.ended(one.outcome(status))
                elif time.monotonic() > one.end:
                    one.stop()

    def cannot_run(self, part: Part) -> str | None:
        before = {outcome.part: outcome for outcome in self.outcomes}
        for name in part.after:
            if before[name].outcome != "passed":
                return f"{name} {before[name].outcome}: {before[name].why}"
        if part.tool and shutil.which(part.tool) is None:
            return f"{part.tool} is not installed"
        return None if self.left() > 0 else f"the {self.seconds:g} s are over"

    def begin(self, part: Part) -> Running:
        log = self.folder / f"{part.name}.log"
        budget = min(part.seconds, self.left())
        limit = f"{max(budget - 15, 0.5 * budget):.0f}"
        print(f"{self.clock()}  {part.name} begins, {budget:.0f} s at most", flush=True)
        with log.open("w") as file:
            process = subprocess.Popen(
                [limit if word == LIMIT else word for word in part.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
                start_new_session=True,
            )
        now = time.monotonic()
        return Running(part, process, now, now + budget, log)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        print(f"{self.clock()}  {outcome.part} {outcome.outcome}  {outcome.why}".rstrip(), flush=True)
        parts = [vars(outcome) for outcome in self.outcomes]
        write_json(self.folder / "parts.json", {"title": self.title, "seconds": self.seconds, "parts": parts})
        (self.folder / "summary.txt").write_text(self.summary())
        if self.archive:
            unfinished = self.archive.with_name(self.archive.name + ".new")
            with tarfile.open(unfinished, "w:gz") as archive:
                archive.add(self.folder, arcname=self.title)
            unfinished.replace(self.archive)

    def clock(self) -> str:
        return f"{time.monotonic() - self.start:6.1f} s"

    def summary(self) -> str:
        passed = sum(outcome.outcome == "passed" for outcome in self.outcomes)
        took = time.monotonic() - self.start
        lines = [f"== {self.title}: {passed} of {len(self.outcomes)} parts passed, {took:.0f} s"]
        for o in self.outcomes:
            lines.append(f"{o.outcome:12} {o.part:14} {o.seconds:6.1f} s  {o.why}".rstrip())
        return "\n".join(lines) + "\n"
