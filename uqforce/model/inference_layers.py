"""The layers of the inference form: constant maps, radial networks as tables, explicit derivatives."""

import copy
import math

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.interaction import Interaction
from uqforce.ops import BlockSpec


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
        """Cotangents [K, n, dim_out] of the layer's output -> of x [K, rows, dim_in], of edge_vec [K, E, 3].

        The rows are those of the messages or, with `exchange`, the n own ones.

        Those of the first layer's x, a constant, are left out: [0, N, dim_in].
        """
        cotangents, n = self.gate.vjp(gate_in, cotangents), gate_in.shape[0]
        of_messages, of_edges = torch.ops.uqforce.tabulated_conv_vjp(
            padded(cotangents, atom_types.shape[0]), messages, edge_vec, edge_index, atom_types,
            self.cutoffs, self.table, self.linear_transposed, self.conv_spec, self.linear_spec,
            self.type_messages.shape[0] == 0,
        )  # fmt: skip
        if self.type_messages.shape[0] > 0:
            return of_messages, of_edges
        if exchange:
            of_messages = torch.ops.uqforce.ghost_exchange_vjp(of_messages, n)
        rows = of_messages.shape[1]
        of_x = self.linear_in.vjp(of_messages, atom_types[:rows])
        if self.self_connection is not None:
            of_x += padded(self.self_connection.vjp(cotangents, atom_types[:n]), rows)
        return of_x, of_edges


def padded(cotangents: Tensor, rows: int) -> Tensor:
    """Cotangents [K, n, dim] -> [K, rows, dim], zero where there were none."""
    missing = rows - cotangents.shape[1]
    return torch.nn.functional.pad(cotangents, [0, 0, 0, missing]) if missing > 0 else cotangents
