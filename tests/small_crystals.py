"""Copper-gold crystals of four atoms, labelled by ASE's EMT."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def crystals(number: int, seed: int) -> list[Atoms]:
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = random.choice(["Cu", "Au"], len(atoms))
        atoms.rattle(0.1, rng=random)
        atoms.set_cell(
            atoms.cell.array @ (np.eye(3) + 0.03 * random.standard_normal((3, 3))), scale_atoms=True
        )
        atoms.calc = EMT()
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames
