"""The arguments of the verbs import, export, md, eval and info; light, since every command imports it."""

import argparse

EXIT_HALTED, EXIT_NOT_FINITE = 3, 4
WATCHED = {
    "nll": "score of an atom",
    "llpr": "rigidity of an atom, eV,",
    "forces_uncertainty": "force uncertainty of an atom, eV/A,",
    "forces_error": "expected force error of an atom, eV/A,",
}


def import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="nequip checkpoint (*.ckpt) or package (*.nequip.zip)")
    parser.add_argument("-o", "--output", required=True, help="model to write (*.uqf)")
    parser.add_argument(
        "--trust", action="store_true", help="read the file although it can run code; prints its sha256"
    )
    parser.add_argument("--energy-unit", default="eV", help="of the model's energies (default eV)")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model (*.uqf)")
    parser.add_argument("-o", "--output", required=True, help="file to write; the format says its suffix")
    parser.add_argument(
        "--format",
        choices=("torchscript", "aoti", "nequip", "metatomic", "nequip-state"),
        default="torchscript",
        help="torchscript (*.pt, default) and aoti (*.pt2, compiled for this kind of processor) for what is "
        "ours; nequip (*.nequip.pth, *.nequip.pt2) for pair_nequip_allegro; metatomic (*.pt) for the engines "
        "that read it; nequip-state (*.ckpt): the network as a checkpoint that nequip loads",
    )
    parser.add_argument(
        "--tabulation",
        type=float,
        help="relative error allowed to the tables that replace the radial networks; 0 keeps the networks "
        "(default 1e-6 for a float32 model, 1e-10 for float64)",
    )


def info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="model (*.uqf) or exported model (*.pt)")


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="model (*.uqf) or exported model (*.pt)")
    add("data", nargs="+", help="labelled structures, one set per file; the first one is the domain")
    add("-o", "--output", required=True, help="folder for evaluation.json and plots")
    add("--bootstrap", type=int, default=0, help="resamples of structures for 95 %% intervals (0: none)")
    pairs = {"nargs": "+", "default": [], "type": pair, "metavar": "LABEL=NAME"}
    add("--keys", help="names of labels in the files, as energy=REF_energy", **pairs)
    add("--units", help="units in the files, as energy=kcal/mol (default eV, A)", **pairs)
    add("--device", default="auto", help="auto (default), cpu or cuda")


def md_arguments(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS  # a continued run keeps what is not given
    parser.epilog = (
        "LIMIT is a number or a quantile of the training set's scores: q0.99, q0.999, max. Exit status: "
        f"0 finished, {EXIT_HALTED} halted by a limit, {EXIT_NOT_FINITE} energy or forces not finite."
    )
    add = parser.add_argument
    add("model", help="exported model (*.pt) or model (*.uqf)")
    add(
        "start",
        help="structure that ASE reads (FILE@3: frame 3, else the last), or a run's folder to continue",
    )
    add("-o", "--output", help="folder of a new run")
    add("--steps", type=int, help="steps in all (1000)")
    add("--ensemble", choices=("nve", "langevin", "npt"), help="default langevin; npt is isotropic")
    add("--temperature", type=float, help="K (300)")
    add("--temperature-end", type=float, help="K; heats or cools linearly from --temperature")
    add("--ramp-steps", type=int, help="steps of the ramp (--steps)")
    add("--timestep", type=float, help="fs (0.5)")
    add("--friction", type=float, help="of langevin and npt, 1/ps (10)")
    add("--pressure", type=float, help="of npt, GPa (0)")
    add("--barostat-time", type=float, help="of npt: period of the cell, ps (1)")
    add("--seed", type=int, help="of velocities and thermostat (0)")
    add("--every", type=int, help="steps between records (10)")
    for quantity, meaning in WATCHED.items():
        name = quantity.replace("_", "-")
        add(f"--halt-{name}", type=limit, metavar="LIMIT", help=f"stop when the {meaning} is above")
        add(f"--collect-{name}", type=limit, metavar="LIMIT", help="keep records above, for labelling")
    add("--device", default="auto", help="auto (default), cpu or cuda")
    add("--skin", type=float, default=0.0, help="of the neighbour list, A (0: a new list every step)")


def limit(text: str) -> float | str:
    """A number, or the name of a threshold that the model stores."""
    try:
        return float(text)
    except ValueError:
        return text


def pair(text: str) -> tuple[str, str]:
    """LABEL=NAME."""
    label, equals, name = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LABEL=NAME")
    return label, name
