"""The verbs of the command line: a function each, which imports what it needs when it is called."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from uqforce._version import __version__
from uqforce.cli.options import (
    EXIT,
    changes_a_model,
    data_files,
    destination,
    device_option,
    free,
    given,
    model_file,
    output,
    overwrite_flag,
    pairs,
)
from uqforce.errors import ConfigError, PluginError
from uqforce.exporting.formats import FORMATS


class InOrder(click.Group):
    """Verbs in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done, 1 failed (one sentence says why), 2 wrong usage, 3 dynamics halted by "
    "a limit, 4 energy or forces not finite, 130 interrupted. Python: `import uqforce` has the same as "
    "functions.",
)
@click.version_option(__version__, prog_name="uqforce")
def verbs() -> None:
    """Interatomic potentials that say how far they can be trusted.

    \b
    uqforce template -o first.yaml                     write a configuration, fill in the data
    uqforce train first.yaml                           first/best.uqf
    uqforce fit first/best.uqf train.xyz -o model.uqf  every evaluation has a score now, nll
    uqforce eval model.uqf test.xyz -o evaluation      errors against uncertainties
    uqforce export model.uqf -o model.pt               one file for C++, LAMMPS, ASE
    uqforce md model.pt start.xyz -o run --halt nll=max
    """


@verbs.command(short_help="write a configuration to start from")
@output("write it here; without, it is printed", required=False)
@click.option("--full", is_flag=True, help="every field, not only what is usually set")
@overwrite_flag
def template(output: str | None, full: bool, overwrite: bool) -> None:
    """Write a commented configuration for `uqforce train`."""
    from uqforce.training import template

    if output is None:
        click.echo(template(full), nl=False)
    else:
        Path(free(output, overwrite)).write_text(template(full))


@verbs.command(short_help="train a potential, or resume its training")
@click.argument("config", metavar="CONFIG")
@output("folder of the run, in place of the configuration's `output`", "FOLDER", required=False)
@click.option("--allow-changed-config", is_flag=True, help="resume although configuration or data changed")
@click.option("--trust", is_flag=True, help="read a checkpoint that could run code; prints its sha256")
def train(config: str, output: str | None, allow_changed_config: bool, trust: bool) -> None:
    """Train a potential as CONFIG says, a YAML file (`uqforce template`), or resume its training.

    The folder `output` of CONFIG gets best.uqf (the model of lowest validation loss), last.uqf, train.log,
    metrics.csv, checkpoint.pt, a table of errors and plots; of an ensemble a folder for each member, and
    ensemble.uqf. The same command resumes a run that was interrupted.
    """
    from uqforce.training import TrainConfig, set_up_process, train

    settings = TrainConfig.load(config)
    if output is not None:
        settings = settings.model_copy(update={"output": output})
    set_up_process(settings.threads)
    train(settings, trust=trust, allow_changed_config=allow_changed_config)


@verbs.command(short_help="give a model its score, nll or llpr")
@changes_a_model
@click.option(
    "--score",
    type=click.Choice(["mixture", "llpr"]),
    default="mixture",
    show_default=True,
    help="the mixture, which gives nll, or the last layer's rigidity, which gives llpr and needs labels",
)
@click.option("--components", type=int, help="mixture: number of Gaussians (default: the one of lowest BIC)")
@click.option(
    "--covariance",
    type=click.Choice(["full", "diag", "tied"]),
    help="mixture: of each Gaussian (full, default), its variances alone (diag), one for all (tied)",
)
@click.option(
    "--projection", type=int, metavar="K", help="mixture: keep K principal components of the features"
)
@click.option("--per-type", is_flag=True, default=None, help="mixture: one for each element")
@click.option(
    "--test", metavar="FILE", multiple=True,
    help="mixture: labelled structures, say how well nll ranks their atoms' force errors; may be repeated",
)  # fmt: skip
@click.option("--seed", type=int, help="mixture: of the k-means start (default 0)")
@click.option(
    "--regulariser", type=float, help="llpr: in units of the loss' largest curvature (default 1e-6)"
)
def fit(
    model: str, data: tuple, output: str | None, in_place: bool, overwrite: bool, **settings: Any
) -> None:
    """Give MODEL (.uqf) a score of how far an atom is from DATA, the structures that it was trained on.

    From then on every evaluation of the model has nll (or llpr) of each atom, in Python, ASE, LAMMPS and
    exported files.

    \b
    uqforce fit best.uqf train.xyz -o model.uqf
    uqforce fit model.uqf train.xyz --score llpr --in-place
    """
    from uqforce.uncertainty.fit import fit

    fit(model, data, destination(model, output, in_place, overwrite), **given(**settings))


