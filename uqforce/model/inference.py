"""The inference form of a potential: tabulated radial networks, explicit derivatives for many cotangents.

TorchScript's autograd takes one cotangent at a time and keeps a graph of what this form never makes into an
array. Here every layer has a `vjp` that takes [K, ...] cotangents at once: the energy's, and that of every
quantity whose gradient an uncertainty needs.
"""

import copy

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.embedding import EdgeEmbedding
from uqforce.model.form import SCORES, Form
from uqforce.model.graph import Graph, with_edge_vec
from uqforce.model.inference_layers import InferenceInteraction
from uqforce.model.interaction import Interaction
from uqforce.model.linear import ScalarLinear
from uqforce.model.noise.terms import no_terms
from uqforce.model.potential import Potential
from uqforce.model.prediction import Evaluation, by_positions
from uqforce.model.sample import sample_structure
from uqforce.ops import radial_table

# Intervals of the tables that are tried.
INTERVALS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
"""Default error of tabulated weights, relative to their root mean square, by the model's precision."""


def _relative(difference: Tensor, values: Tensor) -> float:
    """Largest difference over the root mean square of the values."""
    return (difference.abs().max() / values.square().mean().sqrt().clamp(min=1e-300)).item()


def _modules(module: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kinds)]


def radial_table_to(
    tolerance: float, layer: Interaction, embedding: EdgeEmbedding, name: str
) -> tuple[Tensor, int, float]:
    """Table of a layer's radial network with an error of at most `tolerance`, its intervals and error.

    Raises:
        ModelError: `INTERVALS[-1]` intervals are too few.
    """
    enough = 0.0
    for intervals in INTERVALS:
        if intervals < enough:
            continue
        table, error = radial_table(lambda x: layer.radial(embedding.basis(x)), layer.conv, intervals)
        if error <= tolerance:
            return table, intervals, error
        if intervals >= 64:  # from here on the error falls with the sixth power
            enough = min(0.9 * intervals * (error / tolerance) ** (1 / 6), INTERVALS[-1])
    raise ModelError(
        f"{name}: {intervals} intervals leave an error of {error:.1e} in the tabulated weights, above "
        f"{tolerance:.1e}: allow a larger tolerance"
    )


