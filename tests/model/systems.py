"""Small random systems and models for the tests of the model."""

from typing import NamedTuple

import torch
from torch import Tensor

from uqforce.model import Graph, ModelConfig, Potential, Prediction
from uqforce.ops import neighbor_list

TYPES = ["H", "C", "O"]
CUTOFF = 3.5
device = torch.device("cpu")  # where evaluate() computes; the fixture `on_device` sets it


class System(NamedTuple):
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    atom_types: Tensor
    batch: Tensor


def random_system(sizes: list[int], periodic: bool, seed: int = 0) -> System:
    """Structures of the given numbers of atoms at a density of about 0.07 atoms per cubic angstrom."""
    generator = torch.Generator().manual_seed(seed)
    positions, cells = [], []
    for n in sizes:
        length = (max(n, 1) / 0.07) ** (1 / 3)
        skew = 0.15 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        cell = length * (torch.eye(3, dtype=torch.float64) + skew)
        positions.append(torch.rand(n, 3, generator=generator, dtype=torch.float64) @ cell)
        cells.append(cell)
    return System(
        torch.cat(positions),
        torch.stack(cells),
        torch.full((len(sizes), 3), periodic),
        torch.randint(0, len(TYPES), (sum(sizes),), generator=generator),
        torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
    )


def evaluate(potential: torch.nn.Module, system: System) -> Prediction:
    """The prediction, made on `device`, where the potential stays, and brought back to the CPU."""
    positions, cell, pbc, atom_types, batch = (tensor.to(device) for tensor in system)
    n = neighbor_list(positions, cell, pbc, CUTOFF, batch)
    graph = Graph(n.edge_vec, n.edge_index, atom_types, batch, len(cell))
    prediction = potential.to(device)(graph)
    found = prediction if isinstance(prediction, dict) else prediction.as_dict()  # a dictionary of a script
    return Prediction(**{name: tensor.cpu() for name, tensor in found.items()})


def assert_same(a: Prediction, b: Prediction) -> None:
    """The same quantities, to the last bit."""
    mine, theirs = a.as_dict(), b.as_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def make_potential(seed: int = 0, **fields) -> Potential:
    torch.manual_seed(seed)
    defaults = {
        "type_names": TYPES,
        "r_max": CUTOFF,
        "num_layers": 4,  # the fewest that have odd scalars
        "l_max": 2,
        "num_features": [6, 5, 4],
        "radial_mlp_width": 8,
        "avg_num_neighbors": 8.0,
        "per_type_energy_scales": {"H": 0.8, "C": 1.0, "O": 1.2},
        "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
        "dtype": "float64",
    }
    return Potential(ModelConfig(**{**defaults, **fields})).eval()
