"""The potential as an ASE calculator: neighbour list reused between steps, uncertainty watched."""

import os
import warnings
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes
from ase.outputs import Properties, all_outputs
from torch import Tensor

from uqforce.device import choose_device
from uqforce.engines.conventions import NAMES, isolated_energies
from uqforce.errors import InputError, NotFiniteError, UncertaintyExceeded, UncertaintyWarning
from uqforce.evaluation.structure_scores import StructureScores, structure_scores
from uqforce.exporting.opening import call, open_model
from uqforce.model import QUANTITIES, Potential
from uqforce.ops import edge_vectors, neighbor_list

PLAIN = tuple(name for name, entry in QUANTITIES.items() if entry.kind in ("value", "feature"))
"""Outputs of a model that are not uncertainties."""


def exceeded(atoms: Atoms, results: dict[str, Any], limits: dict[str, float]) -> UncertaintyExceeded | None:
    """The first quantity of `limits` that the worst atom exceeds, if any; NaN exceeds every limit."""
    for quantity, limit in limits.items():
        values = results[quantity]
        atom = int(np.argmax(values))
        if not values[atom] <= limit:
            return UncertaintyExceeded(quantity, atom, atoms.symbols[atom], values[atom], limit)
    return None


def of_one_structure(name: str, value: np.ndarray) -> float | np.ndarray:
    """A result without the axis of the structures, of which there is one."""
    if name in ("energy_ensemble", "virial_ensemble"):
        return value[:, 0]
    if name not in QUANTITIES or QUANTITIES[name].axis != "structure":
        return value
    return float(value[0]) if value.ndim == 1 else value[0]