class InferencePotential(Form):
    """The inference form of a `Potential`: the same arguments, the same `Prediction`, constants for weights.

    Energies are those of the network but for the error of the tables; forces are the exact derivatives of
    these energies. Nothing here needs autograd.

    Args:
        potential: left as it is.
        tolerance: error allowed to the tabulated weights at any length, relative to their root mean square,
            and to energies and forces of two structures of 27 atoms (`tabulation`); default `TOLERANCE`.

    Attributes:
        tabulation: what the tables are and cost, plain JSON values: "tolerance", for each layer "intervals"
            and "weights_error", and in float64 "energy_error" and "forces_error", the largest of an atom's
            energy or force component over the root mean square.

    Raises:
        ModelError: no table of up to `INTERVALS[-1]` intervals reaches the tolerance.
    """

    def __init__(self, potential: Potential, tolerance: float | None = None) -> None:
        super().__init__()
        config = potential.config
        tolerance = TOLERANCE[config.dtype] if tolerance is None else tolerance
        exact = copy.deepcopy(potential).cpu().double().requires_grad_(False)
        if not hasattr(exact.network, "inference"):
            raise ModelError(
                f"architecture {potential.architecture} has no inference form: export with tabulation 0, "
                "which keeps the networks"
            )
        exact.network.dtype = torch.float64
        self.config, self.card = config, potential.card
        cutoffs = torch.tensor(config.cutoff_table(), dtype=torch.float64)
        # not as rounded to the network's precision: the comparison is to see the tables alone
        exact.network.edge_embedding.inverse_cutoff = cutoffs.reciprocal().view(-1)
        self.network = exact.network.inference(cutoffs)
        for name in SCORES:
            setattr(self, name, getattr(exact, name))
        self.calibration = exact.calibration
        self.noise = exact.noise.inference(cutoffs)
        self.local, self.ddof = self.noise.local, 0
        self.eval()
        self.tabulation: dict = {"tolerance": tolerance}
        self._tabulate(exact, tolerance)

        self.mixture = copy.deepcopy(potential.mixture).eval()
        self.network.as_precise_as(potential.network.dtype)
        for module in _modules(self.noise, ScalarLinear, InferenceInteraction):
            module.to(potential.network.dtype)
        self.to(next(potential.parameters()).device)

    @torch.jit.ignore
    def _tabulate(self, exact: Potential, tolerance: float) -> None:
        """Make the tables as fine as weights, energies and forces want them."""
        case = sample_structure(exact)
        want = exact.eval()(*case)
        energies = want.energies - exact.network.scale_shift.shifts[case[2]]
        for_weights = tolerance
        of_noise = zip(_modules(exact.noise, Interaction), _modules(self.noise, InferenceInteraction))
        pairs = {f"layer {k}": pair for k, pair in enumerate(zip(exact.network.layers, self.network.layers))}
        pairs |= {f"noise's layer {k}": pair for k, pair in enumerate(of_noise)}
        while True:
            tables = []
            for name, (layer, tabulated) in pairs.items():
                tables.append(radial_table_to(for_weights, layer, exact.network.edge_embedding, name))
                tabulated.table = tables[-1][0]
            got = self(*case)
            self.tabulation |= {
                "intervals": [intervals for _, intervals, _ in tables],
                "weights_error": [error for _, _, error in tables],
                "energy_error": _relative(got.energies - want.energies, energies),
                "forces_error": _relative(got.forces - want.forces, want.forces),
            }
            worst = max(self.tabulation["energy_error"], self.tabulation["forces_error"])
            if worst <= tolerance:
                return
            for_weights *= 0.5 * tolerance / worst

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        """See `Potential.energy_scales`."""
        return self.network.energy_scales(atom_types)

    def evaluate(self, graph: Graph, reduction: str, uncertain: bool) -> tuple[Evaluation, Tensor]:
        """See `Potential.evaluate`; all gradients come of one backward pass of as many cotangents.

        The variance of a share is that of the structure. Without `uncertain` there is no noise, and of heads
        only their mean.
        """
        graph = with_edge_vec(graph, graph.edge_vec.detach().to(torch.float64))
        encoded = self.network.encode(graph)
        features, energies = encoded.features, encoded.energies
        cotangents = self.network.energy_cotangents(graph)
        if not uncertain:
            cotangents, energies = cotangents.mean(0, keepdim=True), energies.mean(0, keepdim=True)
        members = energies.shape[0]
        terms, noise_gradients = no_terms(features, graph), graph.edge_vec[None][:0]
        if uncertain:
            terms, noise_cotangents, noise_gradients = self.noise.explicit(features, graph)
            cotangents = torch.cat([cotangents, noise_cotangents])
        end = cotangents.shape[0]
        if reduction != "":
            score_cotangent = self.mixture.cotangent(features, graph, reduction)
            cotangents = torch.cat([cotangents, score_cotangent.unsqueeze(0)])
        gradients = self.network.decode(cotangents, encoded, graph)
        if self.network.zbl is not None:
            repulsion, repulsion_gradient = self.network.repulsion(graph)
            energies = energies + repulsion
            gradients[:members] += repulsion_gradient
        sigma_gradients = torch.cat([gradients[members:end], noise_gradients])
        half_variance_gradients, trace = sigma_gradients, graph.edge_vec.new_zeros(1, 0)
        if uncertain:
            sigma_gradients, half_variance_gradients = self.noise.split(sigma_gradients, terms, graph)
            if graph.parallel:
                trace = self.noise.own_trace(sigma_gradients, graph).unsqueeze(0)
        evaluation = Evaluation(
            energies, gradients[:members], features, terms.variances, terms.variance, terms.diagonal,
            terms.strain, sigma_gradients, half_variance_gradients, trace,
        )  # fmt: skip
        score_gradient = graph.edge_vec.new_zeros(0, 3)
        if reduction != "":
            score_gradient = by_positions(gradients[-1], graph)
        return evaluation, score_gradient
