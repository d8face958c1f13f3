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

    With a `projection` [D,K] the mixture is one of the K scalars `features @ projection`. Without, the state
    has no such entry, and is what it was before there were projections.
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

    def store(self, projection: Tensor | None, **parameters: Tensor) -> None:
        """Keep these means, precisions_cholesky and log_weights, and the projection where there is one."""
        like, working = self.means, self.working_means
        for name, value in {**parameters, "projection": projection}.items():
            if value is not None:
                value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
            setattr(self, name, value)
            setattr(self, f"working_{name}", None if value is None else value.to(working.dtype))

    def forward(self, features: Tensor) -> Tensor:
        """features [N,D] -> negative log-likelihood [N] float64; no elements when not fitted."""
        if self.means.shape[0] == 0:
            return self.means.new_zeros(0)
        if self.training:
            features = features.to(self.means.dtype)
            if self.projection is not None:
                features = torch.matmul(features, self.projection)
            return torch.ops.uqforce.gmm_nll(features, self.means, self.precisions_cholesky, self.log_weights)
        features = features.detach()
        if self.working_projection is not None:
            features = torch.matmul(features, self.working_projection)
        score = torch.ops.uqforce.gmm_nll(
            features, self.working_means, self.working_precisions_cholesky, self.working_log_weights
        )
        return score.to(self.means.dtype)

    def cotangent(self, features: Tensor, batch: Tensor, num_structures: int, reduction: str) -> Tensor:
        """d(the structures' scores) / d(features), [N,D] in the network's precision; the mixture is fitted.

        A structure's score is the `reduction` "mean", "max" or "sum" of its atoms'; those that share the
        largest share its gradient.
        """
        features = features.detach()
        if self.working_projection is not None:
            features = torch.matmul(features, self.working_projection)
        score, slope = torch.ops.uqforce.gmm_nll_grad(
            features, self.working_means, self.working_precisions_cholesky, self.working_log_weights
        )
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
