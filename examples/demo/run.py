"""The demo: from GFN2-xTB data to molecular dynamics that stops where the model no longer knows.

    make demo        or, with uqforce installed:        python examples/demo/run.py

Every step is a command, printed before it runs in a process of its own. Results are in demo/, written anew.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA, OUT = "examples/demo/data", "demo"
MODEL, EXPORTED = f"{OUT}/training/best.uqf", f"{OUT}/model.pt"
FINISHED, HALTED = 0, 3  # exit status of `uqforce md`
# Force error of an atom (rms, eV/A) at which the dynamics is to stop: the first that the test sets reach.
HALT_AT = ("0.3", "0.2", "0.1")

seconds: dict[str, float] = {}


def step(title: str, *command: str, accept: tuple[int, ...] = (0,), show: int | None = None) -> None:
    """Run a command, `uqforce` and `python` being those of this environment; show its last `show` lines."""
    heading = f"{len(seconds) + 1}. {title}"
    print(f"\n{heading}\n{'-' * len(heading)}\n$ {' '.join(command)}", flush=True)
    programs = {"uqforce": [sys.executable, "-m", "uqforce.cli"], "python": [sys.executable]}
    start = time.perf_counter()
    done = subprocess.run(
        [*programs[command[0]], *command[1:]], cwd=ROOT, text=True, stdout=subprocess.PIPE if show else None
    )
    if show:
        print(*done.stdout.splitlines()[-show:], sep="\n")
    if done.returncode not in accept:
        sys.exit(f"step {heading!r} ended with exit status {done.returncode}")
    seconds[title] = time.perf_counter() - start
    print(f"[{seconds[title]:.0f} s]", flush=True)


def main() -> None:
    # Threads that wait spinning would halt each other where other programs share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    tests = [f"{DATA}/test_{temperature}K.xyz.xz" for temperature in (300, 600, 1000)]
    step("Train on 300 frames at 300 K", "uqforce", "train", "examples/demo/train.yaml")
    step(
        "Fit the mixture to what was seen", "uqforce", "fit", MODEL, f"{DATA}/train_300K.xyz.xz", "--in-place"
    )
    step("Evaluate at 300 K and above", "uqforce", "eval", MODEL, *tests, "-o", f"{OUT}/evaluation")
    limits = json.loads((ROOT / OUT / "evaluation/evaluation.json").read_text())["limits"]["nll"]
    halt_at = next(level for level in HALT_AT if limits[level] is not None)
    step("Export to one file", "uqforce", "export", MODEL, "-o", EXPORTED)
    step(
        f"Heat until the score says: errors of {halt_at} eV/A",
        *("uqforce", "md", EXPORTED, f"{tests[0]}@0", "-o", f"{OUT}/md", "--steps", "10000", "--every", "10"),
        *("--temperature", "300", "--temperature-end", "1500"),
        *("--collect", "nll=max", "--halt", f"nll={limits[halt_at]:.1f}"),
        accept=(FINISHED, HALTED),
        show=3,
    )
    step("Draw the figures", "python", "examples/demo/plots.py", EXPORTED, f"{OUT}/md", "-o", OUT)
    print(f"\nDone in {sum(seconds.values()):.0f} s:")
    for title, value in seconds.items():
        print(f"{value:6.0f} s  {title}")
    print(f"\nLook at {OUT}/parity.png, {OUT}/uncertainty.png and {OUT}/run.png.")


if __name__ == "__main__":
    main()
