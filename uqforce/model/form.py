"""What potentials, ensembles and the inference forms of both share: how an `Evaluation` becomes an answer."""

from collections.abc import Callable
from typing import Dict

import torch
from torch import Tensor, nn

from uqforce.model.graph import Graph, own_types, with_edge_vec
from uqforce.model.llpr import Rigidity
from uqforce.model.mixture import Mixture
from uqforce.model.prediction import Evaluation, results_of_share, results_of_structures
from uqforce.model.quantities import Prediction

SCORES: dict[str, Callable[[int, torch.dtype], nn.Module]] = {"mixture": Mixture, "rigidity": Rigidity}
"""Attribute of a potential -> what makes it, of the number of last features and their precision. A new score
is a module with what it computes, one with how it is fitted, a row of `quantities`, a line here, and one in
`Form.scores`."""


class Form(nn.Module):
    """A model: what it says is made of what its `evaluate` and its `scores` give.

    Attributes:
        calibration: a `Calibration`.
        local: whether the noise's slopes are those of every atom's own standard deviation.
        ddof: 0 for the moments of the mixture of the members' distributions, 1 for the covariance of samples.
    """

    def __call__(self, *graph) -> Prediction:
        """Evaluate a batch of structures.

        Args:
            graph: a `Graph`, or its fields: edge_vec [E,3] A, edge_index [2,E], atom_types [N], batch [N] and
                the number of structures.

        The gradient by edge_vec is taken here, so a graph of derivatives behind it is not needed. In training
        mode forces keep theirs for a second backward pass.
        """
        whole = graph[0] if isinstance(graph[0], Graph) else Graph(*graph)
        return Prediction(**super().__call__(whole))

    def forward(self, graph: Graph, uncertain: bool = True) -> Dict[str, Tensor]:
        """A dictionary of what the model carries, by the names of `Prediction`.

        Of a share of a structure (`graph.parallel`) that is what a parallel engine makes forces and virials
        of: `edge_gradient` is that of the energy of all processes' own atoms by this process's edges (with
        `exchange`), or of its own atoms alone. A share that is not `uncertain` has energies, edge gradient
        and features, and saves time; structures always have everything.
        """
        return self.results(self.evaluate(graph, "", uncertain)[0], graph, uncertain)

    def with_nll_gradient(self, graph: Graph, reduction: str) -> tuple[Dict[str, Tensor], Tensor]:
        """What `forward` returns, and d(the structures' scores) / d(positions) [N,3] nat/A.

        The score is the `reduction` "mean", "max" or "sum" of the `nll` of a structure's atoms. The mixture
        must be fitted, the model in evaluation mode.
        """
        e, score_gradient = self.evaluate(graph, reduction, True)
        return self.results(e, graph, True), score_gradient

    def results(self, e: Evaluation, graph: Graph, uncertain: bool) -> Dict[str, Tensor]:
        graph = with_edge_vec(graph, graph.edge_vec.detach().to(torch.float64))
        if graph.parallel:
            out = results_of_share(e, graph, self.ddof, uncertain)
        else:
            out = results_of_structures(e, graph, self.local, self.ddof)
        if uncertain:
            out.update(self.scores(e.features, graph))
            if not self.training:
                out = self.calibration(out, graph)
        return out

    def scores(self, features: Tensor, graph: Graph) -> Dict[str, Tensor]:
        """Scores of atoms [n] and of structures [B] by their features [n,D]: those that are fitted."""
        out: Dict[str, Tensor] = {}
        if self.mixture.means.shape[0] > 0:
            out["nll"] = self.mixture(features, own_types(graph))
        if not self.training:
            out.update(self.rigidity(features, self.energy_scales(own_types(graph)), graph))
        return out
