"""The inference form of a potential: tabulated radial networks, explicit derivatives for many cotangents.

TorchScript's autograd takes one cotangent at a time and keeps a graph of what this form never makes into an
array. Here every layer has a `vjp` that takes [K, ...] cotangents at once: the energy's, and that of every
quantity whose gradient an uncertainty needs.
"""

import copy
import math
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.interaction import Interaction
from uqforce.model.network import Network
from uqforce.model.potential import Potential, Prediction, by_positions, derived, sum_by_structure
from uqforce.model.sample import sample_structure
from uqforce.ops import BlockSpec, radial_table

# Intervals of the tables that are tried.
INTERVALS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
"""Default error of tabulated weights, relative to their root mean square, by the model's precision."""


class TypedLinear(nn.Module):
    """Linear map of irreps, its matrices constant, one set for all types or one per type.

    Args:
        weight: [T, weight_numel] of `BlockSpec(irreps_in, irreps_out, fan=0)`.
    """

    spec: list[int]
    transposed: list[int]

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, weight: Tensor) -> None:
        super().__init__()
        spec = BlockSpec(irreps_in, irreps_out, fan=0)
        self.spec, self.transposed = spec.flat, spec.transposed()
        self.typed = weight.shape[0] > 1
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("weight_transposed", spec.transpose(weight))

    def forward(self, x: Tensor, atom_types: Tensor) -> Tensor:
        """x [N, dim_in] -> [N, dim_out]."""
        types = atom_types if self.typed else None
        return torch.ops.uqforce.block_linear(x, self.weight, types, self.spec, False)

    def vjp(self, cotangents: Tensor, atom_types: Tensor) -> Tensor:
        """Cotangents [K, N, dim_out] -> [K, N, dim_in]."""
        k = cotangents.shape[0]
        types = atom_types.repeat(k) if self.typed else None
        rows, weight = cotangents.flatten(0, 1), self.weight_transposed
        rows = torch.ops.uqforce.block_linear(rows, weight, types, self.transposed, False)
        return rows.view(k, -1, rows.shape[1])


def _common(rows: Tensor) -> Tensor:
    """rows [T, ...], only the first where all are the same."""
    return rows[:1] if bool((rows == rows[:1]).all()) else rows


def _scaled(weight: Tensor, irreps_in: Irreps, irreps_out: Irreps) -> Tensor:
    """Weights of an `IrrepsLinear` [numel] with its normalisation."""
    blocks = BlockSpec(irreps_in, irreps_out).in_order_of_weights()
    parts = weight.split([b.mul_in * b.mul_out for b in blocks])
    return torch.cat([part / math.sqrt(b.mul_in) for b, part in zip(blocks, parts)])


