"""The potential: network, uncertainty heads and derivatives in one scriptable module."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.linear import ScalarMLP
from uqforce.model.network import DTYPES, Network


class Prediction(NamedTuple):
    """What a potential says of a batch of structures. A tensor that the model does not carry has no elements.

    Shapes: N atoms, B structures, E edges, D features. eV and A; float64 except the features.
    """

    energies: Tensor  # [N]
    energy: Tensor  # [B]
    forces: Tensor  # [N,3]
    virial: Tensor  # [B,3,3]; stress = -virial / volume
    edge_gradient: Tensor  # [E,3], d(total energy) / d(edge_vec)
    features: Tensor  # [N,D]
    nll: Tensor  # [N], mixture score
    energies_variance: Tensor  # [N], sums to the square of energy_uncertainty
    energy_uncertainty: Tensor  # [B]
    forces_uncertainty: Tensor  # [N], sqrt(trace of the covariance / 3)
    forces_covariance: Tensor  # [N,3,3]


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


class VarianceHead(nn.Module):
    """Positive per-atom energy variance s_i, eV^2, and the inverse length scale gamma, 1/A, of its noise.

    Coherent noise in the `total` form (Jorgensen et al., arXiv:2312.04174): s = sum s_i is the variance of a
    structure's energy, and Cov(F_i) = d_i sigma d_i sigma^T + gamma^2 s I with sigma = sqrt(s).
    """

    def __init__(self, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = ScalarMLP([num_features, num_features, 1], dtype)
        self.log_gamma = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """features [N,D] -> variances [N] float64, eV^2."""
        return torch.nn.functional.softplus(self.mlp(features).squeeze(1).to(torch.float64)) + 1e-10

    def vjp(self, features: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents [K,N] float64 of the variances -> of the features, [K,N,D]."""
        slope = torch.sigmoid(self.mlp(features).squeeze(1).to(torch.float64))
        return self.mlp.vjp(features, (cotangents * slope).to(features.dtype).unsqueeze(2))


