"""The file contract of pair_nequip_allegro and of nequip's loaders: existing builds of LAMMPS run our models.

Inputs pos [N,3] A, edge_index [2,E], atom_types [N], cell [1,3,3], edge_cell_shift [E,3]; outputs
atomic_energy [N,1] eV, total_energy [1,1], forces [N,3], virial and stress [1,3,3], and each uncertainty that
the model carries under its own name, [N,k] of atoms, [1,1] of the structure. All float64.

`*.nequip.pth` is TorchScript, `*.nequip.pt2` compiled (`uqforce.exporting.aoti`). The pair style loads no op
libraries: start LAMMPS with LD_PRELOAD=.../libuqforce.so, whose place `uqforce info` prints. nequip imports
uqforce for `.nequip.pt2` by itself.
"""

import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import torch
from torch import Tensor, nn

from uqforce.errors import ExportError
from uqforce.exporting.aoti import compile_method
from uqforce.exporting.checked import check_calls
from uqforce.exporting.exported_potential import ExportedPotential, metadata
from uqforce.files import atomically
from uqforce.model import QUANTITIES, Graph, Potential
from uqforce.ops import neighbor_list

INPUTS = ["pos", "edge_index", "atom_types", "cell", "edge_cell_shift"]
OUTPUTS = ["atomic_energy", "total_energy", "forces", "virial", "stress"]
SUFFIXES = (".nequip.pth", ".nequip.pt2")


class PairNequip(nn.Module):
    """An `ExportedPotential` with that contract; one structure.

    Args:
        uncertainties: names of the further outputs.
    """

    uncertainties: List[str]

    def __init__(self, module: ExportedPotential, uncertainties: list[str]) -> None:
        super().__init__()
        self.potential = module.potential
        self.uncertainties = uncertainties

    def forward(self, data: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """As `nequip.nn.GraphModel.forward`."""
        return self.compute(
            data["pos"], data["edge_index"], data["atom_types"], data["cell"], data["edge_cell_shift"]
        )

    def compute(
        self, pos: Tensor, edge_index: Tensor, atom_types: Tensor, cell: Tensor, edge_cell_shift: Tensor
    ) -> Dict[str, Tensor]:
        pos, cell = pos.detach().to(torch.float64), cell.detach().to(torch.float64).view(3, 3)
        order = torch.argsort(edge_index[0], stable=True)  # by centre, whatever list the engine has
        edge_index = edge_index.index_select(1, order)
        shift = edge_cell_shift.detach().to(torch.float64).index_select(0, order)
        edge_vec = pos.index_select(0, edge_index[1]) - pos.index_select(0, edge_index[0])
        edge_vec = edge_vec + torch.matmul(shift, cell)
        graph = Graph(edge_vec, edge_index, atom_types, torch.zeros_like(atom_types), 1)
        p = self.potential.forward(graph)
        volume = torch.linalg.det(cell).abs()
        stress = torch.where(volume > 0, -p["virial"] / volume, torch.zeros_like(p["virial"]))
        out = {
            "atomic_energy": p["energies"].unsqueeze(1),
            "total_energy": p["energy"].unsqueeze(1),
            "forces": p["forces"],
            "virial": p["virial"],
            "stress": stress,
        }
        for name in self.uncertainties:
            out[name] = p[name].unsqueeze(1)
        return out


class _Listed(nn.Module):
    """The same with tensors in and out in order, as compiled code has them."""

    def __init__(self, model: PairNequip, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pos, edge_index, atom_types, cell, edge_cell_shift):
        out = self.model.compute(pos, edge_index, atom_types, cell, edge_cell_shift)
        return [out[name] for name in self.names]


def uncertainties(module: ExportedPotential) -> list[str]:
    """Those that one number of each atom, or of the structure, holds."""
    return [name for name in module.carries if QUANTITIES[name].kind in ("score", "std", "variance")]


def sample(module: ExportedPotential, seed: int) -> dict[str, Tensor]:
    """27 jittered atoms of all types in a cubic cell as engines give them, the edges in no order."""
    config, generator = module.potential.config, torch.Generator().manual_seed(seed)
    spacing = 0.55 * min(min(row) for row in config.cutoff_table())
    grid = torch.cartesian_prod(*[torch.arange(3, dtype=torch.float64)] * 3)
    pos = spacing * (grid + 0.2 * torch.rand(27, 3, dtype=torch.float64, generator=generator))
    cell = 3 * spacing * torch.eye(3, dtype=torch.float64)[None]
    edges = neighbor_list(pos, cell, torch.tensor([[True] * 3]), config.r_max)
    order = torch.randperm(edges.edge_index.shape[1], generator=generator)
    types, shift = torch.arange(27) % len(config.type_names), edges.cell_shift[order].double()
    return dict(zip(INPUTS, (pos, edges.edge_index[:, order].contiguous(), types, cell, shift)))


def file_metadata(module: ExportedPotential) -> dict[str, str]:
    """What nequip and the pair style read; cutoffs of pairs of types where they differ."""
    config = module.potential.config
    table = config.cutoff_table()
    described = {
        "r_max": str(config.r_max),
        "type_names": " ".join(config.type_names),
        "num_types": str(len(config.type_names)),
        "model_dtype": config.dtype,
        "allow_tf32": "0",
    }
    if any(cutoff != config.r_max for row in table for cutoff in row):
        described["per_edge_type_cutoff"] = " ".join(str(cutoff) for row in table for cutoff in row)
    return described


def export_pair_nequip(
    potential: Potential, path: str | os.PathLike, tabulation: float | None = None
) -> dict[str, Any]:
    """Write the file, checked in a fresh process as `export` does; returns our own metadata.

    Raises:
        ExportError: the name ends in neither `.nequip.pth` nor `.nequip.pt2`, or the file gave other numbers.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise ExportError(f"{path}: pair_nequip_allegro reads names that end in {' or '.join(SUFFIXES)}")
    module = ExportedPotential(potential, tabulation).cpu()
    model = PairNequip(module, uncertainties(module)).eval()
    cases = [sample(module, seed=1), sample(module, seed=2)]
    expected = [model(case) for case in cases]
    described, ours = file_metadata(module), metadata(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as written:
        if path.suffix == ".pth":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
                extra = described | {"metadata.json": json.dumps(ours, indent=1)}
                torch.jit.save(torch.jit.script(model), str(written), _extra_files=extra)
            calls = [("forward", (case,)) for case in cases]
        else:
            names = [*OUTPUTS, *model.uncertainties]
            described |= {"nequip_aoti_inputs": " ".join(INPUTS), "nequip_aoti_outputs": " ".join(names)}
            compile_package(_Listed(model, names), cases[0], written, described, ours)
            calls = [("model", tuple(case.values())) for case in cases]
        check_calls(written, dict(zip(("a structure", "another structure"), calls)), expected, ours["dtype"])
    return ours


def compile_package(
    method: _Listed, case: dict[str, Tensor], path: Path, described: dict[str, str], ours: dict[str, Any]
) -> None:
    """The compiled file, with the line by which nequip's loaders import our ops."""
    from torch.export.pt2_archive._package import package_pt2

    n, e = {0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}
    shapes = (n, {1: torch.export.Dim.DYNAMIC}, n, None, e)
    files = compile_method(method, tuple(case.values()), shapes, described)
    ours = ours | {"methods": {"model": method.names}}
    package_pt2(
        str(path), aoti_files={"model": files}, extra_files={"metadata.json": json.dumps(ours, indent=1)}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("nequip_custom_ops_libs.txt", "uqforce")
