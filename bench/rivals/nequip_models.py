"""nequip 0.19 with our weights: eager, and compiled by AOTInductor."""

from collections.abc import Callable
from pathlib import Path

import torch
from models import ATOMS, CUTOFF, TYPES, potential, result
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.nn.compile import DictInputOutputWrapper
from nequip.scripts._compile_utils import ASE_TARGET
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from remote import made
from systems import moving, silicon_atoms, tensors

from uqforce.exporting.nequip import to_nequip
from uqforce.model import Potential
from uqforce.ops import neighbor_list


def same_model(ours: Potential, compile_mode: str = "eager") -> torch.nn.Module:
    """nequip's model of the same configuration and weights."""
    set_global_state()
    return to_nequip(ours, compile_mode)


def silicon_data(atoms: int = ATOMS) -> dict[str, torch.Tensor]:
    positions, cell, pbc = tensors(silicon_atoms(atoms))
    neighbors = neighbor_list(positions, cell, pbc, CUTOFF)
    return {
        "pos": positions,
        "cell": cell,
        "pbc": pbc,
        "atom_types": torch.zeros(len(positions), dtype=torch.int64),
        "edge_index": neighbors.edge_index,
        "edge_cell_shift": neighbors.cell_shift.double(),
    }


def write_compiled(path: str, size: str) -> None:
    """What `nequip-compile --mode aotinductor --target ase` writes."""
    sizes = {
        "graph": torch.export.Dim.STATIC,
        "node": torch.export.Dim("num_nodes", min=2, max=torch.inf),
        "edge": torch.export.Dim("num_edges", min=2, max=torch.inf),
    }
    model = same_model(potential(size)).eval()
    aot_export_model(model, "cpu", ASE_TARGET["input"], ASE_TARGET["output"], silicon_data(), sizes, path)


def compiled(size: str) -> torch.nn.Module:
    """A compiled model, opened as nequip opens it."""
    set_global_state()  # nequip's data are of its default type, float64
    path = made(f"{Path(size).stem}.nequip.pt2", "rivals.nequip_models:write_compiled", size)
    package = torch._inductor.aoti_load_package(path)
    return DictInputOutputWrapper(package, ASE_TARGET["input"], ASE_TARGET["output"])


def repeated(model: torch.nn.Module, atoms: int) -> Callable[[], dict]:
    data = silicon_data(atoms)

    def run() -> dict:
        out = model(data.copy())
        return result(out["total_energy"], out["forces"], out["stress"])

    return run


def through_ase(model: torch.nn.Module) -> Callable[[], dict]:
    transforms = basic_transforms({}, CUTOFF, TYPES, {name: name for name in TYPES})
    return moving(silicon_atoms(ATOMS), NequIPCalculator(model.eval(), "cpu", transforms=transforms))


def eager(size: str, atoms: int) -> Callable[[], dict]:
    return repeated(same_model(potential(size)).eval(), atoms)


def aoti(size: str, atoms: int) -> Callable[[], dict]:
    return repeated(compiled(size), atoms)


def aoti_ase(size: str) -> Callable[[], dict]:
    return through_ase(compiled(size))
