"""`uqforce fit`: gives a trained model its score, nll of a mixture or llpr."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from uqforce.data import Dataset, read_frames
from uqforce.errors import ConfigError
from uqforce.evaluation import metrics
from uqforce.evaluation.quality import without_nan
from uqforce.evaluation.tables import aligned, number
from uqforce.model import Ensemble, Potential, first_member, load_model, save_model
from uqforce.model.predict import predict_dataset
from uqforce.uncertainty.llpr_fit import REGULARISER, RigidityFit, fit_rigidity
from uqforce.uncertainty.mixture_fit import MixtureFit, Trial, collect_features, fit_mixture, fit_potential

log = logging.getLogger("uqforce.uncertainty")
SETTINGS = {
    "mixture": ("components", "covariance", "projection", "per_type", "test", "seed"),
    "llpr": ("regulariser",),
}


def fit(
    model: str | PathLike | Potential | Ensemble,
    data: str | PathLike | Sequence[str | PathLike],
    output: str | PathLike | None = None,
    *,
    score: Literal["mixture", "llpr"] = "mixture",
    components: int | None = None,
    covariance: Literal["full", "diag", "tied"] | None = None,
    projection: int | None = None,
    per_type: bool | None = None,
    test: Sequence[str | PathLike] | None = None,
    seed: int | None = None,
    regulariser: float | None = None,
) -> MixtureFit | RigidityFit:
    """Give a trained model a score of how far atoms are from the structures of `data`, its training set.

    The mixture of Gaussians over the last features gives `nll` of every atom, its negative logarithm, and
    needs no labels (Zhu et al., J. Chem. Phys. 158, 164111 (2023)); the last layer's rigidity gives `llpr`,
    eV, and needs energies or forces (Bigi et al., arXiv:2403.02251). A model may have both.

    Args:
        model: a model file (.uqf), or a model in memory, which is changed.
        data: the files that it was trained on; anything that `read_frames` reads.
        output: the model file to write. A model file needs it; its own name stores the score in it.
        score: "mixture" or "llpr".
        components: mixture: number of Gaussians; None chooses the one of lowest BIC.
        covariance: mixture: of each Gaussian ("full", default), its variances alone ("diag"), one for all
            ("tied").
        projection: mixture: how many principal components of the features to keep.
        per_type: mixture: one for each element.
        test: mixture: files of labelled structures; how well nll ranks their atoms' force errors goes to the
            card.
        seed: mixture: of the k-means start.
        regulariser: llpr: added to the loss' second derivatives, in units of the largest.

    Raises:
        ConfigError: a setting of the other score, or no `output` for a model file.
        FileNotFoundError, ModelFileError, DataError: model or data cannot be read.
        FitError: the score cannot be fitted to these data.

    Example:
        >>> import uqforce
        >>> model = uqforce.load_model("first/best.uqf")
        >>> found = uqforce.fit(model, "train.xyz", components=2)
        >>> len(found.means), found.quantiles["max"] > found.quantiles["q0.5"]
        (2, True)
    """
    given: dict[str, Any] = {
        "components": components, "covariance": covariance, "projection": projection, "per_type": per_type,
        "test": test, "seed": seed, "regulariser": regulariser,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if score not in SETTINGS:
        raise ConfigError(f"score must be one of {', '.join(SETTINGS)}, got {score!r}")
    if others := [name for name in given if name not in SETTINGS[score]]:
        raise ConfigError(
            f"{', '.join(others)}: no setting of score {score}, which has {', '.join(SETTINGS[score])}"
        )
    whole = opened(model, output)
    potential = first_member(whole)  # whose features and score are an ensemble's
    dataset = Dataset.build(read_frames(data), potential.config.type_names, potential.config.r_max)
    found = (_fit_mixture if score == "mixture" else _fit_llpr)(whole, potential, dataset, **given)
    if output is not None:
        save_model(whole, output)
        log.info(
            f"stored in {output}: every evaluation now carries {'nll' if score == 'mixture' else 'llpr'}"
        )
    return found


def opened(
    model: str | PathLike | Potential | Ensemble, output: str | PathLike | None
) -> Potential | Ensemble:
    """The model that is changed and written to `output`. Raises ConfigError where it would be lost."""
    if isinstance(model, Potential | Ensemble):
        return model
    if output is None:
        raise ConfigError(f"give output, the model file to write; {model} itself stores it there")
    return load_model(model)


def _fit_mixture(
    whole: Potential | Ensemble,
    potential: Potential,
    dataset: Dataset,
    components: int | None = None,
    covariance: str = "full",
    projection: int | None = None,
    per_type: bool = False,
    test: Sequence[str | PathLike] = (),
    seed: int = 0,
) -> MixtureFit:
    config = potential.config
    names = [Path(path).name for path in test]
    if len(set(names)) < len(names):
        names = [str(path) for path in test]
    tests = {
        name: Dataset.build(read_frames(path, require=("forces",)), config.type_names, config.r_max)
        for name, path in zip(names, test)
    }
    kept = f"{projection} principal components of the " if projection else ""
    log.info(
        f"mixture over {kept}{potential.network.num_last_features} features of "
        f"{dataset.num_atoms.sum()} atoms"
    )
    log.info(f"{'components':>10} {'BIC':>12} {'log-likelihood':>15} {'iterations':>11}")
    settings: dict[str, Any] = {"covariance": covariance, "seed": seed}
    found = fit_potential(
        potential,
        dataset,
        components,
        projection=projection,
        per_type=per_type,
        on_trial=log_trial,
        **settings,
    )
    log.info(summary(found, config.type_names))
    if tests:
        fits = {"stored": found}
        if projection is not None or per_type:
            fits["all features"] = fit_mixture(collect_features(potential, dataset), components, **settings)
        judged = {name: rankings(potential, labelled, fits) for name, labelled in tests.items()}
        potential.card["mixture"]["ranking"] = judged
        log.info(ranking_table(judged))
    whole.card |= {name: potential.card[name] for name in ("mixture", "thresholds")}
    return found


def _fit_llpr(
    whole: Potential | Ensemble, potential: Potential, dataset: Dataset, regulariser: float = REGULARISER
) -> RigidityFit:
    found = fit_rigidity(potential, dataset, regulariser)
    d = len(found.eigenvalues)
    lowest, highest = found.eigenvalues[0], found.eigenvalues[-1]
    log.info(f"llpr of {d} weights by energies and forces of {len(dataset)} structures, errors "
             f"{1e3 * found.energy_rmse:.2f} meV and {1e3 * found.forces_rmse:.2f} meV/A")  # fmt: skip
    log.info(f"curvatures of the loss {lowest:.3g} to {highest:.3g}")
    whole.card["llpr"] = potential.card["llpr"]
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


def log_trial(trial: Trial) -> None:
    note = "" if trial.converged else "  not converged"
    log.info(
        f"{trial.components:10d} {trial.bic:12.1f} {trial.log_likelihood:15.3f} {trial.iterations:11d}{note}"
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
