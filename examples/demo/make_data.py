"""Make the demo's data: alanine dipeptide (22 atoms) with energies and forces of GFN2-xTB.

    pip install tblite && python examples/demo/make_data.py        (about 30 minutes on one core)

Langevin dynamics on the GFN2-xTB surface, four walkers from two conformers. At 300 K one pair of walkers
gives the training and validation frames, the other pair the test frames, so that no test frame is a
neighbour in time of a training frame. The hot test sets (600 K, 1000 K) come from walkers of their own.
Positions are rounded before they are labelled: the stored labels belong exactly to the stored positions.
"""

import argparse
import io
import lzma
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.optimize import BFGS
from tblite.ase import TBLite
from tqdm import tqdm

# Z-matrix of ACE-ALA-NME (L): element, bonded to, length (A), angle with, degrees, dihedral with, degrees.
# `phi` and `psi` are filled in per conformer.
Z_MATRIX = [
    ("C", None, 0, None, 0, None, 0),  # 0  acetyl CH3
    ("C", 0, 1.51, None, 0, None, 0),  # 1  acetyl C
    ("O", 1, 1.23, 0, 121, None, 0),  # 2  acetyl O
    ("N", 1, 1.34, 0, 116, 2, 180),  # 3  alanine N
    ("C", 3, 1.45, 1, 122, 0, 180),  # 4  C alpha
    ("C", 4, 1.53, 3, 110, 1, "phi"),  # 5  alanine C
    ("N", 5, 1.34, 4, 116, 3, "psi"),  # 6  methylamide N
    ("O", 5, 1.23, 4, 121, 6, 180),  # 7  alanine O
    ("C", 4, 1.53, 3, 110, 5, -122),  # 8  C beta
    ("C", 6, 1.45, 5, 122, 4, 180),  # 9  methylamide CH3
    ("H", 3, 1.01, 1, 119, 4, 180),
    ("H", 4, 1.09, 3, 108, 5, 119),
    ("H", 6, 1.01, 5, 119, 9, 180),
    *[("H", 0, 1.09, 1, 110, 3, angle) for angle in (60, 180, 300)],
    *[("H", 8, 1.09, 4, 110, 3, angle) for angle in (60, 180, 300)],
    *[("H", 9, 1.09, 6, 110, 5, angle) for angle in (60, 180, 300)],
]
CONFORMERS = {"C7eq": {"phi": -82, "psi": 75}, "C5": {"phi": -155, "psi": 160}}


def build_molecule(conformer: str) -> Atoms:
    """Alanine dipeptide from the Z-matrix, not yet relaxed."""
    positions = np.zeros((len(Z_MATRIX), 3))
    for i, (_, bond, length, angle, theta, dihedral, chi) in enumerate(Z_MATRIX):
        if bond is None:
            continue
        # Undefined references of the first three atoms: any axis will do.
        b = positions[bond]
        a = positions[angle] if angle is not None else b - [1.0, 0.0, 0.0]
        d = positions[dihedral] if dihedral is not None else a + np.array([0.0, 1.0, 0.0])
        theta = np.radians(theta if angle is not None else 180.0)
        chi = np.radians(CONFORMERS[conformer].get(chi, chi))
        axis = (b - a) / np.linalg.norm(b - a)
        normal = np.cross(a - d, axis)
        normal /= np.linalg.norm(normal)
        local = [-np.cos(theta), np.sin(theta) * np.cos(chi), np.sin(theta) * np.sin(chi)]
        positions[i] = b + length * np.array(local) @ np.array([axis, np.cross(normal, axis), normal])
    return Atoms([row[0] for row in Z_MATRIX], positions=positions)


def label(positions: np.ndarray, symbols: list[str], temperature: float) -> Atoms:
    """A frame with the GFN2-xTB energy (eV) and forces (eV/A) of its rounded positions."""
    frame = Atoms(symbols, positions=positions.round(5))
    frame.calc = TBLite(method="GFN2-xTB", verbosity=0)
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    frame.calc = SinglePointCalculator(frame, energy=round(energy, 6), forces=forces.round(4))
    frame.info["temperature"] = temperature
    return frame


def walk(conformer: str, temperature: float, frames: int, interval_fs: float, seed: int) -> list[Atoms]:
    """Frames of one Langevin walker (0.5 fs steps, friction 0.01/fs) after 1 ps of equilibration."""
    rng = np.random.default_rng(seed)
    atoms = build_molecule(conformer)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=500)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng, fixcm=False
    )
    dynamics.run(2000)
    result = []
    for _ in tqdm(range(frames), desc=f"{conformer:5s}{temperature:5.0f} K", unit="frame"):
        dynamics.run(round(interval_fs / 0.5))
        result.append(label(atoms.get_positions(), atoms.get_chemical_symbols(), temperature))
    return result


def store(path: Path, frames: list[Atoms]) -> None:
    text = io.StringIO()
    write(text, frames, format="extxyz")
    path.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {len(frames)} frames, {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "data")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    walkers = list(CONFORMERS)
    train = [f for k, c in enumerate(walkers) for f in walk(c, 300.0, 175, 200.0, seed=k)]
    order = np.random.default_rng(0).permutation(len(train))
    store(output / "train_300K.xyz.xz", [train[i] for i in sorted(order[:300])])
    store(output / "valid_300K.xyz.xz", [train[i] for i in sorted(order[300:])])
    for temperature in (300.0, 600.0, 1000.0):
        seed = int(temperature)
        test = [f for k, c in enumerate(walkers) for f in walk(c, temperature, 50, 200.0, seed=seed + k)]
        store(output / f"test_{temperature:.0f}K.xyz.xz", test)


if __name__ == "__main__":
    main()
