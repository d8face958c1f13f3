"""Figures and numbers of the runs of water.in and silicon.in, into docs/dynamics.

    UQFORCE_DATA=DIR python examples/lammps/analyse.py water
    python examples/lammps/analyse.py silicon

Run it from the top of the repository, where LAMMPS ran.
"""

import json
import os
import re
import sys
from pathlib import Path

import ase.io
import matplotlib
import numpy as np
import torch
from ase import Atoms

from uqforce import Calculator
from uqforce.ops import neighbor_list

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path("docs/dynamics")
R_MAX, BINS = 6.2, 310  # A: half the cell of water
PAIRS = ("OO", "OH", "HH")
MOLTEN = 3.0  # A^2: atoms that have moved by more than half a bond length are not in a crystal
K_B = 8.617333262e-5  # eV/K


def thermo(path: str) -> dict[str, np.ndarray]:
    """The columns of the thermodynamic output in a log of LAMMPS."""
    head, rows = re.search(r"^( +Step .*)\n((?: +[-\d.e+ ]+\n)+)", Path(path).read_text(), re.M).groups()
    columns = np.array([line.split() for line in rows.splitlines()], dtype=float).T
    return dict(zip(head.split(), columns))


def radial_distribution(frames: list[Atoms]) -> dict[str, np.ndarray]:
    """g(r) of each pair of elements, at the centres of BINS bins to R_MAX, A."""
    counts = {pair: np.zeros(BINS) for pair in PAIRS}
    for atoms in frames:
        tensors = (np.array(atoms.positions), np.array(atoms.cell.array)[None], np.array(atoms.pbc)[None])
        edges = neighbor_list(*map(torch.from_numpy, tensors), R_MAX)
        length = edges.edge_vec.norm(dim=1).numpy()
        of_edge = np.char.add(*np.array(list(atoms.symbols))[edges.edge_index.numpy()])
        for pair in PAIRS:
            counts[pair] += np.histogram(length[of_edge == pair], BINS, (0, R_MAX))[0]
    edges = np.linspace(0, R_MAX, BINS + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    number = {element: sum(symbol == element for symbol in atoms.symbols) for element in "HO"}
    ideal = len(frames) * shells / atoms.get_volume()
    return {(a + b): counts[a + b] / (ideal * number[a] * (number[b] - (a == b))) for a, b in PAIRS}


def temperature_of(frames: list[Atoms], forces: np.ndarray, model: str, probes: int = 20) -> float:
    """K, of configurations: <F.F> / <trace of the Hessian>, the model's, by random directions."""
    calculator, random, step = Calculator(model, device="cpu"), np.random.default_rng(0), 0.01
    trace = []
    for atoms in frames:
        here = atoms.positions.copy()
        for _ in range(probes):
            direction = random.choice([-1.0, 1.0], here.shape)
            ends = []
            for atoms.positions in (here + step * direction, here - step * direction):
                ends.append(calculator.get_property("forces", atoms))
            trace.append(-(direction * (ends[0] - ends[1])).sum() / (2 * step))
        atoms.positions = here
    return float(np.square(forces).sum((1, 2)).mean() / np.mean(trace) / K_B)


def peak(r: np.ndarray, g: np.ndarray, low: float, high: float) -> dict[str, float]:
    """Place (A) and height of the highest point of a parabola through the highest bin between two r."""
    inside = np.flatnonzero((r > low) & (r < high))
    at = inside[g[inside].argmax()]
    a, b, c = np.polyfit(r[at - 3 : at + 4], g[at - 3 : at + 4], 2)
    return {"r": round(-b / (2 * a), 3), "g": round(c - b * b / (4 * a), 3)}


def water() -> dict:
    source = np.load(Path(os.environ["UQFORCE_DATA"]) / "water192_deepmd/water192.npz")
    data = [
        Atoms(source["atomic_numbers"], positions, cell=cell, pbc=True)
        for positions, cell in zip(source["coords"].astype(float), source["cell"].astype(float))
    ]
    run = ase.io.read("runs/water/run.dump", ":", format="lammps-dump-text")
    log = thermo("runs/water/log.lammps")
    settled = run[101:]  # after 2 ps
    r = (np.arange(BINS) + 0.5) * R_MAX / BINS
    of_data, of_run = radial_distribution(data), radial_distribution(settled)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharex=True)
    for axis, pair, top in zip(axes, PAIRS, (4, 2.5, 4)):
        axis.plot(r, of_data[pair], color="0.6", lw=3, label=f"data, {len(data)} frames")
        axis.plot(r, of_run[pair], color="C0", lw=1, label=f"model, {log['Time'][-1] - 2:.1f} ps")
        axis.set(title=f"{pair[0]}-{pair[1]}", xlabel="r (A)", ylim=(0, top), xlim=(0.8, R_MAX))
    axes[0].set_ylabel("g(r)")
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(OUT / "water.png", dpi=110)
    peaks = {"OO": (2.4, 3.2), "OH": (1.5, 2.2), "HH": (2.0, 2.8)}
    far = r > 1.3  # between molecules
    rms = {pair: np.sqrt(np.mean((of_run[pair] - of_data[pair])[far] ** 2)) for pair in PAIRS}
    every = slice(None, None, len(data) // 20)
    kelvin = temperature_of(data[every], source["forces"][every].astype(float), "runs/water/model.pt")
    kinetic = log["Temp"][log["Step"] > 4000]
    return {
        "steps": int(log["Step"][-1]),
        "temperature_K": round(kinetic.mean(), 1),
        "configurational_temperature_of_the_data_K": round(kelvin, 1),
        "first_peak_between_molecules": {
            pair: {"data": peak(r, of_data[pair], *where), "model": peak(r, of_run[pair], *where)}
            for pair, where in peaks.items()
        },
        "rms_difference_of_g": {pair: round(float(value), 3) for pair, value in rms.items()},
        "nll": {"largest": log["c_u[1]"].max(), "mean": round(log["c_u[2]"].mean(), 2)},
        "total_energy_eV": {"first": log["TotEng"][1], "last": log["TotEng"][-1]},
    }


def silicon() -> dict:
    log, atoms = thermo("runs/silicon/log.lammps"), 216
    rows = {
        "T (K)": log["Temp"],
        "energy (eV/atom)": log["PotEng"] / atoms,
        "volume (A$^3$/atom)": log["Volume"] / atoms,
        "square displ. (A$^2$)": log["c_moved[4]"],
        "largest nll": log["c_u[1]"],
    }
    molten = np.flatnonzero(log["c_moved[4]"] < MOLTEN)[-1] + 1
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 7), layout="constrained", sharex=True)
    for axis, (name, values) in zip(axes, rows.items()):
        axis.plot(log["Time"], values, lw=1)
        axis.set_ylabel(name, fontsize="small")
        if molten < len(values):
            axis.axvline(log["Time"][molten], color="0.7", ls=":")
    axes[-1].set_xlabel("time (ps)")
    figure.savefig(OUT / "silicon.png", dpi=110)

    def at(row: int) -> dict[str, float]:
        names = {"Time": "ps", "Temp": "K", "PotEng": "eV", "Volume": "A^3", "c_u[1]": "largest nll"}
        return {unit: round(float(log[name][row]), 2) for name, unit in names.items()}

    text = Path("runs/silicon/log.lammps").read_text()
    halted = re.search(r"met on step (\d+) with value (\S+)", text)
    return {
        "start": at(0),
        "molten": at(molten) if molten < len(log["Time"]) else None,
        "end": at(-1),
        "halted_at": {"step": int(halted[1]), "nll": round(float(halted[2]), 2)} if halted else None,
        "frames_kept": Path("runs/silicon/odd.dump").read_text().count("ITEM: TIMESTEP"),
    }


if __name__ == "__main__":
    name = sys.argv[1]
    OUT.mkdir(exist_ok=True)
    found = {"water": water, "silicon": silicon}[name]()
    (OUT / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
