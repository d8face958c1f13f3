"""Results under the names of other packages, in their shapes; beside ASE's, which its calculators need."""

from collections.abc import Callable

import torch
from torch import Tensor

from uqforce.exporting.opening import call


def isolated_energies(module: torch.nn.Module, num_types: int, device: torch.device) -> Tensor:
    """Energies [T] of single atoms of each type, eV."""
    types = torch.arange(num_types, device=device)
    edges = torch.zeros(0, 3, dtype=torch.float64, device=device), types.new_zeros(2, 0)
    return call(module, *edges, types, types, num_types)["energies"]


def _nequip(out: dict[str, Tensor], isolated: Tensor) -> dict[str, Tensor]:
    return {
        "total_energy": out["energy"].view(1, 1),
        "atomic_energy": out["energies"].view(-1, 1),
        "virial": out["virial"],
        "node_features": out["features"],
    }


def _mace(out: dict[str, Tensor], isolated: Tensor) -> dict[str, Tensor]:
    named = {"node_energy": out["energies"] - isolated}
    if "energy_uncertainty" in out:
        named["energy_var"] = out["energy_uncertainty"].square().squeeze(0)
        named["forces_var"] = out["forces_covariance"].diagonal(dim1=1, dim2=2)
    return named


def _metatomic(out: dict[str, Tensor], isolated: Tensor) -> dict[str, Tensor]:
    return {"features": out["features"]}  # energy_uncertainty has its name already


NAMES: dict[str, Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]]] = {
    "ase": lambda out, isolated: {},
    "nequip": _nequip,
    "mace": _mace,
    "metatomic": _metatomic,
}
"""What each convention adds to the results, from a model's outputs and the energies [N] of its free atoms."""
