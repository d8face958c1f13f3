"""`uqforce fit`: gives a trained model its mixture."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uqforce import ops
from uqforce.data import Dataset, batches, collate, read_frames
from uqforce.evaluation import metrics
from uqforce.model import Potential, first_member, load_model, save_model
from uqforce.uncertainty.llpr_fit import REGULARISER, RigidityFit, fit_rigidity
from uqforce.uncertainty.mixture_fit import MixtureFit, Trial, collect_features, fit_mixture, fit_potential


def fit(
    model: str | PathLike,
    data: Sequence[str | PathLike],
    output: str | PathLike | None = None,
    n_components: int | None = None,
    seed: int = 0,
    covariance: str = "full",
    projection: int | None = None,
    test: Sequence[str | PathLike] = (),
    per_type: bool = False,
) -> MixtureFit:
    """Fit the mixture of the model file `model` to the structures of `data`, its training set.

    The search is printed; the model with its mixture is written to `output`, or in place of `model`. Labels
    are not needed. With `test`, files of labelled structures, the ranking of their atoms by the score is
    printed and kept in the card; where the features are projected, beside that by a mixture of all features.

    Raises: FileNotFoundError, ModelFileError, DataError, MixtureError.
    """
    whole = load_model(model)
    potential = first_member(whole)  # whose features and score are an ensemble's
    config = potential.config
    dataset = Dataset.build(read_frames(data), config.type_names, config.r_max)
    names = [Path(path).name for path in test]
    if len(set(names)) < len(names):
        names = [str(path) for path in test]
    tests = {
        name: Dataset.build(read_frames(path, require=("forces",)), config.type_names, config.r_max)
        for name, path in zip(names, test)
    }
    kept = f"{projection} principal components of the " if projection else ""
    print(
        f"mixture over {kept}{potential.network.num_last_features} features of "
        f"{dataset.num_atoms.sum()} atoms"
    )
    print(f"{'components':>10} {'BIC':>12} {'log-likelihood':>15} {'iterations':>11}")
    settings: dict[str, Any] = {"covariance": covariance, "seed": seed}
    found = fit_potential(
        potential,
        dataset,
        n_components,
        projection=projection,
        per_type=per_type,
        on_trial=print_trial,
        **settings,
    )
    print(summary(found, config.type_names))
    if tests:
        fits = {"stored": found}
        if projection is not None or per_type:
            fits["all features"] = fit_mixture(collect_features(potential, dataset), n_components, **settings)
        judged = {name: rankings(potential, labelled, fits) for name, labelled in tests.items()}
        potential.card["mixture"]["ranking"] = judged
        print(ranking_table(judged))
    whole.card |= {name: potential.card[name] for name in ("mixture", "thresholds")}
    save_model(whole, output or model)
    print(f"stored in {output or model}: every evaluation now carries nll")
    return found


def fit_llpr(
    model: str | PathLike,
    data: Sequence[str | PathLike],
    output: str | PathLike | None = None,
    regulariser: float | None = None,
) -> RigidityFit:
    """Fit the last-layer rigidity of the model file `model` to its training set; see `llpr.fit_rigidity`.

    The model is written to `output`, or in place of `model`.
    """
    whole = load_model(model)
    potential = first_member(whole)  # whose rigidity is an ensemble's
    config = potential.config
    dataset = Dataset.build(read_frames(data), config.type_names, config.r_max)
    found = fit_rigidity(potential, dataset, REGULARISER if regulariser is None else regulariser)
    d = len(found.eigenvalues)
    lowest, highest = found.eigenvalues[0], found.eigenvalues[-1]
    print(f"rigidity of {d} weights by energies and forces of {len(dataset)} structures, errors "
          f"{1e3 * found.energy_rmse:.2f} meV and {1e3 * found.forces_rmse:.2f} meV/A")  # fmt: skip
    print(f"curvatures of the loss {lowest:.3g} to {highest:.3g}")
    whole.card["llpr"] = potential.card["llpr"]
    save_model(whole, output or model)
    print(f"stored in {output or model}: every evaluation now carries llpr")
    return found


def rankings(
    potential: Potential, dataset: Dataset, fits: dict[str, MixtureFit], batch_size: int = 16
) -> dict[str, dict[str, Any]]:
    """How well the score of each mixture ranks the force errors of the atoms of `dataset`, all labelled."""
    features, types, errors = [], [], []
    for indices in batches(dataset, batch_size, seed=0, epoch=0, shuffle=False):
        b = collate([dataset[i] for i in indices])
        edge_vec = ops.edge_vectors(b.positions, b.cell, b.edge_index, b.cell_shift, b.batch)
        out = potential(edge_vec, b.edge_index, b.atom_types, b.batch, b.num_structures)
        features.append(out.features)
        types.append(b.atom_types)
        errors.append(metrics.atom_force_error(out.forces, b.forces))
    stacked, kinds, error = torch.cat(features), torch.cat(types), np.concatenate(errors)
    found = {}
    for name, mixture in fits.items():
        score = mixture.nll(stacked, kinds).numpy()
        quality = {
            "spearman": metrics.spearman(score, error),
            "auroc_0.1": metrics.classification(score, error, 0.1).auroc,
            "auroc_top_tenth": metrics.classification(score, error, float(np.quantile(error, 0.9))).auroc,
        }
        found[name] = {"components": len(mixture.means), "features": mixture.means.shape[1]}
        # undefined without errors above, or below, the cut-off; JSON has no NaN
        found[name] |= {key: None if np.isnan(value) else value for key, value in quality.items()}
    return found


def ranking_table(judged: dict[str, dict[str, dict[str, Any]]]) -> str:
    title, width = "atoms' force errors ranked by nll", max(map(len, judged))
    width = max(width, len(title))
    lines = [
        f"{title:<{width}} {'mixture':>12} {'features':>9} {'components':>11} {'Spearman':>9} "
        f"{'AUROC > 0.1 eV/A':>17} {'top tenth':>10}"
    ]
    for name, found in judged.items():
        for kind, row in found.items():
            quality = ["-" if row[k] is None else f"{row[k]:.3f}" for k in list(row)[2:]]
            lines.append(
                f"{name:<{width}} {kind:>12} {row['features']:9d} {row['components']:11d} "
                f"{quality[0]:>9} {quality[1]:>17} {quality[2]:>10}"
            )
    return "\n".join(lines)


def print_trial(trial: Trial) -> None:
    note = "" if trial.converged else "  not converged"
    print(
        f"{trial.components:10d} {trial.bic:12.1f} {trial.log_likelihood:15.3f} {trial.iterations:11d}{note}",
        flush=True,
    )


def summary(fit: MixtureFit, type_names: Sequence[str]) -> str:
    """What was chosen, and the quantiles of the training atoms' scores."""
    lines = []
    of = ["all atoms"] if fit.of_types is None else type_names
    for name, one in zip(of, fit.of_types or [fit]):
        best = " (lowest BIC)" if len(one.trials) > 1 else ""
        lines.append(f"{name}: {one.chosen.components} components{best}")
        if not one.chosen.converged:
            lines.append(f"EM stopped after {one.chosen.iterations} iterations without converging")
    if fit.projection is not None:
        lines.append(f"the principal components kept have {fit.explained:.2%} of the features' variance")
    if fit.flat_directions:
        lines.append(
            f"the training atoms do not vary in {fit.flat_directions} of {fit.means.shape[1]} directions: "
            "any deviation there will raise nll steeply"
        )
    lines.append("nll of the training atoms, by quantile:")
    lines.append("  " + "  ".join(f"{name} {value:.2f}" for name, value in fit.quantiles.items()))
    return "\n".join(lines)
