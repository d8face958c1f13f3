"""The verb `uqforce fit`: the mixture of a trained model."""

import argparse

from uqforce.data import Dataset, read_frames
from uqforce.model import load_model, save_model
from uqforce.uncertainty.gmm import MixtureFit, Trial, fit_potential


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model file (.uqf)")
    parser.add_argument("data", nargs="+", help="the structures the model was trained on, anything ASE reads")
    parser.add_argument("-o", "--output", help="where to write the model with its mixture (default: MODEL)")
    parser.add_argument("--components", type=int, help="number of Gaussians (default: the one of lowest BIC)")
    parser.add_argument("--seed", type=int, default=0, help="of the k-means start (default: 0)")


def run(args: argparse.Namespace) -> int:
    potential = load_model(args.model)
    frames = read_frames(args.data)
    dataset = Dataset.build(frames, potential.config.type_names, potential.config.r_max)
    print(f"mixture over {potential.network.num_last_features} features of {dataset.num_atoms.sum()} atoms")
    print(f"{'components':>10} {'BIC':>12} {'log-likelihood':>15} {'iterations':>11}")
    fit = fit_potential(potential, dataset, args.components, seed=args.seed, on_trial=print_trial)
    print(summary(fit))
    output = args.output or args.model
    save_model(potential, output)
    print(f"stored in {output}: every evaluation now carries nll")
    return 0


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