@verbs.command(short_help="make uncertainties agree with errors")
@changes_a_model
@click.option(
    "--kind",
    type=click.Choice(["scale", "isotonic", "conformal"]),
    default="scale",
    show_default=True,
    help="a factor (scale), a monotone function (isotonic), a factor with guaranteed coverage (conformal)",
)
@click.option("--level", type=float, help="conformal: probability of the intervals (default 0.9)")
@click.option(
    "--score", type=click.Choice(["nll", "llpr"]), help="that becomes forces_error (default: nll, if there)"
)
def calibrate(
    model: str, data: tuple, output: str | None, in_place: bool, overwrite: bool, **settings: Any
) -> None:
    """Make the uncertainties of MODEL (.uqf) agree with its errors on DATA, labelled structures not trained
    on.

    Standard deviations of energies and forces are scaled, and a score (nll, llpr) becomes an expected force
    error, forces_error in eV/A.

    \b
    uqforce calibrate model.uqf validation.xyz -o calibrated.uqf
    """
    from uqforce.uncertainty.calibration_fit import calibrate

    calibrate(model, data, destination(model, output, in_place, overwrite), **given(**settings))


@verbs.command("import", short_help="turn a model of nequip into one of ours")
@model_file
@output("model file to write (.uqf)")
@overwrite_flag
@click.option("--trust", is_flag=True, help="read the file although it can run code; prints its sha256")
@click.option("--energy-unit", default="eV", show_default=True, help="of the model's energies")
def import_(model: str, output: str, overwrite: bool, trust: bool, energy_unit: str) -> None:
    """Turn MODEL, a checkpoint (.ckpt) or package (.nequip.zip) of nequip, into one of ours with the same
    numbers."""
    from uqforce.exporting.nequip import import_model
    from uqforce.model import save_model

    free(output, overwrite)
    potential = import_model(model, trust=trust, energy_unit=energy_unit)
    save_model(potential, output)
    config, made = potential.config, potential.card["imported"]
    types, weights = ", ".join(config.type_names), sum(p.numel() for p in potential.parameters())
    click.echo(f"{output}: {types}, cutoff {config.r_max} A, {weights} weights, {config.dtype}")
    click.echo(
        f"compared with {made['from']} on two structures: relative differences of energies "
        f"{made['energy_difference']:.1e}, forces {made['forces_difference']:.1e}, features "
        f"{made['features_difference']:.1e}"
    )


@verbs.command(short_help="write a model for the engine that runs it")
@model_file
@output("file to write")
@overwrite_flag
@click.option(
    "--format",
    type=click.Choice(list(FORMATS)),
    default="torchscript",
    show_default=True,
    help="; ".join(f"{name} ({entry.suffixes}): {entry.readers}" for name, entry in FORMATS.items()),
)
@click.option(
    "--tabulation",
    type=float,
    help="relative error allowed to the tables that replace the radial networks; 0 keeps the networks "
    "(default 1e-6 for a float32 model, 1e-10 for float64)",
)
def export(model: str, output: str, overwrite: bool, format: str, tabulation: float | None) -> None:
    """Write MODEL (.uqf) as one file for the engine that runs it.

    The file is run in a new process and compared with the model before it appears.

    \b
    uqforce export model.uqf -o model.pt
    uqforce export model.uqf -o model.nequip.pth --format nequip
    """
    from uqforce.exporting.formats import export

    export(model, free(output, overwrite), format, tabulation)


@verbs.command("eval", short_help="errors and the worth of uncertainties, with plots")
@model_file
@data_files
@output("folder for evaluation.json and plots", "FOLDER")
@overwrite_flag
@click.option(
    "--bootstrap", type=int, default=0, help="resamples of structures for 95 % intervals (default none)"
)
@pairs("--key", "LABEL=NAME", "name of a label in the files, as energy=REF_energy")
@pairs("--unit", "LABEL=UNIT", "unit in the files, as energy=kcal/mol (default eV, A)")
@device_option
def eval_(
    model: str,
    data: tuple,
    output: str,
    overwrite: bool,
    bootstrap: int,
    key: tuple,
    unit: tuple,
    device: str,
) -> None:
    """Judge MODEL (.uqf, .pt) on DATA: errors, and what each uncertainty is worth, as a table, JSON and
    plots.

    DATA are labelled structures, one set per file; the first one is the domain, from which the uncertainties
    of the others are told.

    \b
    uqforce eval model.uqf test_300K.xyz test_600K.xyz -o evaluation
    """
    from uqforce.data import Keys, Units
    from uqforce.engines.evaluate import evaluate
    from uqforce.evaluation.tables import table

    folder = Path(output)
    free(str(folder / "evaluation.json"), overwrite)
    report = evaluate(model, data, folder, device, bootstrap, labels(Keys, key), labels(Units, unit))
    click.echo(table(report))
    click.echo(
        f"\n{output}: evaluation.json, {', '.join(sorted(path.name for path in folder.glob('*.png')))}"
    )


