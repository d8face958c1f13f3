"""Pictures of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from uqforce.evaluation import metrics, quality
from uqforce.model.quantities import QUANTITIES

if TYPE_CHECKING:
    from uqforce.evaluation.comparison import Comparison

BINS = 20
MOST_POINTS = 20_000  # of a set that are drawn, evenly chosen: more are not told apart
POINTS: dict[str, Any] = {"alpha": 0.3, "linewidths": 0, "rasterized": True}


def label(comparison: "Comparison") -> str:
    return Path(comparison.name).name.split(".")[0]


def plot_parity(comparisons: Sequence["Comparison"], path: Path) -> None:
    """Predicted against reference energy per atom and force components, with their RMSE."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    energy, forces = figure.subplots(1, 2)
    for number, c in enumerate(comparisons):
        sizes = c.sizes[c.has_energy]
        parts = (
            (energy, c.energy[c.has_energy] / sizes, c.predictions["energy"][c.has_energy] / sizes),
            (forces, c.forces[c.has_forces].ravel(), c.predictions["forces"][c.has_forces].ravel()),
        )
        for axes, reference, predicted in parts:
            # the first set on top: the later ones usually spread further
            style = {"markersize": 2.5, "alpha": 0.3, "markeredgewidth": 0, "color": f"C{number}"}
            shown = slice(None, None, -(-max(1, len(reference)) // MOST_POINTS))
            text = label(c)
            if len(reference):
                text += f": {1e3 * np.sqrt(np.mean((predicted - reference) ** 2)):.1f}"
            axes.plot(reference[shown], predicted[shown], "o", label=text, zorder=3 - 0.01 * number, **style)
    for axes, name, unit in ((energy, "energy per atom", "eV"), (forces, "force component", "eV/Å")):
        axes.set(xlabel=f"reference {name} ({unit})", ylabel=f"predicted {name} ({unit})")
        axes.locator_params(nbins=5)
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="0.4", linewidth=0.8, zorder=0)
        legend = axes.legend(frameon=False, markerscale=2, title=f"RMSE (m{unit})")
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
    elif QUANTITIES[name].kind == "score":
        axes.set_xlabel(f"{QUANTITIES[name].watch} ({QUANTITIES[name].unit})")
    else:
        axes.set_xlabel("predicted uncertainty of the atom's force (eV/Å)")
        axes.axline((1e-2, 1e-2), (1e-1, 1e-1), color="0.4", linewidth=0.8, label="calibrated")
    axes.set(ylabel="error of the atom's force, rms of components (eV/Å)", xscale="log", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot_quality(sets: Sequence[Sequence["Comparison"]], name: str, path: Path) -> None:
    """Retention curves, and of standard deviations reliability and coverage; dashed before calibration.

    Each set is given raw and, where there is a calibration, calibrated.
    """
    is_std = QUANTITIES[name].kind == "std"
    figure = Figure(figsize=(12.5, 4) if is_std else (4.6, 4), layout="constrained")
    axes = figure.subplots(1, 3 if is_std else 1, squeeze=False)[0]
    levels = np.linspace(0, 1, 101)
    for number, kinds in enumerate(sets):
        color = f"C{number}"
        c = kinds[-1]
        score, kept = c.predictions[name][c.has_forces], np.linspace(0, 1, len(c.atom_error))
        axes[0].plot(kept, metrics.retention_curve(score, c.atom_error), color=color, label=label(c))
        axes[0].plot(kept, metrics.retention_curve(c.atom_error, c.atom_error), ":", color=color)
        for c in kinds if is_std else ():
            if not c.carries(name):
                continue
            residual, std = c.force_residual.ravel(), c.force_std(name).ravel()
            style = {"color": color, "linestyle": "-" if c is kinds[-1] else "--"}
            bins = metrics.reliability(residual, std, min(quality.BINS, len(std)))
            axes[1].plot(*bins, marker=".", label=label(c) if c is kinds[-1] else None, **style)
            axes[2].plot(levels, metrics.coverage_curve(residual, std, levels), **style)
    axes[0].set(xlabel="share of atoms kept, least uncertain first (dotted: oracle)", yscale="log",
                ylabel="RMSE of their forces (eV/Å)")  # fmt: skip
    axes[0].legend(frameon=False)
    if is_std:
        axes[1].set(xlabel="predicted uncertainty, rms of bin (eV/Å)", ylabel="RMSE of bin (eV/Å)",
                    xscale="log", yscale="log")  # fmt: skip
        axes[1].axline((1e-2, 1e-2), (1e-1, 1e-1), color="0.4", linewidth=0.8)
        axes[2].set(xlabel="probability of the central interval", ylabel="share of components inside")
        axes[2].axline((0, 0), slope=1, color="0.4", linewidth=0.8)
    figure.savefig(path, dpi=150)


def plot_rates(comparison: "Comparison", name: str, path: Path) -> None:
    """Maps of true positive rate, positive predictive value and their product for atoms of one set, over
    cut-offs from the 1st to the 99th percentile of the score and from 0 to the 99th of the error
    (Zhu et al., J. Chem. Phys. 158, 164111 (2023)).
    """
    score, error = comparison.predictions[name][comparison.has_forces], comparison.atom_error
    score_cutoffs = np.quantile(score, np.linspace(0.01, 0.99, 50))
    error_cutoffs = np.linspace(0, np.quantile(error, 0.99), 50)
    tpr, ppv = metrics.detection_rates(score, error, score_cutoffs, error_cutoffs)
    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, rates, title in zip(axes, (tpr, ppv, tpr * ppv), ("TPR", "PPV", "TPR x PPV")):
        mesh = axis.pcolormesh(error_cutoffs, np.linspace(1, 99, 50), rates, vmin=0, vmax=1, rasterized=True)
        axis.set(xlabel="error cut-off (eV/Å)", title=f"{title}, {label(comparison)}")
    axes[0].set_ylabel(f"cut-off of {name}, percentile of the atoms")
    figure.colorbar(mesh, ax=axes)
    figure.savefig(path, dpi=150)


def plot_bic(mixture: dict[str, Any], path: Path) -> None:
    """The search for the number of Gaussians that the model's card tells of."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, search) in enumerate(mixture.get("types", {"all atoms": mixture}).items()):
        counts, bic = zip(*((trial["components"], trial["bic"]) for trial in search["trials"]))
        axes.plot(counts, bic, "o-", color=f"C{number}", markeredgecolor="w")
        chosen = search["components"]
        axes.plot(chosen, search["bic"], "o", color=f"C{number}", label=f"{name}, chosen: {chosen}")
    axes.set(xlabel="Gaussians", ylabel="Bayesian information criterion")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot_learning_curves(columns: Mapping[str, Sequence[float]], path: Path) -> None:
    """Losses, RMSE of energy and forces, and learning rate against the epoch; `columns` of metrics.csv."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, kind in zip(axes, ("loss", "energy_rmse (meV/atom)", "forces_rmse (meV/A)")):
        for part in ("train", "validation"):
            axis.plot(columns["epoch"], columns[f"{part}_{kind}"], label=part)
        axis.set(xlabel="epoch", ylabel=kind.replace("_rmse", " RMSE"))
        if min(*columns[f"train_{kind}"], *columns[f"validation_{kind}"]) > 0:
            axis.set_yscale("log")
        axis.legend(fontsize=8)
    rate = axes[0].twinx()
    rate.plot(columns["epoch"], columns["lr"], color="grey", lw=0.8, ls=":")
    rate.set(yscale="log", ylabel="learning rate (dotted)")
    figure.savefig(path, dpi=150)
