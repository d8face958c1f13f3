#!/usr/bin/env bash
# nequip trains, uqforce does the rest: import, mixture, evaluation, export, dynamics in ASE and in LAMMPS.
# Needs the data (docs/results.md says which) in $UQFORCE_DATA/3bpa. Run it from the top of the repository.
set -euo pipefail
export UQFORCE_DATA="${UQFORCE_DATA:-../shared/data}"
data="$UQFORCE_DATA/3bpa" out=runs/nequip

[ -e $out/trained.ckpt ] || nequip-train -cp "$PWD/examples/nequip" -cn 3bpa hydra.run.dir=$out
uqforce import $out/trained.ckpt -o $out/model.uqf --trust
uqforce fit $out/model.uqf "$data/train_300K.xyz.xz"
uqforce eval $out/model.uqf "$data"/test_{300K,600K,1200K_100}.xyz.xz -o $out/eval
uqforce export $out/model.uqf -o $out/model.pt
uqforce md $out/model.pt "$data/test_300K.xyz.xz@0" -o $out/ase --ensemble nve --temperature 300 --steps 2000

python - "$data/test_300K.xyz.xz" $out/start.data <<'END'
import sys
import ase.io
atoms = ase.io.read(sys.argv[1], 0)
atoms.center(vacuum=3)
atoms.write(sys.argv[2], format="lammps-data", specorder=["H", "C", "N", "O"], masses=True, atom_style="atomic")
END
lmp -in examples/nequip/3bpa.in

python - $out <<'END'
import sys
import ase.io
import numpy as np
from uqforce import Calculator
largest = {"forces": 0.0, "nll": 0.0}
for atoms in ase.io.read(f"{sys.argv[1]}/run.dump", ":", format="lammps-dump-text"):
    lammps = {"forces": atoms.get_forces(), "nll": atoms.arrays["f_nll"].ravel()}
    atoms.calc = Calculator(f"{sys.argv[1]}/model.pt", device="cpu")
    for name in largest:
        ours = atoms.calc.get_property(name, atoms)
        largest[name] = max(largest[name], float(abs(ours - lammps[name]).max() / abs(ours).max()))
print("LAMMPS and ASE on the frames of the run, largest difference relative to the largest value:", largest)
END
