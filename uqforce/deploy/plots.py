"""Pictures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from uqforce.deploy.evaluate import Comparison

BINS = 20
POINTS = {"alpha": 0.3, "linewidths": 0, "rasterized": True}


def label(comparison: "Comparison") -> str:
    return Path(comparison.name).name.split(".")[0]


def plot_parity(comparisons: Sequence["Comparison"], path: Path) -> None:
    """Predicted against reference energy per atom and force components."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    energy, forces = figure.subplots(1, 2)
    for number, c in enumerate(comparisons):
        # the first set on top: the later ones usually spread further
        style = {**POINTS, "s": 6, "color": f"C{number}", "label": label(c), "zorder": 3 - 0.01 * number}
        sizes = c.sizes[c.has_energy]
        energy.scatter(c.energy[c.has_energy] / sizes, c.predictions["energy"][c.has_energy] / sizes, **style)
        forces.scatter(c.forces[c.has_forces], c.predictions["forces"][c.has_forces], **style)
    for axes, name, unit in ((energy, "energy per atom", "eV"), (forces, "force component", "eV/Å")):
        axes.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted {name} ({unit})")
        axes.locator_params(nbins=5)
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="0.4", linewidth=0.8, zorder=0)
    legend = forces.legend(frameon=False, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    figure.savefig(path, dpi=150)


def plot_uncertainty(comparisons: Sequence["Comparison"], name: str, path: Path) -> None:
    """Error of each atom's force against its uncertainty, with its rms in bins of equal count."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    scores = [c.predictions[name][c.has_forces] for c in comparisons]
    # a log-likelihood has no natural zero: its logarithmic axis begins just below the lowest
    origin = min(score.min() for score in scores) - 1 if name == "nll" else 0.0
    for number, (c, score) in enumerate(zip(comparisons, scores)):
        color = f"C{number}"
        axes.scatter(score - origin, c.atom_error, s=3, color=color, **POINTS)
        groups = np.array_split(np.argsort(score, kind="stable"), min(BINS, len(score)))
        rms = [(np.median(score[g]) - origin, np.sqrt(np.mean(c.atom_error[g] ** 2))) for g in groups]
        axes.plot(*np.transpose(rms), "o-", color=color, markeredgecolor="w", label=label(c))
    if name == "nll":
        axes.set_xlabel(f"mixture score of the atom, nll + {-origin:.4g}")
    else:
        axes.set_xlabel("predicted uncertainty of the atom's force (eV/Å)")
        axes.axline((1e-2, 1e-2), (1e-1, 1e-1), color="0.4", linewidth=0.8, label="calibrated")
    axes.set(ylabel="error of the atom's force, rms of components (eV/Å)", xscale="log", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot_bic(mixture: dict[str, Any], path: Path) -> None:
    """The search for the number of Gaussians that the model's card tells of."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    counts, bic = zip(*((trial["components"], trial["bic"]) for trial in mixture["trials"]))
    axes.plot(counts, bic, "o-", color="C0", markeredgecolor="w")
    chosen = mixture["components"]
    axes.plot(chosen, mixture["bic"], "o", color="C3", label=f"chosen: {chosen}")
    axes.set(xlabel="Gaussians", ylabel="Bayesian information criterion")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
