"""Halt, label, retrain, continue: alanine dipeptide is heated in LAMMPS until the model learns what it meets.

    make demo && pip install tblite && python examples/active_learning.py

Starts from the demo's model of 300 K. Each round runs LAMMPS until an atom's nll is above all training ones,
labels the frames near the halt with GFN2-xTB, retrains from the model of the round before, and continues the
same trajectory. Results are in active/, written anew; a round takes about two minutes on two cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "demo"))
from make_data import label  # GFN2-xTB

TYPES = ["C", "H", "N", "O"]
INPUT = """
units metal
boundary s s s
{start}
pair_style uqforce
pair_coeff * * {model} {types}
neighbor 1.0 bin
timestep 0.0005
fix move all nve
fix bath all langevin 300.0 1500.0 0.1 3
fix nll all pair 10 uqforce nll 0
compute u all pair uqforce
variable worst equal c_u[1]
fix stop all halt 10 v_worst > {limit} error soft message yes
variable dull equal v_worst<={known}
dump odd all custom 10 {folder}/odd.dump id element x y z f_nll
dump_modify odd element {types} sort id skip v_dull
thermo 500
thermo_style custom step temp pe c_u[1]
run {steps} upto
write_restart {folder}/halted.restart
"""
START = "read_data examples/lammps/ala2.data\nvelocity all create 300.0 2 mom yes rot yes"


def uqforce(*command: object) -> None:
    print("$ uqforce", *command, flush=True)
    subprocess.run([sys.executable, "-m", "uqforce.cli", *map(str, command)], cwd=ROOT, check=True)


def run(folder: Path, model: Path, start: str, steps: int) -> list[ase.Atoms]:
    """LAMMPS until it halts; the frames it kept, with their scores. None: it ran to its end, all known."""
    uqforce("export", model, "-o", folder / "model.pt")
    from uqforce.exporting.opening import read_metadata

    known = read_metadata(folder / "model.pt")["thresholds"]["nll"]
    text = INPUT.format(
        start=start, model=folder / "model.pt", types=" ".join(TYPES), folder=folder, steps=steps,
        known=known["q0.999"], limit=known["max"],
    )  # fmt: skip
    (folder / "in.lammps").write_text(text)
    subprocess.run(["lmp", "-in", folder / "in.lammps", "-log", folder / "log.lammps"], cwd=ROOT, check=True)
    dump = folder / "odd.dump"
    return ase.io.read(dump, ":", format="lammps-dump-text") if dump.stat().st_size else []


def learn(folder: Path, model: Path, data: list[Path], epochs: int) -> Path:
    """The model trained further on all the data."""
    config = yaml.safe_load((ROOT / "examples/demo/train.yaml").read_text())
    config |= {"output": str(folder / "training"), "model": {"start": str(model)}, "epochs": epochs}
    config["data"]["train"] = list(map(str, data))
    config["optimizer"]["lr"] = 0.003
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    uqforce("train", folder / "train.yaml")
    uqforce("fit", folder / "training/best.uqf", *data, "--in-place")
    return folder / "training/best.uqf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "demo/training/best.uqf")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "active")
    for name, default in (("rounds", 3), ("steps", 20000), ("frames", 20), ("epochs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    model, start = args.model.absolute(), START
    data = [ROOT / "examples/demo/data/train_300K.xyz.xz"]
    for number in range(1, args.rounds + 1):
        folder = args.output.absolute() / f"round_{number}"
        folder.mkdir(parents=True)
        odd = run(folder, model, start, args.steps)
        if not odd:
            print(f"round {number}: {args.steps} steps, and nothing that the model does not know")
            break
        chosen = [odd[k] for k in np.unique(np.linspace(0, len(odd) - 1, args.frames).round().astype(int))]
        labelled = [label(frame.positions, list(frame.symbols), 0.0) for frame in chosen]
        ase.io.write(folder / "labelled.xyz", labelled, format="extxyz")
        data.append(folder / "labelled.xyz")
        scores = [float(frame.arrays["f_nll"].max()) for frame in chosen]
        print(json.dumps({"round": number, "labelled": len(labelled), "largest nll": max(scores)}))
        model = learn(folder, model, data, args.epochs)
        start = f"read_restart {folder}/halted.restart"
    print(f"the last model is {model}")


if __name__ == "__main__":
    main()
