"""The command line: one thin function per verb, each importing what it needs when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from uqforce.engines import arguments
from uqforce.errors import ConfigError, PluginError, UqforceError


class Verb(NamedTuple):
    """`run(args)` does the work and returns the exit status; `arguments(parser)` declares what it takes."""

    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None]
    help: str


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file, see `uqforce template`")
    parser.add_argument(
        "--allow-changed-config",
        action="store_true",
        help="resume although the configuration or the data changed",
    )
    parser.add_argument(
        "--trust", action="store_true", help="read a checkpoint that could run code; prints its sha256"
    )


def _train(args: argparse.Namespace) -> int:
    from uqforce.training import TrainConfig, set_up_process, train

    config = TrainConfig.load(args.config)
    set_up_process(config.threads)
    train(config, trust=args.trust, allow_changed_config=args.allow_changed_config)
    return 0


def _template(args: argparse.Namespace) -> int:
    from uqforce.training import template

    print(template(), end="")
    return 0


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model file (.uqf)")
    parser.add_argument("data", nargs="+", help="the structures it was trained on, anything that ASE reads")
    parser.add_argument("-o", "--output", help="where to write the model with its mixture (default: MODEL)")
    parser.add_argument(
        "--score",
        choices=("mixture", "llpr"),
        default="mixture",
        help="the mixture's nll (default), or the rigidity of the last layer (llpr), which needs labels",
    )
    parser.add_argument(
        "--regulariser", type=float, metavar="X",
        help="of llpr: in units of the loss' largest curvature (default: 1e-6)",
    )  # fmt: skip
    parser.add_argument(
        "--per-type",
        action="store_true",
        default=None,
        help="a mixture for each element, of the atoms of that element",
    )
    parser.add_argument("--components", type=int, help="number of Gaussians (default: the one of lowest BIC)")
    parser.add_argument(
        "--covariance",
        choices=("full", "diag", "tied"),
        help="of each Gaussian (full, default), its variances alone (diag), one for all (tied)",
    )
    parser.add_argument(
        "--projection", type=int, metavar="K", help="keep the K leading principal components of the features"
    )
    parser.add_argument(
        "--test", nargs="+", metavar="FILE",
        help="labelled structures: say how well the score ranks their atoms' force errors",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="of the k-means start (default: 0)")


OF_MIXTURE = ("components", "covariance", "projection", "per_type", "test", "seed")
OF_LLPR = ("regulariser",)


def _fit(args: argparse.Namespace) -> int:
    from uqforce.uncertainty.fit import fit, fit_llpr

    given = {name: getattr(args, name) for name in OF_MIXTURE + OF_LLPR if getattr(args, name) is not None}
    mine, score = (OF_LLPR, "mixture") if args.score == "llpr" else (OF_MIXTURE, "llpr")
    if others := [f"--{name.replace('_', '-')}" for name in given if name not in mine]:
        raise ConfigError(f"{', '.join(others)} has no meaning with --score {args.score}, only with {score}")
    if args.score == "llpr":
        fit_llpr(args.model, args.data, args.output, **given)
        return 0
    if "components" in given:
        given["n_components"] = given.pop("components")
    fit(args.model, args.data, args.output, **given)
    return 0


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model file (.uqf)")
    parser.add_argument("data", nargs="+", help="labelled structures that it was not trained on")
    parser.add_argument("-o", "--output", help="where to write the calibrated model (default: MODEL)")
    parser.add_argument(
        "--kind",
        choices=("scale", "isotonic", "conformal"),
        default="scale",
        help="a factor (scale, default), a monotone function (isotonic), a factor with guaranteed coverage",
    )
    parser.add_argument(
        "--level", type=float, default=0.9, help="of conformal: probability of the intervals (default: 0.9)"
    )
    parser.add_argument(
        "--score", choices=("nll", "llpr"), help="that becomes forces_error (default: nll, if there)"
    )


def _calibrate(args: argparse.Namespace) -> int:
    from uqforce.uncertainty.calibration_fit import calibrate

    calibrate(args.model, args.data, args.output, args.kind, args.level, args.score)
    return 0


def _build_lammps(args: argparse.Namespace) -> int:
    from uqforce._library import LIBRARY_PATH
    from uqforce._version import __version__
    from uqforce_lammps import build, plugin_folder

    try:
        print(build.build(Path(plugin_folder()), LIBRARY_PATH, __version__))
    except build.BuildError as error:  # setup.py runs build.py where uqforce, and its errors, are not yet
        raise PluginError(str(error)) from error
    return 0


def _run(module: str) -> Callable[[argparse.Namespace], int]:
    return lambda args: importlib.import_module(f"uqforce.{module}").run(args)


VERBS: dict[str, Verb] = {
    "template": Verb(_template, lambda parser: None, "print a commented configuration for `uqforce train`"),
    "train": Verb(_train, _train_arguments, "train a potential, or resume its training"),
    "fit": Verb(
        _fit, _fit_arguments, "fit the mixture behind `nll` to the training set and store it in the model"
    ),
    "calibrate": Verb(
        _calibrate, _calibrate_arguments, "make uncertainties agree with the errors on a validation set"
    ),
    "import": Verb(
        _run("exporting.nequip"), arguments.import_arguments, "turn a nequip model into one of ours"
    ),
    "export": Verb(
        _run("exporting.formats"), arguments.export_arguments, "write a model for the engine that runs it"
    ),
    "eval": Verb(
        _run("engines.evaluate"), arguments.eval_arguments, "errors and uncertainty quality, with plots"
    ),
    "md": Verb(_run("engines.md"), arguments.md_arguments, "molecular dynamics that watches the uncertainty"),
    "build-lammps": Verb(
        _build_lammps, lambda parser: None, "compile `pair_style uqforce` for the installed LAMMPS"
    ),
    "info": Verb(_run("engines.info"), arguments.info_arguments, "build, kernels in use, a model's card"),
}


def sentence(error: UqforceError | OSError) -> str:
    """What an error says, of the system's with the name of the file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error)


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Errors that this package reports are printed as a sentence, others as a traceback."""
    parser = argparse.ArgumentParser(
        prog="uqforce", description="interatomic potentials with per-atom uncertainty"
    )
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb.arguments(commands.add_parser(name, help=verb.help, description=verb.help))
    args = parser.parse_args(argv)
    try:
        return VERBS[args.verb].run(args)
    except KeyboardInterrupt:
        print(f"uqforce {args.verb}: interrupted", file=sys.stderr)
        return 130
    except (UqforceError, OSError) as error:
        print(f"uqforce {args.verb}: {sentence(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