@verbs.command(short_help="molecular dynamics that watches the uncertainty")
@model_file
@click.argument("start", required=False)
@output("folder of the run", "FOLDER")
@click.option("--resume", is_flag=True, help="go on with the run in the folder; leave START out")
@click.option("--steps", type=int, help="in all (default 1000)")
@click.option(
    "--ensemble", type=click.Choice(["nve", "langevin", "npt"]), help="default langevin; npt is isotropic"
)
@click.option("--temperature", type=float, help="K (default 300)")
@click.option("--temperature-end", type=float, help="K; heats or cools linearly from --temperature")
@click.option("--ramp-steps", type=int, help="steps of the ramp (default: --steps)")
@click.option("--timestep", type=float, help="fs (default 0.5)")
@click.option("--friction", type=float, help="of langevin and npt, 1/ps (default 10)")
@click.option("--pressure", type=float, help="of npt, GPa (default 0)")
@click.option("--barostat-time", type=float, help="of npt: period of the cell, ps (default 1)")
@click.option("--seed", type=int, help="of velocities and thermostat (default 0)")
@click.option("--every", type=int, help="steps between records (default 10)")
@pairs("--halt", "QUANTITY=LIMIT", "stop when this quantity of any atom is above")
@pairs("--collect", "QUANTITY=LIMIT", "keep records above for labelling, in collected.extxyz")
@device_option
@click.option(
    "--skin", type=float, default=0.0, help="of the neighbour list, A (default 0: a new list every step)"
)
def md(
    model: str, start: str | None, output: str, resume: bool, halt: tuple, collect: tuple, device: str,
    skin: float, **options: Any,
) -> int:  # fmt: skip
    """Run molecular dynamics with MODEL (.pt, .uqf) from START, and watch the uncertainty of every atom.

    START is a file that ASE reads (FILE@3: frame 3, else the last). A QUANTITY is nll, llpr (eV),
    forces_uncertainty or forces_error (eV/A); a LIMIT a number or a quantile of the training set's scores,
    q0.99, q0.999 or max. The folder gets trajectory.extxyz, a log and restart.npz.

    \b
    uqforce md model.pt start.xyz -o run --steps 50000 --temperature 300 --temperature-end 1200 --halt nll=max
    uqforce md model.pt -o run --resume --steps 100000
    """
    from uqforce.engines.md import md

    limits = {
        name: dict(map(limit, pairs)) for name, pairs in (("halt", halt), ("collect", collect)) if pairs
    }
    outcome = md(model, start, output, resume=resume, device=device, skin=skin, **limits, **given(**options))
    click.echo(outcome.sentence)
    return EXIT[outcome.status]


def labels(kind: type, pairs: tuple) -> Any:
    """`Keys` or `Units` of the pairs. Raises ConfigError."""
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := [name for name, _ in pairs if name not in names]:
        raise ConfigError(
            f"{kind.__name__.lower()}: no label is called {unknown[0]!r}, known are {', '.join(names)}"
        )
    return kind(**dict(pairs))


def limit(pair: tuple[str, str]) -> tuple[str, float | str]:
    """A quantity with its limit, a number or the name of a threshold that the model stores."""
    quantity, text = pair
    try:
        return quantity, float(text)
    except ValueError:
        return quantity, text


@verbs.command("build-lammps", short_help="compile the plugin for LAMMPS")
def build_lammps() -> None:
    """Compile `pair_style uqforce` for the LAMMPS that is installed in this environment."""
    from uqforce._library import LIBRARY_PATH
    from uqforce_lammps import build, plugin_folder

    try:
        click.echo(build.build(Path(plugin_folder()), LIBRARY_PATH, __version__))
    except build.BuildError as error:  # setup.py runs build.py where uqforce, and its errors, are not yet
        raise PluginError(str(error)) from error


@verbs.command(short_help="the card of a model, or this build")
@click.argument("model", required=False)
@click.option("--all", "everything", is_flag=True, help="of the build every op, of MODEL every entry")
def info(model: str | None, everything: bool) -> None:
    """Show the card of MODEL (.uqf, .pt): what it is, was trained on and can do. Without MODEL, this
    build."""
    from uqforce.engines.info import describe_build, describe_model

    lines = describe_build(everything) if model is None else describe_model(model, everything)
    click.echo("\n".join(lines))
