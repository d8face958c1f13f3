"""The demo's last step: three figures and a table from the exported model, its test sets and its run.

python examples/demo/plots.py demo/model.pt demo/md -o demo     (after the other steps of run.py)
"""

import argparse
import json
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list

from uqforce.data import read_frames
from uqforce.engines.evaluate import predict_frames
from uqforce.evaluation import metrics
from uqforce.evaluation.comparison import Comparison
from uqforce.evaluation.tables import aligned
from uqforce.exporting.opening import load_exported

DATA = Path(__file__).parent / "data"
SETS = {"300 K": "test_300K.xyz.xz", "600 K": "test_600K.xyz.xz", "1000 K": "test_1000K.xyz.xz"}
COLOURS = {"300 K": "#0072B2", "600 K": "#E69F00", "1000 K": "#B2182B"}  # distinct to colour-blind eyes
GREY = "0.45"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}


def compare(model: Path) -> tuple[dict[str, Comparison], dict]:
    """Predictions beside labels for each test set, and the model's metadata."""
    module, metadata = load_exported(model)
    frames = {name: read_frames(DATA / file) for name, file in SETS.items()}
    return {
        name: Comparison(name, f, predict_frames(module, metadata, f, "cpu")) for name, f in frames.items()
    }, metadata


def plot_parity(sets: dict[str, Comparison], path: Path) -> None:
    """Predicted against reference energies and force components."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.2))
    zero = sets["300 K"].energy.mean()
    for name, c in reversed(sets.items()):
        dots = {"marker": "o", "ls": "", "mec": "none", "color": COLOURS[name]}
        rmse = 1000 * np.sqrt(np.mean((c.energy_residual / c.sizes) ** 2))
        label = f"{name}: {rmse:.1f} meV/atom"
        left.plot(c.energy - zero, c.predictions["energy"] - zero, ms=5, alpha=0.6, label=label, **dots)
        rmse = 1000 * np.sqrt(np.mean(c.force_residual**2))
        label = f"{name}: {rmse:.0f} meV/Å"
        flat = c.forces.ravel(), c.predictions["forces"].ravel()
        right.plot(*flat, ms=2.5, alpha=0.4, label=label, rasterized=True, **dots)
    for axes, what, unit in ((left, "energy", "eV"), (right, "force component", "eV/Å")):
        ends = np.array([axes.get_xlim(), axes.get_ylim()])
        ends = [ends.min(), ends.max()]
        axes.plot(ends, ends, color=GREY, lw=0.8, zorder=0)
        axes.set(xlim=ends, ylim=ends, box_aspect=1)
        axes.set(xlabel=f"GFN2-xTB {what} ({unit})", ylabel=f"predicted {what} ({unit})")
        handles, labels = axes.get_legend_handles_labels()
        legend = axes.legend(handles[::-1], labels[::-1], title="RMSE", alignment="left")
        for handle in legend.legend_handles:
            handle.set(markersize=6, alpha=1)
    left.set_title("Energies, relative to the 300 K mean")
    right.set_title("Forces")
    figure.savefig(path)
    plt.close(figure)


def plot_uncertainty(sets: dict[str, Comparison], thresholds: dict[str, float], path: Path) -> None:
    """Error against score, the distribution of scores, and the error of the atoms with the lowest scores."""
    figure, (scatter, spread, retained) = plt.subplots(1, 3, figsize=(13, 4.6))
    scores = {name: c.predictions["nll"] for name, c in sets.items()}
    low = min(score.min() for score in scores.values())
    high = np.quantile(np.concatenate(list(scores.values())), 0.99)
    bins = np.linspace(low, high, 60)
    for name, c in reversed(sets.items()):
        score, error, colour = scores[name], c.atom_error, COLOURS[name]
        scatter.scatter(score, error, s=5, lw=0, alpha=0.25, color=colour, rasterized=True)
        spread.hist(score, bins, histtype="stepfilled", alpha=0.35, color=colour)
        spread.hist(score, bins, histtype="step", color=colour, label=name)
        kept = np.arange(1, len(score) + 1) / len(score)
        retained.plot(kept, 1000 * metrics.retention_curve(score, error), color=colour)
        retained.plot(kept, 1000 * metrics.retention_curve(error, error), color=colour, ls=":")
    # the trend of all atoms together: the score does not know from which set an atom is
    score = np.concatenate(list(scores.values()))
    error = np.concatenate([c.atom_error for c in sets.values()])
    groups = np.array_split(np.argsort(score), 20)
    trend = [(np.median(score[g]), np.sqrt(np.mean(error[g] ** 2))) for g in groups]
    scatter.plot(*np.transpose(trend), "o-", color="black", ms=4, lw=1.2, label="rms of 1/20 of the atoms")
    scatter.set(yscale="log", ylim=(3e-3, None), xlim=(low, high), title="Every atom of the test sets")
    scatter.set(xlabel="nll of the atom (nat)", ylabel="force error of the atom, rms of x, y, z (eV/Å)")
    scatter.legend(loc="lower right")
    spread.set(xlim=(low, high), title="Distribution of the score")
    spread.set(xlabel="nll of the atom (nat)", ylabel="atoms")
    spread.legend(*(items[::-1] for items in spread.get_legend_handles_labels()), loc="upper right")
    for axes in (scatter, spread):
        for name, style, text in (("q0.99", ":", "99 % of training"), ("max", "--", "all of training")):
            axes.axvline(thresholds[name], color=GREY, ls=style, lw=1, zorder=0.5)
            axes.annotate(
                text, (thresholds[name], 0.99), (-2, 0), xycoords=axes.get_xaxis_transform(), size=8,
                textcoords="offset points", rotation=90, va="top", ha="right", color=GREY,
            )  # fmt: skip
    retained.plot([], [], color=GREY, label="lowest nll")
    retained.plot([], [], color=GREY, ls=":", label="lowest error (ideal)")
    retained.legend(loc="upper left")
    retained.set(xlim=(0, 1), ylim=(0, None), title="If only the most certain atoms are kept")
    retained.set(xlabel="fraction of atoms kept", ylabel="force RMSE of those (meV/Å)")
    figure.savefig(path)
    plt.close(figure)


def draw_molecule(axes, atoms, norm):
    """The molecule seen along its least extent, atoms coloured by score; returns the coloured points."""
    centred = atoms.positions - atoms.positions.mean(axis=0)
    x, y, z = (centred @ np.linalg.svd(centred, full_matrices=False)[2].T).T
    for i, j in zip(*neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.2))):
        if i < j:
            axes.plot(x[[i, j]], y[[i, j]], color="0.6", lw=3, zorder=0, solid_capstyle="round")
    order = np.argsort(z)
    size, score = np.where(atoms.numbers == 1, 130, 330), atoms.arrays["nll"]
    points = axes.scatter(x[order], y[order], s=size[order], c=score[order], norm=norm, ec="0.25", lw=0.8)
    for i in order[atoms.numbers[order] != 1]:
        shade = "white" if norm(score[i]) < 0.6 else "black"
        axes.text(x[i], y[i], atoms.symbols[i], ha="center", va="center", size=8, color=shade)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.margins(0.12)
    axes.spines[:].set_visible(False)
    return points


def plot_run(folder: Path, thresholds: dict[str, float], path: Path) -> None:
    """Temperature and the largest score along the run; where in the molecule the score rose."""
    log = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    frames = ase.io.read(folder / "trajectory.extxyz", ":")
    with np.load(folder / "restart.npz") as restart:
        settings = json.loads(str(restart["state"]))["settings"]
    time, score = log["time_ps"], log["nll_max"]
    target = np.interp(
        log["step"], [0, settings["ramp_steps"]], [settings["temperature"], settings["temperature_end"]]
    )
    figure = plt.figure(figsize=(12.5, 6))
    grid = figure.add_gridspec(2, 2, width_ratios=[1.7, 1])
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    upper.plot(time, log["temperature_K"], color=COLOURS["1000 K"], lw=0.8, label="of the 22 atoms")
    upper.plot(time, target, color="black", lw=1.5, label="of the thermostat")
    upper.set(ylabel="temperature (K)", title="Heated from 300 K with the exported model")
    upper.legend(loc="upper left")
    lower.plot(time, score, color=COLOURS["300 K"], lw=1)
    lower.plot(time[-1], score[-1], "o", color="black", ms=6)
    limits = {
        "99 % of training": (thresholds["q0.99"], "top"),
        "all of training": (thresholds["max"], "bottom"),
        "halt": (settings["halt"]["nll"], "bottom"),
    }
    for text, (limit, side) in limits.items():
        lower.axhline(limit, color=GREY, ls="--", lw=1, zorder=0.5)
        lower.text(1.01, limit, text, size=8, color=GREY, va=side, transform=lower.get_yaxis_transform())
    lower.set(xlabel="time (ps)", ylabel="largest nll of an atom (nat)")
    lower.set_title(f"Uncertainty along the run: {time[-1]:.2f} ps, thermostat at {target[-1]:.0f} K")
    norm = plt.Normalize(thresholds["q0.5"], thresholds["max"])
    for row, frame, text in ((0, frames[0], "Start"), (1, frames[-1], "Last frame")):
        axes = figure.add_subplot(grid[row, 1])
        axes.set_title(f"{text}, {frame.info['time_ps']:.2f} ps")
        points = draw_molecule(axes, frame, norm)
        figure.colorbar(points, ax=axes, label="nll of the atom (nat)", shrink=0.8, extend="both")
    figure.savefig(path)
    plt.close(figure)


def table(sets: dict[str, Comparison], thresholds: dict[str, float]) -> str:
    """Errors, detection of large errors by the score, and how many frames have an atom beyond training."""
    rows = [
        ["test set", "energy RMSE", "force RMSE", "AUROC of nll", "for errors", "frames beyond"],
        ["", "meV/atom", "meV/Å", "> 0.1 eV/Å", "> 0.2 eV/Å", "the training"],
    ]
    for name, c in sets.items():
        score = c.predictions["nll"]
        found = [metrics.classification(score, c.atom_error, cutoff) for cutoff in metrics.ATOM_ERROR_CUTOFFS]
        largest = np.maximum.reduceat(score, np.cumsum([0, *c.sizes[:-1]]))
        rows.append(
            [
                name,
                f"{1000 * np.sqrt(np.mean((c.energy_residual / c.sizes) ** 2)):.2f}",
                f"{1000 * np.sqrt(np.mean(c.force_residual**2)):.1f}",
                *(f"{f.auroc:.2f} ({f.positives} atoms)" if f.positives else "- (0 atoms)" for f in found),
                f"{np.mean(largest > thresholds['max']):.0%}",
            ]
        )
    return aligned(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported model")
    parser.add_argument("run", type=Path, help="folder of `uqforce md`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the figures")
    args = parser.parse_args()
    sets, metadata = compare(args.model)
    thresholds = metadata["thresholds"]["nll"]
    with plt.rc_context(STYLE):
        plot_parity(sets, args.output / "parity.png")
        plot_uncertainty(sets, thresholds, args.output / "uncertainty.png")
        plot_run(args.run, thresholds, args.output / "run.png")
    print(table(sets, thresholds))


if __name__ == "__main__":
    main()
