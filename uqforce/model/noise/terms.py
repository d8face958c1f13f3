"""What every form of noise gives, and the parts that forms share."""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.graph import Graph, own_types, structure_of_centres, sum_over_processes
from uqforce.model.linear import ScalarMLP
from uqforce.model.prediction import sum_of_members, sums_by_atom

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class NoiseTerms(NamedTuple):
    """Noise of a batch, M members, before derivatives. A form without a term gives it no rows."""

    variances: Tensor  # [M,N] eV^2, atoms' shares of `variance`
    variance: Tensor  # [M,B] eV^2, of the structures' energies
    diagonal: Tensor  # [M,N] (eV/A)^2, of a force component's own noise: gamma^2 s
    strain: Tensor  # [M,B] eV^2, of the virial's own noise
    sigmas: Tensor  # [M,B] or [M,N] eV, the standard deviations whose slopes make the force covariance
    scalars: Tensor  # [K] eV, what is differentiated by the edges


class Noise(nn.Module):
    """What all forms share; by itself the form of a model that says nothing of its labels' errors.

    A form says what its terms are, and if they have scalars, how these follow from what the network gives:
    `forward` for autograd, `explicit` for the inference form. The rest is the same for all.

    Attributes:
        local: whether the gradients are those of every atom's own standard deviation.
    """

    local: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
        self.local = False

    def terms(self, features: Tensor, graph: Graph) -> NoiseTerms:
        """Those of a form without scalars."""
        return no_terms(features, graph)

    def forward(self, features: Tensor, edges: Edges, graph: Graph) -> NoiseTerms:
        """Terms by last features [N,D] and edges; their scalars' gradients by the edges go to `split`."""
        return self.terms(features, graph)

    def explicit(self, features: Tensor, graph: Graph) -> tuple[NoiseTerms, Tensor, Tensor]:
        """The same without autograd, of a structure or a share of one; features [n,D], edge_vec float64.

        Returns:
            the terms, cotangents [K,n,D] of the features and gradients [K',E,3] by the edges that these do
            not have: the cotangents' gradients by the edges and then those beside them go to `split`.
        """
        none = features.new_zeros([0] + list(features.shape))
        return self.terms(features, graph), none, graph.edge_vec[None][:0]

    def split(self, gradients: Tensor, terms: NoiseTerms, graph: Graph) -> tuple[Tensor, Tensor]:
        """The scalars' gradients -> sigma_gradients and half_variance_gradients of `Evaluation`."""
        if gradients.shape[0] == 0:  # a form without scalars
            return gradients, gradients
        if self.local:
            ghosts = graph.atom_types.shape[0] - terms.sigmas.shape[1]  # their edges have no gradients
            sigmas = torch.nn.functional.pad(terms.sigmas, [0, ghosts])[:, graph.edge_index[0]]
        else:
            sigmas = terms.sigmas[:, structure_of_centres(graph)]
        return gradients, gradients * sigmas.unsqueeze(2)

    def own_trace(self, sigma_gradients: Tensor, graph: Graph) -> Tensor:
        """Traces [n] of the blocks of own atoms that gradients [K,E,3] of all processes make, mean over K.

        Here sigma is that of the whole structure: mean_k |d sigma_k / d r_i|^2.
        Every process has them by its own edges; those of ghosts go to their owners.
        """
        n = graph.batch.shape[0]
        if sigma_gradients.shape[0] == 0:
            return sigma_gradients.new_zeros(n)
        rows = sums_by_atom(sigma_gradients, graph.edge_index, graph.atom_types.shape[0])
        rows = torch.ops.uqforce.ghost_exchange_vjp(rows.unsqueeze(0), n).squeeze(0)
        return rows.square().sum(1) / sigma_gradients.shape[0]

    @torch.jit.unused
    def inference(self, cutoffs: Tensor) -> nn.Module:
        """The form with `explicit`, for these cutoffs [T,T]; called of a float64 model."""
        return self