class Potential(nn.Module):
    """Energies, forces, virials, features and uncertainties of a batch of structures.

    Args:
        config: the architecture.

    Attributes:
        card: what is known of the model (data, units, accuracy, thresholds); plain JSON values.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.card: dict = {}
        self.network = Network(config)
        self.mixture = Mixture(self.network.num_last_features, DTYPES[config.dtype])
        self.variance_head = (
            VarianceHead(self.network.num_last_features, DTYPES[config.dtype])
            if config.variance_head
            else None
        )

    def set_mixture(
        self,
        means: Tensor,
        precisions_cholesky: Tensor,
        log_weights: Tensor,
        projection: Tensor | None = None,
    ) -> None:
        """Store a fitted mixture: means [M,K], precisions_cholesky [M,K,K], log_weights [M], kept in float64.

        It is one of the model's D last features, K = D, or of `features @ projection`, projection [D,K].

        Raises:
            ValueError: the shapes do not fit the model's features.
        """
        d = self.network.num_last_features
        m, k = means.shape[0], d if projection is None else projection.shape[-1]
        wanted = [(m, k), (m, k, k), (m,)]
        found = [tuple(t.shape) for t in (means, precisions_cholesky, log_weights)]
        if projection is not None:
            wanted.append((d, k))
            found.append(tuple(projection.shape))
        if found != wanted:
            raise ValueError(f"mixture of shapes {found} does not fit {d} features: wanted {wanted}")
        self.mixture.store(
            projection, means=means, precisions_cholesky=precisions_cholesky, log_weights=log_weights
        )

    def noise(self, variance: Tensor) -> Tensor:
        """Variance of a force component's own noise, (eV/A)^2, from the energies' variance [B], eV^2."""
        if self.variance_head is not None:
            return torch.exp(2.0 * self.variance_head.log_gamma) * variance
        return variance

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
        self,
        edge_vec: Tensor,
        edge_index: Tensor,
        atom_types: Tensor,
        batch: Tensor,
        num_structures: int,
        reduction: str,
    ) -> tuple[Prediction, Tensor]:
        """The prediction, and d(the structures' scores) / d(positions) [N,3] nat/A.

        The score is the `reduction` "mean", "max" or "sum" of the `nll` of a structure's atoms; with "" there
        is no gradient, [0,3]. The mixture must be fitted, the potential in evaluation mode.
        """
        if reduction != "" and self.training:
            raise RuntimeError("the gradient of nll is for evaluation: call eval() first")
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "a potential takes gradients for its forces: call it outside of torch.no_grad()"
            )
        edge_vec = edge_vec.to(torch.float64)
        if not edge_vec.requires_grad:
            edge_vec = edge_vec.detach().requires_grad_(True)
        energies, features = self.network(edge_vec, edge_index, atom_types)
        energy = sum_by_structure(energies, batch, num_structures)
        keep, with_score = self.training, reduction != ""
        more = self.variance_head is not None
        gradient = _gradient(energy.sum(), edge_vec, keep, keep or more or with_score)
        slope = edge_vec.new_zeros(0, edge_vec.shape[0], 3)
        variances, variance, sigma = energy.new_zeros(0), energy.new_zeros(0), energy.new_zeros(0)
        if self.variance_head is not None:
            variances = self.variance_head(features)
            variance = sum_by_structure(variances, batch, num_structures)
            sigma = torch.sqrt(variance)
            slope = _gradient(sigma.sum(), edge_vec, keep, keep or with_score).unsqueeze(0)
        forces, virial, force_sigma, force_cov = derived(
            edge_index, edge_vec, gradient, slope, batch, num_structures, self.noise(variance)
        )
        nll = self.mixture(features)
        of_score = edge_vec.new_zeros(0, 3)
        if with_score:
            cotangent = self.mixture.cotangent(features, batch, num_structures, reduction)
            of_edges = _gradient((features * cotangent).sum(), edge_vec, False, False)
            of_score = by_positions(edge_index, edge_vec.detach(), of_edges, batch, num_structures)
        if not self.training:
            energies, energy, features = energies.detach(), energy.detach(), features.detach()
            forces, virial, gradient = forces.detach(), virial.detach(), gradient.detach()
            variances, sigma = variances.detach(), sigma.detach()
            force_sigma, force_cov = force_sigma.detach(), force_cov.detach()
        prediction = Prediction(
            energies, energy, forces, virial, gradient, features, nll, variances, sigma, force_sigma,
            force_cov,
        )  # fmt: skip
        return prediction, of_score


def derived(
    edge_index: Tensor,
    edge_vec: Tensor,
    gradient: Tensor,
    slope: Tensor,
    batch: Tensor,
    num_structures: int,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What follows from derivatives with respect to edges.

    gradient [E,3] of the energy and slope [1,E,3] of its standard deviation ([0,E,3]: none), noise [B] of the
    force components -> forces [N,3], virial [B,3,3], forces_uncertainty [N] and forces_covariance [N,3,3].
    """
    forces, blocks, _, virial, _ = torch.ops.uqforce.force_variance(
        edge_index, edge_vec, gradient.unsqueeze(0), slope, batch, num_structures, False, 0
    )
    if slope.shape[0] == 0:
        return forces, virial, forces.new_zeros(0), forces.new_zeros(0)
    diagonal = noise[batch]
    identity = torch.eye(3, dtype=noise.dtype, device=noise.device)
    from_voigt = [0, 5, 4, 5, 1, 3, 4, 3, 2]
    covariance = blocks[:, from_voigt].view(-1, 3, 3) + diagonal.view(-1, 1, 1) * identity
    return forces, virial, torch.sqrt(blocks[:, :3].sum(1) / 3.0 + diagonal), covariance


def by_positions(
    edge_index: Tensor, edge_vec: Tensor, gradient: Tensor, batch: Tensor, num_structures: int
) -> Tensor:
    """gradient [E,3] with respect to edge_vec -> with respect to the positions [N,3]."""
    none = gradient.new_zeros(0, gradient.shape[0], 3)
    return -torch.ops.uqforce.force_variance(
        edge_index, edge_vec, gradient.unsqueeze(0), none, batch, num_structures, False, 0
    )[0]


def _gradient(scalar: Tensor, edge_vec: Tensor, create_graph: bool, retain_graph: bool) -> Tensor:
    """d(scalar)/d(edge_vec); zeros when nothing depends on the edges."""
    if not scalar.requires_grad:
        return torch.zeros_like(edge_vec)
    gradient = torch.autograd.grad(
        [scalar], [edge_vec], retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
    )[0]
    if gradient is None:
        return torch.zeros_like(edge_vec)
    return gradient


def sum_by_structure(values: Tensor, batch: Tensor, num_structures: int) -> Tensor:
    """values [N, ...] -> [B, ...], summed over the rows of each structure."""
    return values.new_zeros([num_structures] + list(values.shape[1:])).index_add(0, batch, values)
