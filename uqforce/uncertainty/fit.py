"""`uqforce fit`: gives a trained model its mixture."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uqforce.data import Dataset, read_frames
from uqforce.evaluation import metrics
from uqforce.evaluation.quality import without_nan
from uqforce.evaluation.tables import aligned, number
from uqforce.model import Potential, first_member, load_model, save_model
from uqforce.model.predict import predict_dataset
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
    potential: Potential, dataset: Dataset, fits: dict[str, MixtureFit]
) -> dict[str, dict[str, Any]]:
    """How well the score of each mixture ranks the force errors of the atoms of `dataset`, all labelled."""
    said = predict_dataset(potential, dataset, ("features", "forces"))
    features, types = torch.from_numpy(said["features"]), torch.tensor(dataset.atom_types)
    error = metrics.atom_force_error(said["forces"], dataset.forces)
    found = {}
    for name, mixture in fits.items():
        score = mixture.nll(features, types).numpy()
        ranked = {
            "spearman": metrics.spearman(score, error),
            "auroc_0.1": metrics.classification(score, error, 0.1).auroc,
            "auroc_top_tenth": metrics.classification(score, error, float(np.quantile(error, 0.9))).auroc,
        }
        found[name] = {"components": len(mixture.means), "features": mixture.means.shape[1]}
        found[name] |= without_nan(ranked)  # undefined without errors above, or below, the cut-off
    return found


def ranking_table(judged: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The `rankings` of each test set as text."""
    rows = [["atoms' force errors ranked by nll", "mixture", "features", "components", "Spearman",
             "AUROC > 0.1 eV/A", "top tenth"]]  # fmt: skip
    for name, found in judged.items():
        for kind, row in found.items():
            quality = (number(row[key]) for key in ("spearman", "auroc_0.1", "auroc_top_tenth"))
            rows.append([name, kind, str(row["features"]), str(row["components"]), *quality])
    return aligned(rows)


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