class HeadNoise(Noise):
    """A form whose scalars are functions of one number u of every atom, a perceptron of its last features."""

    def terms_of(self, u: Tensor, features: Tensor, graph: Graph) -> NoiseTerms:
        """Terms of the numbers u [M,n]."""
        raise NotImplementedError

    def scalar_gradients(self, u: Tensor, terms: NoiseTerms, graph: Graph) -> Tensor:
        """Derivatives of the scalars by u, [K,n], M rows after M rows."""
        raise NotImplementedError

    def forward(self, features: Tensor, edges: Edges, graph: Graph) -> NoiseTerms:
        return self.terms_of(self.head(features, graph.atom_types), features, graph)

    def explicit(self, features: Tensor, graph: Graph) -> tuple[NoiseTerms, Tensor, Tensor]:
        u, slope = self.head.with_gradient(features, own_types(graph))
        terms = self.terms_of(u, features, graph)
        weights = self.scalar_gradients(u, terms, graph).to(slope.dtype)
        rows = slope.repeat(weights.shape[0] // slope.shape[0], 1, 1) * weights.unsqueeze(2)
        return terms, rows, graph.edge_vec[None][:0]


def no_terms(features: Tensor, graph: Graph) -> NoiseTerms:
    of_atoms = torch.zeros(0, graph.batch.shape[0], dtype=torch.float64, device=features.device)
    of_structures = torch.zeros(0, graph.num_structures, dtype=torch.float64, device=features.device)
    return NoiseTerms(of_atoms, of_structures, of_atoms, of_structures, of_structures, of_atoms.flatten())


class Head(ScalarMLP):
    """One number of every atom and member: a perceptron of the atom's scalars and a constant of its type.

    Args:
        dims: widths from the scalars D to 1.
    """

    def __init__(self, members: int, dims: list[int], num_types: int, dtype: torch.dtype) -> None:
        super().__init__(dims, dtype, members=members)
        self.shift = nn.Parameter(torch.zeros(members, num_types, dtype=torch.float64))

    def forward(self, x: Tensor, atom_types: Tensor) -> Tensor:  # type: ignore[override]
        """x [N,D] -> [M,N] float64."""
        return self.last(self.hidden(x)).squeeze(2).to(torch.float64) + self.shift[:, atom_types]

    def with_gradient(self, x: Tensor, atom_types: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its derivative by the atom's own scalars [M,N,D]."""
        gradient = (self.last.weight * self.last.alpha).transpose(1, 2).expand(-1, x.shape[0], -1)
        return self.forward(x, atom_types), self.hidden_vjp(x, gradient)


class AtomProcesses(nn.Module):
    """The terms of processes of single atoms, gamma one number per member and type."""

    def __init__(self, config: ModelConfig, members: int) -> None:
        super().__init__()
        start = math.log(1.0 if config.gamma is None else config.gamma)
        log_gamma = torch.full((members, len(config.type_names)), start, dtype=torch.float64)
        self.log_gamma = nn.Parameter(log_gamma, requires_grad=config.gamma_kind == "learned")
        self.log_gamma_strain = nn.Parameter(torch.zeros(members, dtype=torch.float64))

    def forward(self, u: Tensor, graph: Graph) -> NoiseTerms:
        """Perceptron's numbers u [M,n] of the atoms -> terms; the scalars are sums of the atoms' sigmas."""
        variances = positive(u)
        variance = sum_over_processes(sum_of_members(variances, graph.batch, graph.num_structures), graph)
        strain = torch.exp(2.0 * self.log_gamma_strain).unsqueeze(1) * variance
        diagonal = torch.exp(2.0 * self.log_gamma[:, own_types(graph)]) * variances
        sigmas = torch.sqrt(variances)
        return NoiseTerms(variances, variance, diagonal, strain, sigmas, sigmas.sum(1))


def positive(u: Tensor) -> Tensor:
    """Variance, eV^2, of a perceptron's number."""
    return torch.nn.functional.softplus(u) + 1e-10
