"""Runs that are killed, and what they leave."""

import csv
import signal
import subprocess
import sys
import textwrap
from pathlib import Path


def run_killed(path: str, moment: str) -> None:
    """Train as the configuration at `path` says, in a process that kills itself at `moment`.

    `moment` is code that calls `die()`; `at(trainer, epoch, step)` says whether a run stands there.
    """
    code = textwrap.dedent("""
        import os, signal
        from pathlib import Path
        from uqforce.cli import main
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        def at(trainer, epoch, step):
            return (trainer.progress.epoch, trainer.progress.step) == (epoch, step)
    """)
    code += textwrap.dedent(moment) + f"main(['train', {path!r}])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def metrics(directory: str | Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without their times."""
    with open(Path(directory) / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in csv.DictReader(file)]
