"""The module that an exported file holds: a model that says exactly what it carries, and describes itself."""

import copy
import hashlib
from typing import Any, Dict, Final, List

import torch
from torch import Tensor

from uqforce._version import __version__
from uqforce.exporting.domain import domain_description
from uqforce.model import (
    QUANTITIES,
    Ensemble,
    Graph,
    Potential,
    first_member,
    inference_form,
    sample_structure,
)

FORMAT_VERSION = 3  # 2: `domain`, which parallel engines call; 3: with or without uncertainties


class ExportedPotential(torch.nn.Module):
    """A potential whose prediction is a dictionary of exactly what the model carries.

    `forward(edge_vec [E,3] A, edge_index [2,E], atom_types [N], batch [N], num_structures)` returns
    `energies` [N] eV, `energy` [B] eV, `forces` [N,3] eV/A, `virial` [B,3,3] eV, `edge_gradient` [E,3] eV/A
    (of the energy with respect to `edge_vec`: a parallel engine scatters it itself), and
    `features`, `nll`, `*_uncertainty`, ... where the model has them. Parallel engines call `domain`;
    `nll_gradient` returns the same and the score's gradient. This is the whole contract of an exported file,
    in Python, in C++ and inside LAMMPS. The potential is copied.

    Args:
        tabulation: error allowed to the tables of the radial networks (`InferencePotential`); 0 keeps the
            networks themselves, which is several times slower.
    """

    has_mixture: Final[bool]
    has_tables: Final[bool]

    def __init__(self, potential: Potential | Ensemble, tabulation: float | None = None):
        super().__init__()
        self.potential = (
            copy.deepcopy(potential) if tabulation == 0 else inference_form(potential, tabulation)
        )
        self.weights_sha256 = weights_sha256(potential)
        self.tabulation = {} if tabulation == 0 else self.potential.tabulation
        self.has_tables = tabulation != 0
        self.has_mixture = first_member(potential).mixture.means.shape[0] > 0
        self.eval()
        prediction = self.potential(*sample_structure(self.potential))
        self.carries: List[str] = list(prediction.as_dict())

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> Dict[str, Tensor]:
        graph = structures(edge_vec, edge_index, atom_types, batch, num_structures)
        return self.carried(self.potential.forward(graph))

    @torch.jit.export
    def nll_gradient(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        reduction: str,
    ) -> Dict[str, Tensor]:  # fmt: skip
        """What `forward` returns, and `nll_gradient` [N,3]; see `Potential.with_nll_gradient`."""
        if self.has_mixture:
            graph = structures(edge_vec, edge_index, atom_types, batch, num_structures)
            prediction, gradient = self.potential.with_nll_gradient(graph, reduction)
            out = self.carried(prediction)
            out["nll_gradient"] = gradient.data
            return out
        else:
            raise RuntimeError("the model has no mixture, hence no nll: `uqforce fit` gives it one")

    def carried(self, prediction: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """The same in the order of `carries`, without the graph."""
        out: Dict[str, Tensor] = {}
        for name in self.carries:
            out[name] = prediction[name].data
        return out

    @torch.jit.export
    def domain(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, numbers: Tensor, num_owned: int,
        exchange: bool, uncertain: bool,
    ) -> Dict[str, Tensor]:  # fmt: skip
        """One process's share of a structure, for parallel engines; see `uqforce.model.Graph`.

        numbers [N] int64 are the engine's of the atoms, the same of an atom and its ghosts.
        """
        if self.has_tables:
            batch = torch.zeros(num_owned, dtype=torch.int64, device=edge_vec.device)
            graph = Graph(edge_vec, edge_index, atom_types, batch, 1, True, exchange, numbers)
            prediction = self.potential.forward(graph, uncertain)
            out: Dict[str, Tensor] = {}
            for name in self.carries:
                if name in prediction and name != "features":
                    out[name] = prediction[name]
            return out
        else:
            raise RuntimeError("the file holds radial networks: export it without --tabulation 0")


def structures(
    edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
) -> Graph:
    """The arguments of an exported file as models take them."""
    if edge_vec.shape[0] != edge_index.shape[1]:
        raise RuntimeError(
            f"edge_vec has {edge_vec.shape[0]} rows, but edge_index {edge_index.shape[1]} columns: "
            "each is an edge"
        )
    # `.data`, not `.detach()`: freezing removes detach, and then the caller's tensor would be made to
    # require a gradient and every output would hold on to the graph.
    return Graph(edge_vec.data, edge_index, atom_types, batch, num_structures)


def weights_sha256(potential: Potential | Ensemble) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(potential.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def metadata(module: ExportedPotential) -> dict[str, Any]:
    """What an exported file says about itself (JSON)."""
    potential = module.potential
    config, members = potential.config, list(getattr(potential, "members", [potential]))
    outputs = module(*sample_structure(potential))
    return {
        "format_version": FORMAT_VERSION,
        "uqforce_version": __version__,
        "torch_version": torch.__version__,
        "type_names": list(config.type_names),
        "cutoff": config.r_max,
        "edge_type_cutoffs": config.cutoff_table(),
        "num_layers": max(member.config.num_layers for member in members),
        "dtype": config.dtype,
        "length_unit": "A",
        "outputs": {name: QUANTITIES[name].unit for name in outputs},
        "thresholds": potential.card.get("thresholds", {}),
        "card": {key: value for key, value in potential.card.items() if key != "thresholds"},
        "tabulation": module.tabulation,
        "domain": domain_description(module),
        "weights_sha256": module.weights_sha256,
    }
