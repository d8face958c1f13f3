"""Many molecules in one batch of torch-sim, each with its uncertainty, beside ASE one by one.

    make demo && pip install 'uqforce[torchsim]' && python examples/torchsim_batch.py

NVE of alanine dipeptide from frames of the demo. Prints how many molecules met what the model does not know,
and how many atoms took a step in a second.
"""

import argparse
import tempfile
import time

import ase.io
import torch_sim as ts
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from uqforce import Calculator
from uqforce.engines.torchsim import TorchSimModel, reported

NVE = getattr(ts, "Integrator", ts.integrators).nve  # since 0.4 a name, in 0.3 the integrator itself
TIMESTEP = 0.0005  # ps


def batched(model: TorchSimModel, frames: list, steps: int, temperature: float) -> list[float]:
    """The largest nll that each molecule met, looked at in every 50th step."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{k}.h5" for k in range(len(frames))]
        reporter = ts.TrajectoryReporter(paths, steps, prop_calculators={50: reported("nll_max")})
        ts.integrate(frames, model, integrator=NVE, n_steps=steps, temperature=temperature, timestep=TIMESTEP,
                     trajectory_reporter=reporter)  # fmt: skip
        found = []
        for path in paths:
            with ts.TorchSimTrajectory(path) as trajectory:
                found.append(float(trajectory.get_array("nll_max").max()))
        return found


def one_by_one(calculator: Calculator, frames: list, steps: int, temperature: float) -> None:
    for atoms in frames:
        atoms.calc = calculator
        MaxwellBoltzmannDistribution(atoms, temperature_K=temperature)
        VelocityVerlet(atoms, 1000 * TIMESTEP * units.fs).run(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model.pt")
    parser.add_argument("--frames", default="examples/demo/data/test_300K.xyz.xz")
    for name, default in (("molecules", 64), ("steps", 200), ("temperature", 600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    frames = ase.io.read(args.frames, f":{args.molecules}")
    rates = []
    for way, engine in ((batched, TorchSimModel(args.model)), (one_by_one, Calculator(args.model))):
        way(engine, frames[:2], 50, args.temperature)  # warm
        start = time.perf_counter()
        found = way(engine, frames, args.steps, args.temperature)
        rates.append(sum(map(len, frames)) * args.steps / (time.perf_counter() - start))
        if found:
            known = engine.metadata["thresholds"]["nll"]["max"]
            odd = sum(score > known for score in found)
            print(f"{odd} of {len(frames)} molecules met what the model does not know (nll > {known:.1f})")
    batch, alone = rates
    print(f"atoms * steps / s: {batch:.0f} in one batch, {alone:.0f} one by one: {batch / alone:.1f} times")


if __name__ == "__main__":
    main()
