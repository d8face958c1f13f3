"""The inference form of a potential: tabulated radial networks, explicit derivatives for many cotangents.

TorchScript's autograd takes one cotangent at a time and keeps a graph of what this form never makes into an
array. Here every layer has a `vjp` that takes [K, ...] cotangents at once: the energy's, and that of every
quantity whose gradient an uncertainty needs.
"""

import copy
from typing import List, Optional

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.embedding import EdgeEmbedding
from uqforce.model.form import DomainForm
from uqforce.model.inference_layers import InferenceInteraction, padded
from uqforce.model.interaction import Interaction
from uqforce.model.noise.terms import MemberLinear, no_terms
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


class InferencePotential(DomainForm):
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
        exact.network.dtype = torch.float64
        network = exact.network
        self.config, self.card = config, potential.card
        cutoffs = torch.tensor(config.cutoff_table(), dtype=torch.float64)
        # not as rounded to the network's precision: the comparison is to see the tables alone
        network.edge_embedding.inverse_cutoff = cutoffs.reciprocal().view(-1)
        self.dtype = torch.float64
        layers = [
            InferenceInteraction(layer, network.type_embedding, cutoffs, k == 0)
            for k, layer in enumerate(network.layers)
        ]
        self.layers = nn.ModuleList(layers)
        # TorchScript goes through modules in their order only.
        self.layers_reversed = nn.ModuleList(reversed(layers))
        self.readout = network.readout
        self.register_buffer("type_embedding", network.type_embedding.detach())
        self.scale_shift = network.scale_shift
        self.zbl = network.zbl
        self.mixture = exact.mixture
        self.rigidity = exact.rigidity
        self.calibration = exact.calibration
        self.noise = exact.noise.inference(cutoffs)
        self.local, self.ddof = self.noise.local, 0
        self.register_buffer("cutoffs", cutoffs)
        self.eval()
        self.tabulation: dict = {"tolerance": tolerance}
        self._tabulate(exact, tolerance)

        self.mixture = copy.deepcopy(potential.mixture).eval()
        self.dtype = dtype = potential.network.dtype
        self.type_embedding = self.type_embedding.to(dtype)
        noise = _modules(self.noise, MemberLinear, InferenceInteraction)
        for module in (self.layers, self.readout, *noise):
            module.to(dtype)
        self.to(next(potential.parameters()).device)

    @torch.jit.ignore
    def _tabulate(self, exact: Potential, tolerance: float) -> None:
        """Make the tables as fine as weights, energies and forces want them."""
        case = sample_structure(exact)
        want = exact.eval()(*case)
        energies = want.energies - exact.network.scale_shift.shifts[case[2]]
        for_weights = tolerance
        of_noise = zip(_modules(exact.noise, Interaction), _modules(self.noise, InferenceInteraction))
        pairs = {f"layer {k}": pair for k, pair in enumerate(zip(exact.network.layers, self.layers))}
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

    def scores(
        self, features: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Potential.scores`."""
        scales = self.scale_shift.scales[atom_types]
        return self.mixture(features, atom_types), self.rigidity(features, scales, batch, num_structures)

    def extents(
        self, edge_index: Tensor, num_atoms: int, n: int, exchange: bool, many_ranks: bool
    ) -> tuple[List[int], List[int]]:
        """Rows [layers + 1] that enter each layer and leave the last, and edges [layers] that it reads.

        Where ghosts have edges of their own, each layer computes what the later ones read of it, whatever
        order the ghosts stand in; if nearer ones come first, that is least.
        """
        layers = len(self.layers)
        if exchange or not many_ranks:
            return [n if exchange else num_atoms] * (layers + 1), [edge_index.shape[1]] * layers
        rows = [n]
        edges: List[int] = []
        for _ in range(layers):
            end = int(torch.searchsorted(edge_index[0].contiguous(), rows[0]))  # sorted by centre
            last = int(edge_index[1, :end].max()) + 1 if end > 0 else 0
            rows.insert(0, max(rows[0], last))
            edges.insert(0, end)
        return rows, edges

    def evaluate(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        reduction: str,
    ) -> tuple[Evaluation, Tensor]:  # fmt: skip
        """See `Potential.evaluate`; the score is one more cotangent of the same backward pass."""
        edge_vec = edge_vec.detach().to(torch.float64)
        e, of_score = self.explicit(
            edge_vec, edge_index, atom_types, batch, num_structures, False, False, reduction, True, None
        )
        if reduction != "":
            of_score = by_positions(edge_index, edge_vec, of_score, batch, num_structures)
        return e, of_score

    def evaluate_domain(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, exchange: bool,
        uncertain: bool, numbers: Optional[Tensor],
    ) -> tuple[Evaluation, Tensor]:  # fmt: skip
        """What `domain` is made of, and the traces [n] of the noise's slopes' blocks; batch [n] is zeros."""
        e = self.explicit(edge_vec, edge_index, atom_types, batch, 1, exchange, True, "", uncertain, numbers)[
            0
        ]
        trace = edge_vec.new_zeros(0)
        if uncertain:
            trace = self.noise.own_trace(e.slopes, edge_index, atom_types, batch.shape[0], numbers)
        return e, trace

    def explicit(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        exchange: bool, many_ranks: bool, reduction: str, uncertain: bool,
        numbers: Optional[Tensor],
    ) -> tuple[Evaluation, Tensor]:  # fmt: skip
        """Energies and their derivatives by the edges; edge_vec float64, the rest as in `forward`.

        Atoms beyond the length n of `batch` are ghosts, whose energies do not count. With `exchange` layers
        compute n rows, otherwise all. With `many_ranks` the structure's variance is that of all processes.
        With a `reduction` also the derivative of the structures' scores [E,3]; without `uncertain` no noise.
        """
        n = batch.shape[0]
        types, vec = atom_types[:n], edge_vec.to(self.dtype)
        rows, edges = self.extents(edge_index, atom_types.shape[0], n, exchange, many_ranks)
        x = torch.nn.functional.embedding(atom_types[: rows[0]], self.type_embedding)
        messages: list[Tensor] = []
        gate_in: list[Tensor] = []
        for layer in self.layers:
            k = len(gate_in)
            seen, end = atom_types if exchange else atom_types[: rows[k]], edges[k]
            messages.append(layer.messages(x, seen, exchange))
            gate_in.append(layer(x[: rows[k + 1]], messages[k], vec[:end], edge_index[:, :end], seen))
            x = layer.gate(gate_in[k])
        x = x[:n]
        features = self.readout.hidden(x)
        energies = self.scale_shift(self.readout.last(features).t(), types)

        scales = self.scale_shift.scales[types].to(self.dtype).view(1, -1, 1)
        of_energies = (self.readout.last.weight * self.readout.last.alpha).t().unsqueeze(1) * scales
        if not uncertain:  # heads are wanted for their mean alone
            of_energies, energies = of_energies.mean(0, keepdim=True), energies.mean(0, keepdim=True)
        members = energies.shape[0]
        terms, beside = no_terms(features, batch, num_structures), edge_vec[None][:0]
        of_noise = of_energies[:0]
        if uncertain:
            terms, of_noise, beside = self.noise.explicit(
                features, edge_vec, edge_index, atom_types, batch, num_structures, many_ranks, numbers
            )
        cotangents = torch.cat([of_energies, of_noise])
        if reduction != "":
            of_score = self.mixture.cotangent(features, types, batch, num_structures, reduction)
            cotangents = torch.cat([cotangents, of_score.unsqueeze(0)])
        cotangents = padded(self.readout.hidden_vjp(x, cotangents), rows[-1])
        k = len(gate_in) - 1
        gradients = vec.new_zeros(cotangents.shape[0], vec.shape[0], 3)
        for layer in self.layers_reversed:
            seen, end = atom_types if exchange else atom_types[: rows[k]], edges[k]
            cotangents, of_edges = layer.vjp(
                cotangents, gate_in[k], messages[k], vec[:end], edge_index[:, :end], seen, exchange
            )
            gradients += padded(of_edges, vec.shape[0])
            k -= 1
        gradients = gradients.to(torch.float64)
        if self.zbl is not None:
            length = torch.linalg.vector_norm(edge_vec, dim=1)
            cutoffs = self.cutoffs[atom_types[edge_index[0]], atom_types[edge_index[1]]]
            scaled = (length / cutoffs).unsqueeze(1)
            counts = (edge_index[0] < n).unsqueeze(1)
            energies = energies + self.zbl(edge_vec, scaled, edge_index, atom_types)[:n]
            gradients[:members] += self.zbl.gradient(edge_vec, scaled, edge_index, atom_types) * counts
        of_members = gradients[:members]
        of_sigmas = torch.cat([gradients[members : members + of_noise.shape[0]], beside])
        slopes, halves = of_sigmas, of_sigmas
        if uncertain:
            of_centres = batch.new_zeros(atom_types.shape[0]) if many_ranks else batch
            slopes, halves = self.noise.split(of_sigmas, terms, edge_index, of_centres)
        evaluation = Evaluation(
            energies, of_members, features, terms.variances, terms.variance, terms.diagonal, terms.strain,
            slopes, halves,
        )  # fmt: skip
        return evaluation, gradients[-1] if reduction != "" else edge_vec.new_zeros(0, 3)
