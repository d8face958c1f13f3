"""Last-layer prediction rigidity: how far the training data fix the energies, by linear algebra alone."""

from typing import Dict

import torch
from torch import Tensor, nn

from uqforce.model.graph import Graph
from uqforce.model.prediction import sum_by_structure


class Rigidity(nn.Module):
    """Standard deviations of energies when only the last linear map is uncertain; empty until fitted.

    Energies are linear in the last weights, E = sum_i scale_i f_i . w. With `factor @ factor.T` the inverse
    of the training loss' second derivative by w, a structure's energy has the variance
    |factor^T sum_i scale_i f_i|^2, and an atom's that of its own term (Bigi et al., arXiv:2403.02251).

    `factor` [D,D] is float64, as what is computed: the second derivative's eigenvalues span many decades.
    """

    def __init__(self, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("factor", None)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """The state decides whether there is a factor."""
        self.store(state_dict.get(prefix + "factor"))

    @torch.jit.unused
    def store(self, factor: Tensor | None) -> None:
        """Keep this factor [D,D], or none."""
        self.factor = None if factor is None else factor.detach().to(torch.float64, copy=True).contiguous()

    def forward(self, features: Tensor, scales: Tensor, graph: Graph) -> Dict[str, Tensor]:
        """features [n,D], energy scales of the atoms [n] eV -> `llpr` [n], `energy_llpr` [B], eV; or none.

        Of a share of a structure there is `llpr` alone.
        """
        out: Dict[str, Tensor] = {}
        if self.factor is None:
            return out
        rows = torch.matmul(features.detach().to(torch.float64) * scales.detach().unsqueeze(1), self.factor)
        out["llpr"] = torch.linalg.vector_norm(rows, dim=1)
        if not graph.parallel:
            whole = sum_by_structure(rows, graph.batch, graph.num_structures)
            out["energy_llpr"] = torch.linalg.vector_norm(whole, dim=1)
        return out
