"""Models for the engines that read metatomic's files: ASE, i-PI, torch-sim, and others.

This module and the files' readers need metatomic-torch; it is imported by `uqforce export --format metatomic`
alone. Outputs: energy (of systems or atoms), energy_uncertainty, energy_ensemble, and of atoms
uqforce::nll, uqforce::forces_uncertainty. Engines take forces and stress as derivatives of the energy: it
carries those that the model computed.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from ase.data import atomic_numbers
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn

from uqforce._library import LIBRARY_PATH
from uqforce.exporting.checked import TOLERANCE, compare, run_in_new_process
from uqforce.exporting.exported_potential import ExportedPotential, metadata
from uqforce.exporting.pair_nequip import sample as periodic_sample
from uqforce.files import atomically
from uqforce.model import QUANTITIES, Graph, Potential
from uqforce.ops import edge_vectors

OF_ATOMS = tuple(name for name, entry in QUANTITIES.items() if entry.watch)
"""One number of every atom that tells how far it is to be trusted."""


class MetatomicPotential(nn.Module):
    """An `ExportedPotential` as metatomic's `ModelInterface`."""

    cutoff: float
    of_atoms: List[str]
    of_systems: List[str]

    def __init__(self, module: ExportedPotential) -> None:
        super().__init__()
        config = module.potential.config
        self.potential = module.potential
        self.cutoff = float(config.r_max)
        self.of_atoms = [name for name in OF_ATOMS if name in module.carries]
        self.of_systems = [n for n in ("energy_uncertainty", "energy_ensemble") if n in module.carries]
        numbers = [atomic_numbers[name] for name in config.type_names]
        types = torch.full((max(numbers) + 1,), -1, dtype=torch.int64)
        types[numbers] = torch.arange(len(numbers))
        self.register_buffer("types", types)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=True)]

    def atom_types(self, numbers: Tensor) -> Tensor:
        numbers = numbers.to(torch.int64)
        known = (numbers >= 0) & (numbers < self.types.shape[0])
        types = self.types[torch.where(known, numbers, torch.zeros_like(numbers))]
        if not bool(torch.all(known & (types >= 0))):
            raise RuntimeError("the model does not know an element of the system")
        return types

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        options = self.requested_neighbor_lists()[0]
        vectors: List[Tensor] = []
        indices: List[Tensor] = []
        types: List[Tensor] = []
        batches: List[Tensor] = []
        atoms: List[Tensor] = []
        offset = 0
        for k, system in enumerate(systems):
            pairs = system.get_neighbor_list(options)
            both = torch.stack([pairs.samples.column("first_atom"), pairs.samples.column("second_atom")])
            vectors.append(pairs.values.view(-1, 3).to(torch.float64))
            indices.append(both.to(torch.int64) + offset)
            types.append(self.atom_types(system.types))
            n = len(system)
            batches.append(torch.full([n], k, dtype=torch.int64, device=both.device))
            atoms.append(torch.arange(n, device=both.device))
            offset += n
        count = -1 if selected_atoms is None else len(selected_atoms)
        if count >= 0 and count != offset:
            raise RuntimeError("the model computes all atoms of a system: pair_style uqforce has ranks")
        edge_index, batch = torch.cat(indices, 1), torch.cat(batches)
        order = torch.argsort(edge_index[0], stable=True)
        edge_index = edge_index.index_select(1, order)
        edge_vec = torch.cat(vectors).index_select(0, order)
        graph = Graph(edge_vec.detach(), edge_index, torch.cat(types), batch, len(systems))
        p = self.potential.forward(graph)
        # The energy with the model's own derivatives: what is added is zero, its derivative is not.
        slope = ((edge_vec - edge_vec.detach()) * p["edge_gradient"]).sum(1)
        energies = p["energies"].index_add(0, edge_index[0], slope)
        of_systems = Labels(["system"], torch.arange(len(systems), device=batch.device).view(-1, 1))
        of_atoms = Labels(["system", "atom"], torch.stack([batch, torch.cat(atoms)], 1))
        results: Dict[str, TensorMap] = {}
        for name, output in outputs.items():
            if name == "energy" and output.sample_kind == "atom":
                results[name] = block(energies.unsqueeze(1), of_atoms, "energy")
            elif name == "energy":
                energy = energies.new_zeros(len(systems)).index_add(0, batch, energies)
                results[name] = block(energy.unsqueeze(1), of_systems, "energy")
            elif name in self.of_systems:
                values = p[name]  # [systems], or of members [members, systems]
                values = values.t() if values.dim() == 2 else values.unsqueeze(1)
                results[name] = block(values, of_systems, "energy")
            elif name.startswith("uqforce::") and name[9:] in self.of_atoms:
                results[name] = block(p[name[9:]].unsqueeze(1), of_atoms, name[9:])
        return results


