"""Writes nequip_reference.json: energies, forces and virials of nequip 0.19 for fixed weights and atoms.

Needs nequip (`pip install nequip`): python -m tests.model.make_nequip_reference
"""

import json
from pathlib import Path

import torch

from tests.model.systems import TYPES, random_system
from uqforce.exporting.nequip import to_nequip
from uqforce.model import ModelConfig, Potential
from uqforce.ops import neighbor_list

PATH = Path(__file__).with_name("nequip_reference.json")
COMMON = {
    "type_names": TYPES,
    "r_max": 3.5,
    "radial_mlp_width": 8,
    "avg_num_neighbors": {"H": 6.0, "C": 8.0, "O": 9.0},
    "per_type_energy_scales": {"H": 0.8, "C": 1.0, "O": 1.2},
    "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
    "dtype": "float64",
}
CASES = {
    "no-parity": {"num_layers": 3, "l_max": 2, "parity": False, "num_features": [6, 5, 4]},
    "parity": {
        "num_layers": 3,
        "l_max": 2,
        "parity": True,
        "num_features": [4, 3, 2],
        "bessel_trainable": True,
    },
    # Odd scalars need four layers.
    "odd-scalars": {"num_layers": 4, "l_max": 1, "parity": True, "num_features": [3, 2]},
    "l-max-4": {"num_layers": 2, "l_max": 4, "parity": True, "num_features": [3, 2, 2, 1, 2]},
    "many-options": {
        "num_layers": 3,
        "l_max": 1,
        "parity": True,
        "num_features": [5, 4],
        "type_embed_num_features": 2,
        "radial_mlp_depth": 2,
        "readout_mlp_hidden_layers_depth": 1,
        "num_bessels": 5,
        "polynomial_cutoff_p": 5.0,
        "per_edge_type_cutoff": {"H": 2.0, "C": {"O": 3.0}},
        "zbl": True,
    },
}


def filled_potential(name: str) -> Potential:
    """The case's model with weights that are a fixed function of their position."""
    potential = Potential(ModelConfig(**COMMON, **CASES[name])).eval()
    for k, (parameter_name, parameter) in enumerate(sorted(potential.named_parameters())):
        if "scale_shift" not in parameter_name and "frequencies" not in parameter_name:
            phase = 1.7 * torch.arange(parameter.numel(), dtype=torch.float64) + k
            parameter.data.copy_((1.5 * torch.sin(phase)).view(parameter.shape))
    return potential


def evaluate_nequip(potential: Potential) -> dict:
    system = random_system([7, 5], periodic=True)
    n = neighbor_list(system.positions, system.cell, system.pbc, 3.5, system.batch)
    result = to_nequip(potential)(
        {
            "pos": system.positions,
            "cell": system.cell,
            "pbc": system.pbc,
            "atom_types": system.atom_types,
            "batch": system.batch,
            "num_atoms": torch.bincount(system.batch),
            "edge_index": n.edge_index,
            "edge_cell_shift": n.cell_shift.double(),
        }
    )
    return {
        "energies": result["atomic_energy"].flatten().tolist(),
        "forces": result["forces"].tolist(),
        "virial": result["virial"].tolist(),
    }


if __name__ == "__main__":
    PATH.write_text(
        json.dumps({name: evaluate_nequip(filled_potential(name)) for name in CASES}, indent=1) + "\n"
    )
    print(f"wrote {PATH}")
