"""The potential: network, noise, mixture and derivatives in one scriptable module."""

from typing import Optional

import torch
from torch import Tensor

from uqforce.errors import ModelError
from uqforce.model.calibration import Calibration
from uqforce.model.config import ModelConfig
from uqforce.model.form import Form
from uqforce.model.llpr import Rigidity
from uqforce.model.mixture import Mixture
from uqforce.model.network import DTYPES, Network
from uqforce.model.noise import make_noise
from uqforce.model.prediction import (
    Evaluation,
    Prediction,
    by_positions,
    derived,
    detached,
    of_member,
)


class Potential(Form):
    """Computes energies, forces, virials, features and uncertainties of a batch of structures.

    `potential(edge_vec [E,3] A, edge_index [2,E], atom_types [N], batch [N], num_structures)` returns a
    `Prediction`: energy [B] eV, forces [N,3] eV/A, virial [B,3,3] eV, nll [N], ...

    Args:
        config: the architecture.

    Attributes:
        card: what is known of the model (data, units, accuracy, thresholds); plain JSON values.

    Example:
        >>> import torch, uqforce
        >>> config = uqforce.ModelConfig(type_names=["Cu"], r_max=3.5, num_features=[4])
        >>> potential = uqforce.Potential(config).eval()
        >>> pair = torch.tensor([[2.5, 0.0, 0.0], [-2.5, 0.0, 0.0]], dtype=torch.float64)
        >>> zero = torch.tensor([0, 0])
        >>> potential(pair, torch.tensor([[0, 1], [1, 0]]), zero, zero, 1).forces.shape
        torch.Size([2, 3])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.card: dict = {}
        self.dropout = config.dropout
        self.network = Network(config)
        self.mixture = Mixture(self.network.num_last_features, DTYPES[config.dtype])
        self.rigidity = Rigidity()
        self.calibration = Calibration()
        self.noise = make_noise(config, self.network.num_last_features, config.heads)
        self.local, self.ddof = self.noise.local, 0

    def set_mixture(
        self,
        means: Tensor,
        precisions_cholesky: Tensor,
        log_weights: Tensor,
        projection: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        """Store a fitted mixture: means [M,K], precisions_cholesky [M,K,K], log_weights [M], kept in float64.

        It is one of the model's D last features, K = D, or of `features @ projection`, projection [D,K].
        `counts` [T] gives each type its own mixture, of that many of the M components, in order.

        Raises:
            ModelError: the shapes do not fit the model's features.
        """
        d = self.network.num_last_features
        m, k = means.shape[0], d if projection is None else projection.shape[-1]
        wanted = [(m, k), (m, k, k), (m,)]
        found = [tuple(t.shape) for t in (means, precisions_cholesky, log_weights)]
        if projection is not None:
            wanted.append((d, k))
            found.append(tuple(projection.shape))
        if found != wanted:
            raise ModelError(f"mixture of shapes {found} does not fit {d} features: wanted {wanted}")
        types = len(self.config.type_names)
        if counts is not None and (counts.shape != (types,) or counts.sum() != m or counts.min() < 1):
            raise ModelError(
                f"mixture counts {counts.tolist()} must give each of {types} types some of {m} components"
            )
        self.mixture.store(
            projection, counts, means=means, precisions_cholesky=precisions_cholesky, log_weights=log_weights
        )

    def scores(
        self, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mixture's nll [N] of features [N,D], and their rigidities, of atoms [N] and structures [B]."""
        scales = self.network.scale_shift.scales[atom_types]
        return self.mixture(features, atom_types), self.rigidity(features, scales, batch, num_structures)

    @torch.jit.unused
    def of_members(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> list[Prediction]:
        """What each head says by itself, from one pass through the network; arguments as in `forward`."""
        e = self.evaluate(edge_vec, edge_index, atom_types, batch, num_structures, "")[0]
        nll, edge_vec = self.mixture(e.features, atom_types), edge_vec.detach().to(torch.float64)
        return [
            derived(of_member(e, m), nll, edge_index, edge_vec, batch, num_structures, self.local, 0)
            for m in range(e.energies.shape[0])
        ]

    def dropout_factors(self, batch: Tensor, num_structures: int) -> Optional[Tensor]:
        """Factors [N,D] of the last features in training with dropout, the same for a structure's atoms."""
        if not self.training or self.dropout == 0.0:
            return None
        size = [num_structures, self.network.num_last_features]
        kept = torch.full(size, 1.0 - self.dropout, dtype=self.network.dtype, device=batch.device)
        return (torch.bernoulli(kept) / (1.0 - self.dropout))[batch]

    def evaluate(
        self,
        edge_vec: Tensor,
        edge_index: Tensor,
        atom_types: Tensor,
        batch: Tensor,
        num_structures: int,
        reduction: str,
    ) -> tuple[Evaluation, Tensor]:
        """What predictions are made of, and the scores' gradient; arguments as in `with_nll_gradient`."""
        if reduction != "" and self.training:
            raise RuntimeError("the gradient of nll is for evaluation: call eval() first")
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "a potential takes gradients for its forces: call it outside of torch.no_grad()"
            )
        edge_vec = edge_vec.to(torch.float64)
        if not edge_vec.requires_grad:
            edge_vec = edge_vec.detach().requires_grad_(True)
        edges = self.network.embed(edge_vec, edge_index, atom_types)
        kept = self.dropout_factors(batch, num_structures)
        energies, features = self.network.propagate(edges, edge_index, atom_types, kept)
        terms = self.noise(features, edges, edge_index, atom_types, batch, num_structures)
        keep, with_score = self.training, reduction != ""
        scalars = torch.cat([energies.sum(1), terms.roots])
        gradients = _gradients(scalars, edge_vec, keep, keep or with_score)
        members = energies.shape[0]
        slopes, halves = self.noise.split(gradients[members:], terms, edge_index, batch)
        evaluation = Evaluation(
            energies, gradients[:members], features, terms.variances, terms.variance, terms.diagonal,
            terms.strain, slopes, halves,
        )  # fmt: skip
        of_score = edge_vec.new_zeros(0, 3)
        if with_score:
            cotangent = self.mixture.cotangent(features, atom_types, batch, num_structures, reduction)
            of_edges = _gradients((features * cotangent).sum().view(1), edge_vec, False, False)[0]
            of_score = by_positions(edge_index, edge_vec.detach(), of_edges, batch, num_structures)
        return evaluation if self.training else detached(evaluation), of_score


def _gradients(scalars: Tensor, edge_vec: Tensor, create_graph: bool, retain_graph: bool) -> Tensor:
    """scalars [K] -> their derivatives by the edges [K,E,3]; zeros where one does not depend on them."""
    rows: list[Tensor] = []
    last = scalars.shape[0] - 1
    for k, scalar in enumerate(scalars.unbind()):
        row: Optional[Tensor] = None
        if scalar.requires_grad:
            row = torch.autograd.grad(
                [scalar], [edge_vec], retain_graph=retain_graph or k < last, create_graph=create_graph,
                allow_unused=True,
            )[0]  # fmt: skip
        rows.append(torch.zeros_like(edge_vec) if row is None else row)
    return torch.stack(rows)
