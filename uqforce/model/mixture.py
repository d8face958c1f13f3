"""The Gaussian mixture on the last features."""

from typing import List

import torch
from torch import Tensor, nn

from uqforce.model.graph import Graph, own_types
from uqforce.model.prediction import sum_by_structure


class Mixture(nn.Module):
    """Gaussian mixture on the last features (Zhu et al., JCP 158, 164111 (2023)); empty until fitted.

    The parameters are kept in float64. In evaluation mode the score is computed in the network's precision
    and carries no gradient: rounding the parameters to float32 moves a score no further than the rounding
    that the float32 features carry anyway (a model of 3BPA, 20 components on 64 features, scores -326 to -165
    at 300 K: at most 2.6e-4 against 4.1e-4).

    With a `projection` [D,K] the mixture is one of the K scalars `features @ projection`. With `counts` [T]
    there is a mixture for each type, of so many of the components, in the types' order. The state has only
    those of the two that there are.
    """

    components: List[int]  # of each type, as `counts` has them on the device; no types without `counts`

    def __init__(self, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = {
            "means": [0, num_features],
            "precisions_cholesky": [0, num_features, num_features],
            "log_weights": [0],
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"working_{name}", torch.zeros(size, dtype=dtype), persistent=False)
        self.register_buffer("projection", None)
        self.register_buffer("working_projection", None, persistent=False)
        self.register_buffer("counts", None)
        self.components = []

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.components = [] if self.counts is None else self.counts.tolist()

    def store(self, projection: Tensor | None, counts: Tensor | None = None, **parameters: Tensor) -> None:
        """Keep these means, precisions_cholesky and log_weights, projection and counts if there are any."""
        self.counts = None if counts is None else counts.detach().to(self.means.device, torch.int64)
        self.components = [] if counts is None else counts.tolist()
        like, working = self.means, self.working_means
        for name, value in {**parameters, "projection": projection}.items():
            if value is not None:
                value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
            setattr(self, name, value)
            setattr(self, f"working_{name}", None if value is None else value.to(working.dtype))

    def forward(self, features: Tensor, atom_types: Tensor) -> Tensor:
        """features [N,D], types [N] -> negative log-likelihood [N] float64; no elements when not fitted."""
        if self.means.shape[0] == 0:
            return self.means.new_zeros(0)
        if self.training:
            features = features.to(self.means.dtype)
            if self.projection is not None:
                features = torch.matmul(features, self.projection)
            return self.score(features, atom_types, self.means, self.precisions_cholesky, self.log_weights)
        features = features.detach()
        if self.working_projection is not None:
            features = torch.matmul(features, self.working_projection)
        score = self.score(
            features,
            atom_types,
            self.working_means,
            self.working_precisions_cholesky,
            self.working_log_weights,
        )
        return score.to(self.means.dtype)

    def score(
        self, features: Tensor, atom_types: Tensor, means: Tensor, precisions: Tensor, log_weights: Tensor
    ) -> Tensor:
        """Of each atom by the mixture of its type, [N] in the features' precision."""
        if self.counts is None:
            return torch.ops.uqforce.gmm_nll(features, means, precisions, log_weights)
        score, start = features.new_zeros(features.shape[0]), 0
        for kind, count in enumerate(self.components):
            its, end = atom_types == kind, start + count
            of_type = torch.ops.uqforce.gmm_nll(
                chosen(features, its), means[start:end], precisions[start:end], log_weights[start:end]
            )
            score, start = placed(score, its, of_type), end
        return score

    def score_and_slope(self, features: Tensor, atom_types: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N] and their derivatives by the features (or their projection)."""
        means, precisions = self.working_means, self.working_precisions_cholesky
        log_weights = self.working_log_weights
        if self.counts is None:
            return torch.ops.uqforce.gmm_nll_grad(features, means, precisions, log_weights)
        score, slope, start = features.new_zeros(features.shape[0]), torch.zeros_like(features), 0
        for kind, count in enumerate(self.components):
            its, end = atom_types == kind, start + count
            of_type, slope_of_type = torch.ops.uqforce.gmm_nll_grad(
                chosen(features, its), means[start:end], precisions[start:end], log_weights[start:end]
            )
            score, slope, start = placed(score, its, of_type), placed(slope, its, slope_of_type), end
        return score, slope

    def cotangent(self, features: Tensor, graph: Graph, reduction: str) -> Tensor:
        """d(the structures' scores) / d(features), [N,D] in the network's precision; the mixture is fitted.

        A structure's score is the `reduction` "mean", "max" or "sum" of its atoms'; those that share the
        largest share its gradient.
        """
        features = features.detach()
        if self.working_projection is not None:
            features = torch.matmul(features, self.working_projection)
        batch, num_structures = graph.batch, graph.num_structures
        score, slope = self.score_and_slope(features, own_types(graph))
        weight = torch.ones_like(score)
        if reduction == "max":
            largest = score.new_full([num_structures], -float("inf"))
            largest = largest.scatter_reduce(0, batch, score, "amax")
            weight = (score == largest[batch]).to(score.dtype)
        elif reduction != "mean" and reduction != "sum":
            raise RuntimeError("reduction must be 'mean', 'max' or 'sum', got '" + reduction + "'")
        if reduction != "sum":
            weight = weight / sum_by_structure(weight, batch, num_structures)[batch]
        slope = slope * weight.unsqueeze(1)
        if self.working_projection is not None:
            slope = torch.matmul(slope, self.working_projection.t())
        return slope


def chosen(rows: Tensor, mask: Tensor) -> Tensor:
    """The rows [n, ...] where the mask [N] is true; on CUDA all rows [N, ...].

    How many rows are chosen only the device knows, and the host would wait for it in every evaluation. So on
    CUDA each atom is scored by the mixtures of all types, and `placed` keeps the score of its own.
    """
    return rows if whole(rows) else rows[mask]


def placed(into: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """`into` [N, ...] with what was made of the `chosen` rows where the mask [N] is true."""
    if whole(rows):
        return torch.where(mask.view([-1] + [1] * (rows.dim() - 1)), rows, into)
    return into.index_copy(0, torch.nonzero(mask).squeeze(1), rows)


def whole(rows: Tensor) -> bool:
    """Whether `chosen` takes all rows."""
    return rows.is_cuda
