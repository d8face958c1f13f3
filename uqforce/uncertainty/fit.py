"""`uqforce fit`: gives a trained model its mixture."""

from collections.abc import Sequence
from os import PathLike

from uqforce.data import Dataset, read_frames
from uqforce.model import load_model, save_model
from uqforce.uncertainty.gmm import MixtureFit, Trial, fit_potential


def fit(
    model: str | PathLike,
    data: Sequence[str | PathLike],
    output: str | PathLike | None = None,
    n_components: int | None = None,
    seed: int = 0,
    covariance: str = "full",
) -> MixtureFit:
    """Fit the mixture of the model file `model` to the structures of `data`, its training set.

    The search is printed; the model with its mixture is written to `output`, or in place of `model`. Labels
    are not needed.

    Raises: FileNotFoundError, DataError, MixtureError, ValueError (not a model file).
    """
    potential = load_model(model)
    dataset = Dataset.build(read_frames(data), potential.config.type_names, potential.config.r_max)
    print(f"mixture over {potential.network.num_last_features} features of {dataset.num_atoms.sum()} atoms")
    print(f"{'components':>10} {'BIC':>12} {'log-likelihood':>15} {'iterations':>11}")
    found = fit_potential(
        potential, dataset, n_components, covariance=covariance, seed=seed, on_trial=print_trial
    )
    print(summary(found))
    save_model(potential, output or model)
    print(f"stored in {output or model}: every evaluation now carries nll")
    return found


def print_trial(trial: Trial) -> None:
    note = "" if trial.converged else "  not converged"
    print(
        f"{trial.components:10d} {trial.bic:12.1f} {trial.log_likelihood:15.3f} {trial.iterations:11d}{note}",
        flush=True,
    )


def summary(fit: MixtureFit) -> str:
    """What was chosen, and the quantiles of the training atoms' scores."""
    lines = [f"{fit.chosen.components} components" + (" (lowest BIC)" if len(fit.trials) > 1 else "")]
    if not fit.chosen.converged:
        lines.append(f"EM stopped after {fit.chosen.iterations} iterations without converging")
    if fit.flat_directions:
        lines.append(
            f"the training atoms do not vary in {fit.flat_directions} of {fit.means.shape[1]} directions: "
            "any deviation there will raise nll steeply"
        )
    lines.append("nll of the training atoms, by quantile:")
    lines.append("  " + "  ".join(f"{name} {value:.2f}" for name, value in fit.quantiles.items()))
    return "\n".join(lines)
