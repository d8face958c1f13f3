"""The potential as a model of torch-sim: many systems in one evaluation, uncertainties beside the forces.

This module alone imports torch_sim.
"""

import os
from collections.abc import Callable

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from uqforce.device import choose_device
from uqforce.engines.calculator import PLAIN
from uqforce.errors import InputError, InstallationError, NotFiniteError
from uqforce.evaluation.structure_scores import structure_scores
from uqforce.exporting.opening import call, open_model
from uqforce.model import QUANTITIES, Ensemble, Potential
from uqforce.ops import NeighborList, neighbor_list

try:
    from torch_sim import SimState
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise InstallationError(
        "uqforce.engines.torchsim needs torch-sim: pip install 'uqforce[torchsim]'"
    ) from error


class TorchSimModel(ModelInterface):
    """A uqforce model as torch-sim's `ModelInterface`: one neighbour list and one evaluation for all systems.

    `model(state)` returns, of B systems with N atoms in all, `energy` [B] (eV), `forces` [N,3] (eV/A),
    `stress` [B,3,3] (eV/A^3; NaN where the cell has no volume), `energies` [N] (eV), and every uncertainty
    that the model carries under the names of `uqforce.Calculator`: `nll` [N], `nll_max` [B],
    `energy_uncertainty` [B], `forces_uncertainty` [N], ... The first axis is that of the systems or the
    atoms, by which torch-sim divides results; members of an ensemble are the second (`forces_ensemble`
    [N,M,3]).

    Args:
        model: an exported file (`*.pt`, `*.pt2`), a model (`*.uqf`), or a model in memory.
        device: "cpu", "cuda[:k]", or "auto": CUDA where this machine and this build have it.
        dtype: of states and results. The network computes in its own precision either way; float32 results
            hold an energy of 10 keV to 1 meV only.
        memory_scales_with: torch-sim's measure for automatic batches. Molecules, whose cells have no volume
            and hence no density, need "n_atoms".

    Raises on use:
        InputError: a state of another device or dtype, an element the model does not know, positions, a
            cell or pbc that make no sense.
        NotFiniteError: the model returned an energy or a force that is not finite.
    """

    def __init__(
        self,
        model: str | os.PathLike | Potential | Ensemble,
        device: str = "auto",
        dtype: torch.dtype = torch.float64,
        memory_scales_with: str = "n_atoms_x_density",
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
        self._device = torch.empty(0, device=choose_device(device)).device  # with its index
        self._dtype = dtype
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = memory_scales_with
        self.module, self.metadata = open_model(model, self._device)
        names = self.metadata["type_names"]
        self._types = torch.full((len(chemical_symbols),), -1, device=self._device)
        self._types[[atomic_numbers[name] for name in names]] = torch.arange(len(names), device=self._device)
        self._last: tuple[list[Tensor], Tensor, dict[str, Tensor]] | None = None
        self._reported = 0

    def forward(self, state: SimState) -> dict[str, Tensor]:
        """What the model says of the systems of `state`; see the class."""
        if state.device != self._device or state.dtype != self._dtype:
            raise InputError(
                f"the state is {state.dtype} on {state.device}, the model was made for {self._dtype} on "
                f"{self._device}: convert it with state.to(model.device, model.dtype)"
            )
        inputs = self.inputs(state)
        positions, cell, pbc = inputs[0].double(), inputs[1].double(), inputs[2]
        types, batch, size = self.atom_types(inputs[3], state.system_idx), state.system_idx, len(cell)
        try:
            edges = neighbor_list(positions, cell, pbc, self.metadata["cutoff"], batch)
        except ValueError as error:
            raise InputError(str(error)) from error
        out = call(self.module, edges.edge_vec, edges.edge_index, types, batch, size)
        if not (out["energy"].isfinite().all() and out["forces"].isfinite().all()):
            raise not_finite(out, batch, edges)

        volume = torch.linalg.det(cell).abs()
        volume = torch.where((volume > 0) & pbc.any(1), volume, torch.nan)
        results = {key: out[key] for key in ("energy", "forces", "energies")}
        results["stress"] = -out["virial"] / volume.view(-1, 1, 1)
        for key in [key for key in out if key not in PLAIN]:
            results[key] = out[key].transpose(0, 1) if QUANTITIES[key].axis == "member" else out[key]
        if "nll" in out:
            scores = structure_scores(out["nll"].cpu(), batch.cpu(), size)
            results |= {f"nll_{kind}": torch.from_numpy(value) for kind, value in scores._asdict().items()}
        results = {key: value.to(self._device, self._dtype) for key, value in results.items()}
        self._last, self._reported = (inputs, batch.clone(), results), 0
        return results

    def inputs(self, state: SimState) -> list[Tensor]:
        """What the results are of, copied: integrators may write where the state's own are.

        Returns: positions [N,3], cell [B,3,3] (rows are lattice vectors), pbc [B,3], atomic numbers [N],
            atoms of each system [B].
        """
        pbc = torch.as_tensor(state.pbc, dtype=torch.bool, device=self._device)
        if pbc.shape not in ((), (3,)):
            raise InputError(f"pbc must be one bool or three for all systems, got shape {list(pbc.shape)}")
        cell = state.row_vector_cell.detach().clone(memory_format=torch.contiguous_format)
        numbers = state.atomic_numbers.to(torch.int64, copy=True)
        atoms = torch.bincount(state.system_idx, minlength=len(cell))
        return [state.positions.detach().clone(), cell, pbc.expand(len(cell), 3).contiguous(), numbers, atoms]

    def atom_types(self, numbers: Tensor, batch: Tensor) -> Tensor:
        """Types [N] of the atoms.

        Raises:
            InputError: an element that the model was not trained on.
        """
        known = (numbers >= 0) & (numbers < len(self._types))
        types = torch.where(known, self._types[torch.where(known, numbers, 0)], -1)
        if (types < 0).any():
            first = int((types < 0).nonzero()[0])
            number, names = int(numbers[first]), ", ".join(self.metadata["type_names"])
            symbol = chemical_symbols[number] if known[first] else f"atomic number {number}"
            raise InputError(
                f"the model does not know {symbol} (atom {first}, of system {int(batch[first])}): "
                f"it was made for {names}"
            )
        return types

    def result(self, name: str, state: SimState) -> Tensor:
        """The result `name` of a state: out of the last evaluation if that held it, else evaluated.

        torch-sim's reporter goes through the systems of a batch in order and asks for one quantity after the
        other, so beside the whole batch the system reported last and the one after it are looked at.

        Raises:
            InputError: the model does not carry the quantity.
        """
        inputs = self.inputs(state)
        if self._last is not None:
            before, batch, results = self._last
            if all(map(torch.equal, inputs, before)):
                return carried(results, name)
            for k in (self._reported, self._reported + 1):
                if all(map(torch.equal, inputs, (rows_of(values, batch, k) for values in before))):
                    self._reported = k
                    return rows_of(carried(results, name), batch, k)
        return carried(self(state), name)


def reported(*names: str) -> dict[str, Callable[[SimState, TorchSimModel], Tensor]]:
    """Property calculators for torch-sim's `TrajectoryReporter`: `prop_calculators={10: reported("nll")}`.

    They give what the last step computed (`TorchSimModel.result`).
    """
    return {name: lambda state, model, name=name: model.result(name, state) for name in names}


def carried(results: dict[str, Tensor], name: str) -> Tensor:
    if name not in results:
        raise InputError(f"the model does not carry {name} (it carries {', '.join(results)})")
    return results[name]


def rows_of(values: Tensor, batch: Tensor, k: int) -> Tensor:
    """The rows of system k in values [N, ...] of the atoms, or [B, ...] of the systems."""
    if len(values) != len(batch):
        return values[k : k + 1]
    first, end = torch.searchsorted(batch, torch.tensor([k, k + 1], device=batch.device)).tolist()
    return values[first:end]


def not_finite(out: dict[str, Tensor], batch: Tensor, edges: NeighborList) -> NotFiniteError:
    """What to raise, with the first system that is not finite."""
    wrong = ~out["energy"].isfinite()
    wrong[batch[~out["forces"].isfinite().all(1)]] = True
    system = int(wrong.nonzero()[0])
    lengths = edges.edge_vec[batch[edges.edge_index[0]] == system].norm(dim=1)
    closest = lengths.min().item() if len(lengths) else float("inf")
    return NotFiniteError(
        f"the model returned an energy or forces that are not finite for system {system}; its closest two "
        f"atoms are {closest:.3f} A apart"
    )