class VerletList:
    """The neighbour list of one structure, made at cutoff + skin and reused while it is provably complete.

    A pair within the cutoff now was within cutoff + skin when the list was made if no atom has moved more
    than skin/2 since; then dropping the edges beyond the cutoff gives exactly the list of a fresh search, in
    its order (centre, neighbour, shift), so that results do not depend on when the list was made. A changed
    cell, pbc or number of atoms makes a new list.

    It pays where making a list is expensive. On the CPU it is not: the walks over the longer list take more
    than twice as long as making a new one (docs/usage.md).
    """

    def __init__(self, cutoff: float, skin: float):
        if not skin >= 0:
            raise InputError(f"skin must not be negative, got {skin} A")
        self.cutoff, self.skin = cutoff, skin
        self.rebuilds = 0
        self._positions: Tensor | None = None
        self._index: Tensor
        self._shift: Tensor

    def edges(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
        """positions [N,3], cell [1,3,3], pbc [1,3] -> edge_vec [E,3], edge_index [2,E] within the cutoff."""
        if self._is_complete(positions, cell, pbc):
            edge_vec = edge_vectors(positions, cell, self._index, self._shift)
        else:
            self._index, self._shift, edge_vec = neighbor_list(positions, cell, pbc, self.cutoff + self.skin)
            self._positions, self._cell, self._pbc = positions.clone(), cell.clone(), pbc.clone()
            self.rebuilds += 1
        if self.skin == 0:
            return edge_vec, self._index
        x, y, z = edge_vec.unbind(1)
        near = (x * x + y * y + z * z < self.cutoff**2).nonzero().squeeze(1)  # as neighbor_list compares
        return edge_vec.index_select(0, near), self._index.index_select(1, near)

    def _is_complete(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> bool:
        if self._positions is None or self._positions.shape != positions.shape:
            return False
        if not (torch.equal(cell, self._cell) and torch.equal(pbc, self._pbc)):
            return False
        moved = (positions - self._positions).square().sum(1).max()
        # Not-a-number compares false: the list is made anew and the op says what is wrong.
        return bool(moved <= (0.5 * self.skin) ** 2)


class Calculator(BaseCalculator):
    """Gives ASE the energies, forces, stresses and uncertainties of a model.

    Results: `energy`, `free_energy` (eV), `energies` [N], `forces` [N,3] (eV/A), `stress` [6] (eV/A^3, for
    periodic structures), and what else of `uqforce.model.Prediction` the model carries, under its name, such
    as `nll` [N], `energy_uncertainty` (eV), `forces_uncertainty` [N] and `forces_error` [N] (eV/A). With
    `nll` also the structure's `nll_mean`, `nll_max`, `nll_sum`, and, if asked for, `nll_gradient` [N,3]
    (nat/A).

    Args:
        model: an exported file (`*.pt`), a model (`*.uqf`) or a `Potential`.
        device: "cpu", "cuda[:k]", or "auto": CUDA where this machine and this build have it.
        skin: how much further than the cutoff the neighbour list reaches, A; 0 makes a new list each time.
        nll_threshold: largest `nll` of an atom that is trusted: a number, or the name of a quantile of the
            training atoms' scores that `uqforce fit` stored in the model, "q0.99", "q0.999" or "max".
        forces_uncertainty_threshold: largest `forces_uncertainty` of an atom that is trusted, eV/A.
        on_exceeded: "warn" (`UncertaintyWarning`) or "raise" (`UncertaintyExceeded`).
        names: whose names to give results in addition, with these packages' shapes: "ase" (none), "nequip"
            (`total_energy`, `atomic_energy`, `virial`, `node_features`), "mace" (`node_energy`, without the
            energies of free atoms; with a variance head `energy_var` and `forces_var` [N,3], variances of a
            model where MACE has those of a committee) or "metatomic" (`features`).
        nll_gradient: "mean", "max" or "sum": also compute the derivative by the positions of that score of
            the structure; a force along it drives dynamics to what the model does not know.

    Raises on use:
        InputError: no atoms, an element the model does not know, positions or a cell that make no sense.
        NotFiniteError: the model returned an energy or a force that is not finite.
        UncertaintyExceeded: an atom is above a threshold, with `on_exceeded="raise"`.

    Example:
        >>> import ase.io, uqforce
        >>> atoms = ase.io.read("test.xyz")
        >>> atoms.calc = uqforce.Calculator("model.pt", device="cpu")
        >>> atoms.get_forces().shape, atoms.calc.results["nll"].shape
        ((4, 3), (4,))
    """

    name = "uqforce"

    def __init__(
        self,
        model: str | os.PathLike | Potential,
        device: str = "auto",
        skin: float = 0.0,
        nll_threshold: float | str | None = None,
        forces_uncertainty_threshold: float | None = None,
        on_exceeded: Literal["warn", "raise"] = "warn",
        names: Literal["ase", "nequip", "mace", "metatomic"] = "ase",
        nll_gradient: Literal["mean", "max", "sum"] | None = None,
    ):
        super().__init__()
        if on_exceeded not in ("warn", "raise"):
            raise InputError(f"on_exceeded must be 'warn' or 'raise', got {on_exceeded!r}")
        if names not in NAMES:
            raise InputError(f"names must be one of {', '.join(NAMES)}, got {names!r}")
        self.names = names
        self.device = choose_device(device)
        self.module, self.metadata = open_model(model, self.device)
        self.on_exceeded = on_exceeded
        outputs = self.metadata["outputs"]
        self.uncertainties = [key for key in outputs if key not in PLAIN]
        if "nll" in outputs:
            self.uncertainties += [f"nll_{kind}" for kind in StructureScores._fields]
        self.nll_gradient = nll_gradient
        if nll_gradient is not None:
            self.check_nll_gradient(nll_gradient)
            self.uncertainties.append("nll_gradient")
        self.implemented_properties = [
            "energy",
            "free_energy",
            "energies",
            "forces",
            "stress",
            *self.uncertainties,
        ]
        self.isolated_energies = isolated_energies(self.module, len(self.metadata["type_names"]), self.device)
        limits = {"nll": nll_threshold, "forces_uncertainty": forces_uncertainty_threshold}
        self.thresholds = {
            key: self.threshold(key, limit) for key, limit in limits.items() if limit is not None
        }
        self.neighbors = VerletList(self.metadata["cutoff"], skin)
        self._types = {symbol: index for index, symbol in enumerate(self.metadata["type_names"])}

    def check_nll_gradient(self, reduction: str) -> None:
        """Raises a `InputError` where the model cannot give it."""
        if reduction not in StructureScores._fields:
            kinds = ", ".join(StructureScores._fields)
            raise InputError(f"nll_gradient must be one of {kinds}, got {reduction!r}")
        if "nll" not in self.uncertainties:
            raise InputError("nll_gradient: the model carries no nll; `uqforce fit` adds it to a model")
        if not hasattr(self.module, "nll_gradient"):
            raise InputError(
                "nll_gradient: this file is an AOTInductor package or was written by an older uqforce, which "
                "lack it: export the model to TorchScript"
            )

    def threshold(self, quantity: str, limit: float | str) -> float:
        """`limit` itself, or the one stored in the model by that name (nll: "q0.99", ..., "max").

        Raises:
            InputError: the model does not carry the quantity, or stores no such threshold.
        """
        if quantity not in self.uncertainties:
            raise InputError(
                f"a threshold on {quantity} was given, but the model does not carry it (it carries "
                f"{', '.join(self.uncertainties) or 'no uncertainty'}); `uqforce fit` adds nll to a model"
            )
        if not isinstance(limit, str):
            return float(limit)
        stored = self.metadata["thresholds"].get(quantity, {})
        if limit not in stored:
            names = ", ".join(stored) or "none"
            raise InputError(
                f"threshold {limit!r} on {quantity} is not stored in the model (it stores {names})"
            )
        return float(stored[limit])

    def atom_types(self, atoms: Atoms) -> Tensor:
        """Types [N] of the atoms.

        Raises:
            InputError: an element that the model was not trained on.
        """
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - set(self._types))
        if unknown:
            raise InputError(
                f"the model does not know {', '.join(unknown)} (in {atoms.get_chemical_formula()}): "
                f"it was made for {', '.join(self._types)}"
            )
        return torch.tensor([self._types[symbol] for symbol in symbols], device=self.device)

    def export_properties(self) -> Properties:
        """The results that ASE has a definition of (`Atoms.get_properties`)."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def calculate(self, atoms: Atoms, properties=None, system_changes=all_changes) -> None:
        if len(atoms) == 0:
            raise InputError("the structure has no atoms")
        types = self.atom_types(atoms)
        positions = torch.tensor(atoms.positions, device=self.device)
        cell = torch.tensor(atoms.cell.array, device=self.device).unsqueeze(0)
        pbc = torch.tensor(atoms.pbc, device=self.device).unsqueeze(0)
        try:
            edge_vec, edge_index = self.neighbors.edges(positions, cell, pbc)
        except ValueError as error:
            raise InputError(f"{atoms.get_chemical_formula()}: {error}") from error
        out = call(self.module, edge_vec, edge_index, types, torch.zeros_like(types), 1, self.nll_gradient)

        if not (out["energy"].isfinite().all() and out["forces"].isfinite().all()):
            closest = edge_vec.norm(dim=1).min().item() if len(edge_vec) else float("inf")
            raise NotFiniteError(
                "the model returned an energy or forces that are not finite for "
                f"{atoms.get_chemical_formula()}; its closest two atoms are {closest:.3f} A apart"
            )
        energy = out["energy"].item()
        results = {"energy": energy, "free_energy": energy}
        for key in ("energies", "forces"):
            results[key] = out[key].detach().cpu().numpy().astype(np.float64)
        if atoms.cell.rank == 3 and atoms.pbc.any():
            stress = -out["virial"][0].detach().cpu().numpy().astype(np.float64) / atoms.get_volume()
            results["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]
        for key in self.uncertainties:
            if key in out:
                results[key] = of_one_structure(key, out[key].detach().cpu().numpy().astype(np.float64))
        if "nll" in results:
            scores = structure_scores(results["nll"], np.zeros(len(atoms), dtype=np.int64), 1)
            results |= {f"nll_{kind}": float(value[0]) for kind, value in scores._asdict().items()}
        for key, value in NAMES[self.names](out, self.isolated_energies[types]).items():
            results[key] = value.detach().cpu().numpy()
        self.results = results
        found = exceeded(atoms, results, self.thresholds)
        if found and self.on_exceeded == "raise":
            raise found
        if found:
            warnings.warn(str(found), UncertaintyWarning, stacklevel=2)
