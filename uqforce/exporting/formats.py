"""The verb `export`: a model in the format that an engine reads."""

import argparse
from pathlib import Path
from typing import Any

from uqforce.errors import ExportError
from uqforce.exporting.checked import TOLERANCE, TOLERANCE_OPTIMISED
from uqforce.exporting.export import export
from uqforce.model import load_model


def run(args: argparse.Namespace) -> int:
    if args.format == "nequip-state":
        return run_nequip_state(args)
    description = write(args)
    size, types = Path(args.output).stat().st_size / 1e6, ", ".join(description["type_names"])
    print(f"{args.output}: {size:.1f} MB, {types}, cutoff {description['cutoff']} A")
    print(f"carries {', '.join(description['outputs'])}")
    if tables := description["tabulation"]:
        sizes = ", ".join(map(str, tables["intervals"]))
        print(f"radial networks as tables of {sizes} intervals: relative errors of energies "
              f"{tables['energy_error']:.1e}, of forces {tables['forces_error']:.1e}")  # fmt: skip
    later = TOLERANCE_OPTIMISED[description["dtype"]]
    print(f"checked in a fresh process: equal to the Python model to {TOLERANCE}, optimised code to {later}")
    return 0


def write(args: argparse.Namespace) -> dict[str, Any]:
    """Write the file; returns its metadata. What a format needs is imported with it."""
    potential = load_model(args.model)
    if args.format == "nequip":
        from uqforce.exporting.pair_nequip import export_pair_nequip

        return export_pair_nequip(potential, args.output, args.tabulation)
    if args.format == "metatomic":
        from uqforce.exporting.metatomic import export_metatomic

        return export_metatomic(potential, args.output, args.tabulation)
    return export(potential, args.output, args.tabulation, compiled=args.format == "aoti")


def run_nequip_state(args: argparse.Namespace) -> int:
    from uqforce.exporting.nequip import export_nequip

    if args.tabulation is not None:
        raise ExportError("--tabulation has no meaning with --format nequip-state: leave it out")
    potential = load_model(args.model)
    export_nequip(potential, args.output)
    print(f"{args.output}: a checkpoint of nequip, open it with nequip.model.ModelFromCheckpoint")
    heads = {"mixture": potential.mixture.means.shape[0] > 0, "noise": potential.config.noise != "none"}
    if left := [name for name, present in heads.items() if present]:
        print(f"nequip has no place for the {' and the '.join(left)}, which stay behind")
    print("checked: nequip reads the same weights from it")
    return 0