def block(values: Tensor, samples: Labels, name: str) -> TensorMap:
    """values [rows, members] of the samples."""
    members = torch.arange(values.shape[1], device=values.device).view(-1, 1)
    key = Labels(["_"], torch.zeros(1, 1, dtype=torch.int64, device=values.device))
    one = TensorBlock(
        values=values,
        samples=samples,
        components=torch.jit.annotate(List[Labels], []),
        properties=Labels([name], members),
    )
    return TensorMap(keys=key, blocks=[one])


def atomistic_model(module: ExportedPotential) -> AtomisticModel:
    """The model with what it says of itself."""
    model = MetatomicPotential(module).eval()
    config = module.potential.config
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="atom")}
    outputs |= {name: ModelOutput(unit="eV", sample_kind="system") for name in model.of_systems}
    for name in model.of_atoms:
        unit = QUANTITIES[name].unit.replace("nat", "")  # metatomic has no word for it
        outputs[f"uqforce::{name}"] = ModelOutput(unit=unit, sample_kind="atom")
    capabilities = ModelCapabilities(
        outputs=outputs,
        atomic_types=[atomic_numbers[name] for name in config.type_names],
        interaction_range=float(config.r_max) * config.num_layers,
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float64",
    )
    described = ModelMetadata(name="uqforce", description="an equivariant potential with uncertainties")
    return AtomisticModel(model, described, capabilities)


def sample(module: ExportedPotential, seed: int) -> dict[str, Tensor]:
    """A structure of 27 jittered atoms, as the fresh process gives it to metatomic."""
    case = periodic_sample(module, seed)
    numbers = torch.tensor([atomic_numbers[name] for name in module.potential.config.type_names])
    edge_vec = edge_vectors(case["pos"], case["cell"], case["edge_index"], case["edge_cell_shift"].long())
    return {
        "positions": case["pos"],
        "numbers": numbers[case["atom_types"]].int(),
        "cell": case["cell"][0],
        "edge_index": case["edge_index"],
        "cell_shift": case["edge_cell_shift"].long(),
        "edge_vec": edge_vec,
    }


def expected(module: ExportedPotential, case: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the file must give, under metatomic's names."""
    model = MetatomicPotential(module)
    order = torch.argsort(case["edge_index"][0], stable=True)
    types = model.atom_types(case["numbers"])
    out = module(case["edge_vec"][order], case["edge_index"][:, order], types, torch.zeros_like(types), 1)
    wanted = {"total energy": out["energy"], "energy": out["energies"].unsqueeze(1), "forces": out["forces"]}
    wanted |= {name: out[name].view(1, -1) for name in model.of_systems}
    return wanted | {f"uqforce::{name}": out[name].unsqueeze(1) for name in model.of_atoms}


def export_metatomic(
    potential: Potential, path: str | os.PathLike, tabulation: float | None = None
) -> dict[str, Any]:
    """Write `potential` for metatomic's engines; they are given the folder PATH.extensions with our ops, too.

    Of a uqforce that is not installed but built in place there is no such folder, and the file holds the
    library's path. The file is first run in a fresh process and compared.

    Raises:
        ExportError: the fresh process failed or gave other numbers; nothing is left behind.
    """
    path = Path(path)
    module = ExportedPotential(potential, tabulation).cpu()
    cases = [sample(module, seed=1), sample(module, seed=2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as written:
        extensions = written.parent / "extensions"
        installed = LIBRARY_PATH.is_relative_to(Path(sys.prefix).resolve())
        atomistic_model(module).save(str(written), collect_extensions=str(extensions) if installed else None)
        extensions.mkdir(exist_ok=True)
        results = run_in_new_process("in_new_process_metatomic.py", [written, extensions], cases)
        for case, got in zip(cases, results):
            compare("a structure", got, expected(module, case), TOLERANCE)
        shutil.rmtree(f"{path}.extensions", ignore_errors=True)
        if installed:
            os.replace(extensions, f"{path}.extensions")
    return metadata(module)
