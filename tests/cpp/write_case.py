"""Writes what the C++ driver reads: an exported model, and a structure with energy and forces.

python write_case.py FOLDER  ->  FOLDER/model.pt, FOLDER/structure.txt
"""

import sys
from pathlib import Path

import torch

from uqforce.exporting.export import export
from uqforce.exporting.opening import call, open_model
from uqforce.model import ModelConfig, Potential
from uqforce.ops import neighbor_list

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
potential = Potential(
    ModelConfig(type_names=["C", "H", "O"], r_max=4.0, num_layers=2, l_max=2, num_features=[8])
)
potential.eval()
export(potential, folder / "model.pt")

grid = torch.cartesian_prod(*[torch.arange(3, dtype=torch.float64)] * 3)
positions = 1.9 * grid + 0.3 * torch.rand(27, 3, dtype=torch.float64)
cell = torch.tensor([[[5.7, 0.0, 0.0], [0.4, 5.7, 0.0], [0.0, -0.3, 5.9]]], dtype=torch.float64)
pbc = torch.tensor([[True, True, False]])
types = torch.arange(27) % 3
neighbors = neighbor_list(positions, cell, pbc, 4.0)
module, _ = open_model(potential)
expected = call(module, neighbors.edge_vec, neighbors.edge_index, types, torch.zeros_like(types), 1)

lines = [[27], cell.flatten().tolist(), [1, 1, 0], expected["energy"].tolist()]
lines += torch.cat([types[:, None], positions, expected["forces"]], dim=1).tolist()
(folder / "structure.txt").write_text(
    "\n".join(" ".join(f"{value:.17g}" for value in line) for line in lines) + "\n"
)
