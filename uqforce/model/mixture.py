"""The Gaussian mixture on the last features."""

import torch
from torch import Tensor, nn

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

    def store(self, projection: Tensor | None, counts: Tensor | None = None, **parameters: Tensor) -> None:
        """Keep these means, precisions_cholesky and log_weights, projection and counts if there are any."""
        self.counts = None if counts is None else counts.detach().to(self.means.device, torch.int64)
        like, working = self.means, self.working_means
        for name, value in {**parameters, "projection": projection}.items():
            if value is not None:
                value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
            setattr(self, name, value)
            setattr(self, f"working_{name}", None if value is None else value.to(working.dtype))

    def slices(self, atom_types: Tensor) -> list[tuple[int, int, Tensor]]:
        """Of each type that occurs: its components, from and to, and its atoms; there are `counts`."""
        found: list[tuple[int, int, Tensor]] = []
        end = 0
        if self.counts is not None:
            for kind, count in enumerate(self.counts.unbind()):
                start, end = end, end + int(count)
                rows = torch.nonzero(atom_types == kind).squeeze(1)
                if rows.shape[0] > 0:
                    found.append((start, end, rows))
        return found

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
        score = features.new_zeros(features.shape[0])
        for start, end, rows in self.slices(atom_types):
            of_type = torch.ops.uqforce.gmm_nll(
                features[rows], means[start:end], precisions[start:end], log_weights[start:end]
            )
            score = score.index_copy(0, rows, of_type)
        return score

    def score_and_slope(self, features: Tensor, atom_types: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N] and their derivatives by the features (or their projection)."""
        means, precisions = self.working_means, self.working_precisions_cholesky
        log_weights = self.working_log_weights
        if self.counts is None:
            return torch.ops.uqforce.gmm_nll_grad(features, means, precisions, log_weights)
        score, slope = features.new_zeros(features.shape[0]), torch.zeros_like(features)
        for start, end, rows in self.slices(atom_types):
            of_type, slope_of_type = torch.ops.uqforce.gmm_nll_grad(
                features[rows], means[start:end], precisions[start:end], log_weights[start:end]
            )
            score, slope = score.index_copy(0, rows, of_type), slope.index_copy(0, rows, slope_of_type)
        return score, slope

    def cotangent(
        self, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int, reduction: str
    ) -> Tensor:
        """d(the structures' scores) / d(features), [N,D] in the network's precision; the mixture is fitted.

        A structure's score is the `reduction` "mean", "max" or "sum" of its atoms'; those that share the
        largest share its gradient.
        """
        features = features.detach()
        if self.working_projection is not None:
            features = torch.matmul(features, self.working_projection)
        score, slope = self.score_and_slope(features, atom_types)
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