class InferenceInteraction(nn.Module):
    """An `Interaction` whose radial network is a table.

    Args:
        layer: float64; the same maps, merged where they are linear.
        type_embedding: [T, V].
        cutoffs: [T, T], A.
        first: the layer's input is the type embedding: its messages are a function of the type alone.

    `table`, of `radial_table`, is still to be given.
    """

    conv_spec: list[int]
    linear_spec: list[int]

    def __init__(self, layer: Interaction, type_embedding: Tensor, cutoffs: Tensor, first: bool) -> None:
        super().__init__()
        irreps_in, irreps_mid, irreps_out = layer.irreps_in, layer.conv.irreps_out, layer.gate.irreps_in
        linear_in = _scaled(layer.linear_in.weight, irreps_in, irreps_in) * _common(layer.neighbor_norm)
        self.linear_in = TypedLinear(irreps_in, irreps_in, linear_in)
        every_type = torch.arange(type_embedding.shape[0])
        self.register_buffer(
            "type_messages",
            self.linear_in(type_embedding, every_type) if first else type_embedding.new_zeros(0, 0),
        )
        linear_out = _scaled(layer.linear_out.weight, irreps_mid, irreps_out)[None]
        maps = TypedLinear(irreps_mid, irreps_out, linear_out)
        self.conv_spec, self.linear_spec = layer.spec, maps.spec
        self.register_buffer("linear", maps.weight[0])
        self.register_buffer("linear_transposed", maps.weight_transposed[0])
        self.register_buffer("table", cutoffs.new_zeros(0))
        self.register_buffer("cutoffs", cutoffs)
        self.self_connection = None
        if layer.self_connection is not None:
            v, blocks = type_embedding.shape[1], BlockSpec(irreps_in, irreps_out).in_order_of_weights()
            weights = layer.self_connection.weight.split([v * b.mul_in * b.mul_out for b in blocks])
            parts = [
                torch.einsum("ivo,tv->tio", part.view(b.mul_in, v, b.mul_out), type_embedding).flatten(1)
                / math.sqrt(b.mul_in * v)
                for b, part in zip(blocks, weights)
            ]
            self.self_connection = TypedLinear(irreps_in, irreps_out, torch.cat(parts, dim=1))
        self.gate = copy.deepcopy(layer.gate)

    def messages(self, x: Tensor, atom_types: Tensor, exchange: bool) -> Tensor:
        """What the neighbours of an atom read of it: x [n, dim_in], atom_types [N] -> [N, dim_in].

        With `exchange` the rows of the atoms that x lacks, ghosts, come from the processes that own them.
        Every process knows its ghosts' types, so the first layer needs no communication.
        """
        if self.type_messages.shape[0] > 0:
            return torch.nn.functional.embedding(atom_types, self.type_messages)
        rows = self.linear_in(x, atom_types[: x.shape[0]])
        return torch.ops.uqforce.ghost_exchange(rows, atom_types.shape[0]) if exchange else rows

    def forward(
        self, x: Tensor, messages: Tensor, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor
    ) -> Tensor:
        """x [n, dim_in] and all atoms' messages -> what enters the gate [n, gate.irreps_in.dim]."""
        out = torch.ops.uqforce.tabulated_conv(
            messages, edge_vec, edge_index, atom_types, self.cutoffs, self.table, self.linear,
            self.conv_spec, self.linear_spec,
        )[: x.shape[0]]  # fmt: skip
        if self.self_connection is not None:
            out += self.self_connection(x, atom_types[: x.shape[0]])
        return out

    def vjp(
        self, cotangents: Tensor, gate_in: Tensor, messages: Tensor, edge_vec: Tensor, edge_index: Tensor,
        atom_types: Tensor, exchange: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Cotangents [K, n, dim_out] of the layer's output -> of x [K, n, dim_in], of edge_vec [K, E, 3].

        Those of the first layer's x, a constant, are left out: [0, N, dim_in].
        """
        cotangents, n = self.gate.vjp(gate_in, cotangents), gate_in.shape[0]
        of_messages, of_edges = torch.ops.uqforce.tabulated_conv_vjp(
            _padded(cotangents, atom_types.shape[0]), messages, edge_vec, edge_index, atom_types,
            self.cutoffs, self.table, self.linear_transposed, self.conv_spec, self.linear_spec,
            self.type_messages.shape[0] == 0,
        )  # fmt: skip
        if self.type_messages.shape[0] > 0:
            return of_messages, of_edges
        if exchange:
            of_messages = torch.ops.uqforce.ghost_exchange_vjp(of_messages, n)
        of_x = self.linear_in.vjp(of_messages, atom_types[:n])
        if self.self_connection is not None:
            of_x += self.self_connection.vjp(cotangents, atom_types[:n])
        return of_x, of_edges


def _padded(cotangents: Tensor, rows: int) -> Tensor:
    """Cotangents [K, n, dim] -> [K, rows, dim], zero where there were none."""
    missing = rows - cotangents.shape[1]
    return torch.nn.functional.pad(cotangents, [0, 0, 0, missing]) if missing > 0 else cotangents


class Evaluation(NamedTuple):
    """What both forms of a potential's prediction are made of: n atoms that count, E edges, D features."""

    energies: Tensor  # [n] float64
    features: Tensor  # [n,D]
    gradients: Tensor  # [1 or 2, E, 3] float64: of the energy and of its standard deviation
    variances: Tensor  # [n]
    variance: Tensor  # [B]
    noise: Tensor  # [B], variance of a force component's own noise


def _relative(difference: Tensor, values: Tensor) -> float:
    """Largest difference over the root mean square of the values."""
    return (difference.abs().max() / values.square().mean().sqrt().clamp(min=1e-300)).item()


def radial_table_to(tolerance: float, network: Network, k: int) -> tuple[Tensor, int, float]:
    """Table of layer k's radial network with an error of at most `tolerance`, its intervals and error.

    Raises:
        ValueError: `INTERVALS[-1]` intervals are too few.
    """
    layer, embedding = network.layers[k], network.edge_embedding
    enough = 0.0
    for intervals in INTERVALS:
        if intervals < enough:
            continue
        table, error = radial_table(lambda x: layer.radial(embedding.basis(x)), layer.conv, intervals)
        if error <= tolerance:
            return table, intervals, error
        if intervals >= 64:  # from here on the error falls with the sixth power
            enough = min(0.9 * intervals * (error / tolerance) ** (1 / 6), INTERVALS[-1])
    raise ValueError(
        f"layer {k}: {intervals} intervals leave an error of {error:.1e} in the tabulated weights, above "
        f"{tolerance:.1e}: allow a larger tolerance"
    )


class InferencePotential(nn.Module):
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
        ValueError: no table of up to `INTERVALS[-1]` intervals reaches the tolerance.
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
        self.variance_head = exact.variance_head
        self.register_buffer("cutoffs", cutoffs)
        self.eval()
        self.tabulation: dict = {"tolerance": tolerance}
        self._tabulate(exact, tolerance)

        self.mixture = copy.deepcopy(potential.mixture).eval()
        self.dtype = dtype = potential.network.dtype
        self.type_embedding = self.type_embedding.to(dtype)
        for module in (self.layers, self.readout):
            module.to(dtype)
        if self.variance_head is not None:
            self.variance_head.mlp.to(dtype)
        self.to(next(potential.parameters()).device)

    @torch.jit.ignore
    def _tabulate(self, exact: Potential, tolerance: float) -> None:
        """Make the tables as fine as weights, energies and forces want them."""
        case = sample_structure(exact)
        want = exact.eval()(*case)
        energies = want.energies - exact.network.scale_shift.shifts[case[2]]
        for_weights = tolerance
        while True:
            tables = [radial_table_to(for_weights, exact.network, k) for k in range(len(self.layers))]
            for layer, (table, _, _) in zip(self.layers, tables):
                layer.table = table
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

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`."""
        return self.with_nll_gradient(edge_vec, edge_index, atom_types, batch, num_structures, "")[0]

    def with_nll_gradient(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        reduction: str,
    ) -> tuple[Prediction, Tensor]:  # fmt: skip
        """See `Potential.with_nll_gradient`; the score is one more cotangent of the same backward pass."""
        edge_vec = edge_vec.detach().to(torch.float64)
        e = self.evaluate(edge_vec, edge_index, atom_types, batch, num_structures, False, False, reduction)
        slopes, of_score = e.gradients[1:], edge_vec.new_zeros(0, 3)
        if reduction != "":
            slopes = e.gradients[1:-1]
            of_score = by_positions(edge_index, edge_vec, e.gradients[-1], batch, num_structures)
        forces, virial, force_sigma, force_cov = derived(
            edge_index, edge_vec, e.gradients[0], slopes, batch, num_structures, e.noise
        )
        energy = sum_by_structure(e.energies, batch, num_structures)
        prediction = Prediction(
            e.energies, energy, forces, virial, e.gradients[0], e.features, self.mixture(e.features),
            e.variances, torch.sqrt(e.variance), force_sigma, force_cov,
        )  # fmt: skip
        return prediction, of_score

    @torch.jit.export
    def domain(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int, exchange: bool
    ) -> Prediction:
        """One process's share of one structure that a parallel engine divides among many.

        Args:
            edge_vec, edge_index: as in `forward`.
            atom_types: [N], the process's own atoms first, then its ghosts.
            num_owned: number of own atoms, n.
            exchange: True: the centres of edges are own atoms, and ghosts' features come from their owners
                (`ghost_exchange`); False: every ghost within (layers - 1) cutoffs has its own edges.

        Returns:
            Of the own atoms: `energies` [n], `features`, `nll`, `energies_variance`, `forces_uncertainty`;
            of the whole structure: `energy_uncertainty` [1]; and the `edge_gradient` [E,3] of the energy of
            all processes' own atoms by this process's edges (with `exchange`), or of its own atoms alone. The
            engine makes forces and virials of it. Everything else is empty.
        """
        edge_vec = edge_vec.detach().to(torch.float64)
        batch = torch.zeros(num_owned, dtype=torch.int64, device=edge_vec.device)
        e = self.evaluate(edge_vec, edge_index, atom_types, batch, 1, exchange, True, "")
        none = edge_vec.new_zeros(0)
        force_sigma = none
        if self.variance_head is not None:
            slopes = edge_vec.new_zeros(1, atom_types.shape[0], 3)
            slopes = slopes.index_add(1, edge_index[0], e.gradients[1:])
            slopes = slopes.index_add(1, edge_index[1], e.gradients[1:], alpha=-1.0)
            slopes = torch.ops.uqforce.ghost_exchange_vjp(slopes, num_owned)[0]
            force_sigma = torch.sqrt(slopes.square().sum(1) / 3.0 + e.noise)
        return Prediction(
            e.energies, none, none, none, e.gradients[0], e.features, self.mixture(e.features),
            e.variances, torch.sqrt(e.variance), force_sigma, none,
        )  # fmt: skip

    def evaluate(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        exchange: bool, many_ranks: bool, reduction: str,
    ) -> Evaluation:  # fmt: skip
        """Energies and their derivatives by the edges; edge_vec float64, the rest as in `forward`.

        Atoms beyond the length n of `batch` are ghosts, whose energies do not count. With `exchange` layers
        compute n rows, otherwise all. With `many_ranks` the structure's variance is that of all processes.
        With a `reduction` the last gradient is that of the structures' scores.
        """
        n = batch.shape[0]
        rows = n if exchange else atom_types.shape[0]
        types, vec = atom_types[:n], edge_vec.to(self.dtype)
        x = torch.nn.functional.embedding(atom_types[:rows], self.type_embedding)
        messages: list[Tensor] = []
        gate_in: list[Tensor] = []
        for layer in self.layers:
            messages.append(layer.messages(x, atom_types, exchange))
            gate_in.append(layer(x, messages[-1], vec, edge_index, atom_types))
            x = layer.gate(gate_in[-1])
        x = x[:n]
        features = self.readout.hidden(x)
        energies = self.scale_shift(self.readout.last(features).squeeze(1), types)

        scales = self.scale_shift.scales[types].to(self.dtype).view(1, -1, 1)
        cotangents = (self.readout.last.weight * self.readout.last.alpha).view(1, 1, -1) * scales
        variances = energies.new_zeros(0)
        variance, noise = energies.new_zeros(0), energies.new_zeros(0)
        if self.variance_head is not None:
            variances = self.variance_head(features)
            variance = sum_by_structure(variances, batch, num_structures)
            if many_ranks:
                variance = torch.ops.uqforce.sum_over_ranks(variance)
            noise = torch.exp(2.0 * self.variance_head.log_gamma) * variance
            of_variances = (0.5 / torch.sqrt(variance))[batch].view(1, -1)
            cotangents = torch.cat([cotangents, self.variance_head.vjp(features, of_variances)])
        if reduction != "":
            of_score = self.mixture.cotangent(features, batch, num_structures, reduction)
            cotangents = torch.cat([cotangents, of_score.unsqueeze(0)])
        cotangents = _padded(self.readout.hidden_vjp(x, cotangents), rows)
        k = len(gate_in) - 1
        gradients = vec.new_zeros(cotangents.shape[0], vec.shape[0], 3)
        for layer in self.layers_reversed:
            cotangents, of_edges = layer.vjp(
                cotangents, gate_in[k], messages[k], vec, edge_index, atom_types, exchange
            )
            gradients += of_edges
            k -= 1
        gradients = gradients.to(torch.float64)
        if self.zbl is not None:
            length = torch.linalg.vector_norm(edge_vec, dim=1)
            cutoffs = self.cutoffs[atom_types[edge_index[0]], atom_types[edge_index[1]]]
            scaled = (length / cutoffs).unsqueeze(1)
            counts = (edge_index[0] < n).unsqueeze(1)
            energies = energies + self.zbl(edge_vec, scaled, edge_index, atom_types)[:n]
            gradients[0] += self.zbl.gradient(edge_vec, scaled, edge_index, atom_types) * counts
        return Evaluation(energies, features, gradients, variances, variance, noise)
