"""Pictures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from uqforce.deploy.evaluate import Comparison

BINS = 20


def plot_parity(comparisons: Sequence["Comparison"], path: Path) -> None:
    """Predicted against reference energy per atom and force components."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    energy, forces = figure.subplots(1, 2)
    for number, c in enumerate(comparisons):
        style = {"s": 6, "alpha": 0.4, "linewidths": 0, "color": f"C{number}", "label": Path(c.name).stem}
        sizes = c.sizes[c.has_energy]
        energy.scatter(c.energy[c.has_energy] / sizes, c.predictions["energy"][c.has_energy] / sizes, **style)
        forces.scatter(
            c.forces[c.has_forces], c.predictions["forces"][c.has_forces], rasterized=True, **style
        )
    for axes, name, unit in ((energy, "energy per atom", "eV"), (forces, "force component", "eV/Å")):
        axes.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted {name} ({unit})")
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="0.4", linewidth=0.8, zorder=0)
    forces.legend(frameon=False, markerscale=2)
    figure.savefig(path, dpi=150)


def plot_uncertainty(comparisons: Sequence["Comparison"], name: str, path: Path) -> None:
    """Error of each atom's force against its uncertainty, with its rms in bins of equal count."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, c in enumerate(comparisons):
        score, error = c.predictions[name][c.has_forces], c.atom_error
        color = f"C{number}"
        axes.scatter(score, error, s=3, alpha=0.2, linewidths=0, color=color, rasterized=True)
        groups = np.array_split(np.argsort(score, kind="stable"), min(BINS, len(score)))
        rms = [(np.median(score[g]), np.sqrt(np.mean(error[g] ** 2))) for g in groups]
        axes.plot(*np.transpose(rms), "o-", color=color, markeredgecolor="w", label=Path(c.name).stem)
    if name == "nll":
        axes.set_xlabel("mixture score nll of the atom")
    else:
        axes.set(xlabel="predicted force uncertainty of the atom (eV/Å)", xscale="log")
        axes.axline((1e-2, 1e-2), (1e-1, 1e-1), color="0.4", linewidth=0.8, label="calibrated")
    axes.set(ylabel="error of the atom's force, rms of components (eV/Å)", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
