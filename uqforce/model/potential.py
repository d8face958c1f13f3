"""The potential: network, noise, mixture and derivatives in one scriptable module."""

from typing import Optional

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.backbone import make_backbone
from uqforce.model.calibration import Calibration
from uqforce.model.config import ModelConfig
from uqforce.model.form import SCORES, Form
from uqforce.model.graph import Graph, with_edge_vec
from uqforce.model.mixture import Mixture
from uqforce.model.network import DTYPES
from uqforce.model.noise import make_noise
from uqforce.model.prediction import (
    Evaluation,
    by_positions,
    detached,
    of_member,
    results_of_structures,
)
from uqforce.model.quantities import Prediction


class Potential(Form):
    """Computes energies, forces, virials, features and uncertainties of a batch of structures.

    `potential(edge_vec [E,3] A, edge_index [2,E], atom_types [N], batch [N], num_structures)` returns a
    `Prediction`: energy [B] eV, forces [N,3] eV/A, virial [B,3,3] eV, nll [N], ...

    Args:
        config: sizes and choices.
        architecture: of the network, one of `uqforce.model.backbone.ARCHITECTURES`.

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

    def __init__(self, config: ModelConfig, architecture: str = "nequip") -> None:
        super().__init__()
        self.config, self.architecture = config, architecture
        self.card: dict = {}
        self.dropout = config.dropout
        self.network: nn.Module = make_backbone(architecture, config)
        for name, make in SCORES.items():
            setattr(self, name, make(self.network.num_last_features, DTYPES[config.dtype]))
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

    @torch.jit.unused
    def take_mixture(self, mixture: Mixture) -> None:
        """Store another model's mixture with its projection and its division into types, if it has these."""
        self.set_mixture(
            mixture.means,
            mixture.precisions_cholesky,
            mixture.log_weights,
            mixture.projection,
            mixture.counts,
        )

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        """Energy scales of atoms [N], eV."""
        return self.network.energy_scales(atom_types)

    @torch.jit.unused
    def last_features(self, graph: Graph) -> Tensor:
        """The network's last features [N,D] of a batch: no forces, and no gradient is taken."""
        return self.network.features(self.network.embed(graph), graph)

    @torch.jit.unused
    def of_members(self, graph: Graph) -> list[Prediction]:
        """What each head says by itself, from one pass through the network."""
        e = self.evaluate(graph, "", True)[0]
        scores = self.scores(e.features, graph)
        graph = with_edge_vec(graph, graph.edge_vec.detach().to(torch.float64))
        parts = [of_member(e, m) for m in range(e.energies.shape[0])]
        out = [results_of_structures(part, graph, self.local, 0) for part in parts]
        return [Prediction(**one, **scores) for one in out]

    def dropout_factors(self, batch: Tensor, num_structures: int) -> Optional[Tensor]:
        """Factors [N,D] of the last features in training with dropout, the same for a structure's atoms."""
        if not self.training or self.dropout == 0.0:
            return None
        size = [num_structures, self.network.num_last_features]
        kept = torch.full(size, 1.0 - self.dropout, dtype=self.network.dtype, device=batch.device)
        return (torch.bernoulli(kept) / (1.0 - self.dropout))[batch]

    def evaluate(self, graph: Graph, reduction: str, uncertain: bool) -> tuple[Evaluation, Tensor]:
        """What results are made of, and the gradient of the structures' scores by the positions.

        See `Form.forward` and `Form.with_nll_gradient`; with the `reduction` "" there is no gradient, [0,3].
        """
        if graph.parallel:
            raise RuntimeError("parallel engines run a model's inference form: `inference_form` makes it")
        if reduction != "" and self.training:
            raise RuntimeError("the gradient of nll is for evaluation: call eval() first")
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "a potential takes gradients for its forces: call it outside of torch.no_grad()"
            )
        edge_vec = graph.edge_vec.to(torch.float64)
        if not edge_vec.requires_grad:
            edge_vec = edge_vec.detach().requires_grad_(True)
        graph = with_edge_vec(graph, edge_vec)
        edges = self.network.embed(graph)
        features = self.network.features(edges, graph)
        dropped = self.dropout_factors(graph.batch, graph.num_structures)
        if dropped is not None:
            features = features * dropped
        energies = self.network.energies(features, edges, graph)
        terms = self.noise(features, edges, graph)
        keep, with_score = self.training, reduction != ""
        scalars = torch.cat([energies.sum(1), terms.scalars])
        gradients = _gradients(scalars, edge_vec, keep, keep or with_score)
        members = energies.shape[0]
        sigma_gradients, half_variance_gradients = self.noise.split(gradients[members:], terms, graph)
        evaluation = Evaluation(
            energies, gradients[:members], features, terms.variances, terms.variance, terms.diagonal,
            terms.strain, sigma_gradients, half_variance_gradients, edge_vec.new_zeros(1, 0),
        )  # fmt: skip
        score_gradient = edge_vec.new_zeros(0, 3)
        if with_score:
            cotangent = self.mixture.cotangent(features, graph, reduction)
            by_edges = _gradients((features * cotangent).sum().view(1), edge_vec, False, False)[0]
            score_gradient = by_positions(by_edges, graph)
        return evaluation if self.training else detached(evaluation), score_gradient


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
