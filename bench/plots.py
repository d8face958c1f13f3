"""Draw docs/figures/models.svg from bench/results/*/models.json: `python bench/plots.py`.

Time per atom and the peak of memory over the number of atoms; of each rival the better allocator.
"""

import json
import re
from pathlib import Path

import matplotlib
from report import HERE, milliseconds

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURE = HERE.parent / "docs" / "figures" / "models.svg"
GROUPS = {"preset S, model": "S", "preset M, model": "M", "preset L, model": "L", "MACE": "M, and a MACE"}
STYLES = {
    "uqforce": ("C0", "o"),
    "nequip, eager": ("C1", "s"),
    "nequip, AOTInductor": ("C3", "^"),
    "symmetrix-xl": ("C2", "D"),
    "mace-torch": ("C4", "v"),
}


def curves(cases: list[dict], group: str) -> dict[str, list[tuple[int, float, float]]]:
    """Rival -> (atoms, microseconds per atom, peak in MB) of the cases whose names begin with `group`."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for case in cases:
        if not case["case"].startswith(group) or case["threads"] != 1:
            continue
        best: dict[str, tuple[float, float]] = {}
        for row in case["rows"]:
            if "median_ms" in row:
                name = re.sub(", (memory kept|preset M)", "", row["rival"])
                one = (1e3 * milliseconds(case, row) / case["count"], row["peak_mb"])
                best[name] = tuple(map(min, one, best.get(name, one)))
        for name, values in best.items():
            found.setdefault(name, []).append((case["count"], *values))
    return {name: sorted(points) for name, points in found.items()}


def draw(results: Path, figure: Path) -> None:
    cases = json.loads(results.read_text())["cases"]
    found = {title: curves(cases, group) for group, title in GROUPS.items()}
    found = {title: its for title, its in found.items() if its}
    plt.rcParams.update({"svg.hashsalt": "uqforce", "font.size": 8})
    shared = {"sharex": True, "sharey": "row", "layout": "constrained"}
    page, axes = plt.subplots(2, len(found), squeeze=False, figsize=(2.5 * len(found), 5), **shared)
    for (top, bottom), (title, rivals) in zip(axes.T, found.items()):
        for name, points in rivals.items():
            atoms, micros, peaks = zip(*points)
            color, marker = STYLES[name]
            top.loglog(atoms, micros, color=color, marker=marker, ms=4, label=name)
            bottom.loglog(atoms, peaks, color=color, marker=marker, ms=4)
        top.set_title(title)
        top.legend(frameon=False, fontsize=7)
        bottom.set_xlabel("atoms")
    axes[0, 0].set_ylabel("time per atom (us)")
    axes[1, 0].set_ylabel("peak of memory (MB)")
    figure.parent.mkdir(exist_ok=True)
    page.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    (results,) = (HERE / "results").glob("*/models.json")
    draw(results, FIGURE)
    print(f"wrote {FIGURE}")
