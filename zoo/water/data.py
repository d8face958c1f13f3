"""Divide the frames, sets 0 to 2 for training and set 3 for the test; the first is where LAMMPS starts."""

import os
from pathlib import Path

import numpy as np
from ase import Atoms

OUT = Path("runs/water/data")

source = dict(np.load(Path(os.environ["UQFORCE_DATA"]) / "water192_deepmd/water192.npz"))
held_out = np.char.startswith(source.pop("part"), "data_3/")
kinds = source.pop("atomic_numbers")
OUT.mkdir(parents=True, exist_ok=True)
for name, rows in (("sets_0_to_2", ~held_out), ("set_3", held_out)):
    np.savez(OUT / name, atomic_numbers=kinds, **{key: value[rows] for key, value in source.items()})

start = Atoms(kinds, source["coords"][0], cell=source["cell"][0], pbc=True)
start.write(OUT / "start.data", format="lammps-data", specorder=["H", "O"], masses=True, atom_style="atomic")
