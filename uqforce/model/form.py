"""What potentials, ensembles and the inference forms of both share: how an `Evaluation` becomes an answer."""

from typing import Optional

import torch
from torch import Tensor, nn

from uqforce.model.prediction import DomainPrediction, Prediction, derived, of_domain


class Form(nn.Module):
    """A model: what it says is made of what its `evaluate` and its `scores` give.

    Attributes:
        calibration: a `Calibration`.
        local: whether the noise's slopes are those of every atom's own standard deviation.
        ddof: 0 for the moments of the mixture of the members' distributions, 1 for the covariance of samples.
    """

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> Prediction:
        """Evaluate a batch.

        Args:
            edge_vec: [E,3] A, any float type; its gradient is taken here, so a graph behind it is not needed.
            edge_index: [2,E] int64, row 0 centre, row 1 neighbour, sorted by centre.
            atom_types: [N] int64 indices into `config.type_names`.
            batch: [N] int64 structure of each atom, ascending.
            num_structures: B.

        In training mode forces keep the graph for a second backward pass.
        """
        return self.with_nll_gradient(edge_vec, edge_index, atom_types, batch, num_structures, "")[0]

    def with_nll_gradient(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        reduction: str,
    ) -> tuple[Prediction, Tensor]:  # fmt: skip
        """The prediction, and d(the structures' scores) / d(positions) [N,3] nat/A.

        The score is the `reduction` "mean", "max" or "sum" of the `nll` of a structure's atoms; with "" there
        is no gradient, [0,3]. The mixture must be fitted, the model in evaluation mode.
        """
        e, of_score = self.evaluate(edge_vec, edge_index, atom_types, batch, num_structures, reduction)
        nll, rigidity = self.scores(e.features, atom_types, batch, num_structures)
        edge_vec = edge_vec.detach().to(torch.float64)
        prediction = derived(e, nll, edge_index, edge_vec, batch, num_structures, self.local, self.ddof)
        if not self.training:
            prediction = self.calibration(prediction, rigidity, batch, num_structures)
        return prediction, of_score


class DomainForm(Form):
    """A form that parallel engines run too: it has `evaluate_domain`."""

    @torch.jit.export
    def domain(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int, exchange: bool,
        uncertain: bool, numbers: Optional[Tensor] = None,
    ) -> DomainPrediction:  # fmt: skip
        """One process's share of one structure that a parallel engine divides among many.

        Args:
            edge_vec, edge_index: as in `forward`.
            atom_types: [N], the process's own atoms first, then its ghosts.
            num_owned: number of own atoms, n.
            exchange: True: the centres of edges are own atoms, and ghosts' features come from their owners
                (`ghost_exchange`); False: every ghost within (layers - 1) cutoffs has its own edges.
            uncertain: False leaves all but energies, edge gradient and features empty, and saves time.
            numbers: [N] int64, the engine's numbers of the atoms, the same of images. Without them a ghost is
                an atom of its own to noise `local`: wrong where a cell is smaller than two cutoffs.

        Returns:
            `edge_gradient` is that of the energy of all processes' own atoms by this process's edges (with
            `exchange`), or of its own atoms alone. The engine makes forces and virials of it.
        """
        edge_vec = edge_vec.detach().to(torch.float64)
        batch = torch.zeros(num_owned, dtype=torch.int64, device=edge_vec.device)
        e, trace = self.evaluate_domain(edge_vec, edge_index, atom_types, batch, exchange, uncertain, numbers)
        nll = edge_vec.new_zeros(0)
        rigidity = (nll, nll)
        if uncertain:
            nll, rigidity = self.scores(e.features, atom_types[:num_owned], batch, 1)
        prediction = of_domain(e, nll, trace, edge_index, atom_types.shape[0], self.ddof, uncertain)
        return self.calibration.of_domain(prediction, rigidity)
