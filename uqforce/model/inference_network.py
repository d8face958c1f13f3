"""The inference form of NequIP's network: constants for weights, tables for radial networks."""

from typing import List, NamedTuple

import torch
from torch import Tensor, nn

from uqforce.model.graph import Graph, own_types
from uqforce.model.inference_layers import InferenceInteraction, padded
from uqforce.model.network import Network


class Encoded(NamedTuple):
    """What `InferenceNetwork.encode` finds, and leaves for `decode`."""

    features: Tensor  # [n,D]
    energies: Tensor  # [M,n] float64 eV, without the repulsion of nuclei
    x: Tensor  # [n,dim], what leaves the last layer
    messages: List[Tensor]  # of each layer
    gate_in: List[Tensor]  # what enters each layer's gate
    rows: List[int]  # of `extents`
    edges: List[int]


class InferenceNetwork(nn.Module):
    """The same maps as a `Network`, merged where they are linear, with derivatives written down.

    Args:
        network: float64; its modules are used where they have no tables.
        cutoffs: [T,T] A, of pairs of types.
    """

    def __init__(self, network: Network, cutoffs: Tensor) -> None:
        super().__init__()
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
        self.register_buffer("cutoffs", cutoffs)

    @torch.jit.ignore
    def as_precise_as(self, dtype: torch.dtype) -> None:
        """Compute in this precision; energies stay in float64."""
        self.dtype = dtype
        self.type_embedding = self.type_embedding.to(dtype)
        for module in (self.layers, self.readout):
            module.to(dtype)

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        """Energy scales of atoms [N], eV."""
        return self.scale_shift.scales[atom_types]

    def extents(self, graph: Graph) -> tuple[List[int], List[int]]:
        """Rows [layers + 1] that enter each layer and leave the last, and edges [layers] that it reads.

        Where ghosts have edges of their own, each layer computes what the later ones read of it, whatever
        order the ghosts stand in; if nearer ones come first, that is least.
        """
        layers, n, edge_index = len(self.layers), graph.batch.shape[0], graph.edge_index
        if graph.exchange or not graph.parallel:
            num_rows = n if graph.exchange else graph.atom_types.shape[0]
            return [num_rows] * (layers + 1), [edge_index.shape[1]] * layers
        rows = [n]
        edges: List[int] = []
        for _ in range(layers):
            end = int(torch.searchsorted(edge_index[0].contiguous(), rows[0]))  # sorted by centre
            last = int(edge_index[1, :end].max()) + 1 if end > 0 else 0
            rows.insert(0, max(rows[0], last))
            edges.insert(0, end)
        return rows, edges

    def encode(self, graph: Graph) -> Encoded:
        """Forward through the layers; edge_vec float64.

        Ghosts' energies do not count. With `exchange` layers compute n rows, otherwise all.
        """
        rows, edges = self.extents(graph)
        vec = graph.edge_vec.to(self.dtype)
        x = torch.nn.functional.embedding(graph.atom_types[: rows[0]], self.type_embedding)
        messages: List[Tensor] = []
        gate_in: List[Tensor] = []
        for layer in self.layers:
            k = len(gate_in)
            seen = graph.atom_types if graph.exchange else graph.atom_types[: rows[k]]
            end = edges[k]
            messages.append(layer.messages(x, seen, graph.exchange))
            gate_in.append(layer(x[: rows[k + 1]], messages[k], vec[:end], graph.edge_index[:, :end], seen))
            x = layer.gate(gate_in[k])
        x = x[: graph.batch.shape[0]]
        features = self.readout.hidden(x)
        energies = self.scale_shift(self.readout.last(features).t(), own_types(graph))
        return Encoded(features, energies, x, messages, gate_in, rows, edges)

    def energy_cotangents(self, graph: Graph) -> Tensor:
        """Derivatives of the atoms' energies by their last features, [M,n,D]."""
        scales = self.energy_scales(own_types(graph)).to(self.dtype).view(1, -1, 1)
        return (self.readout.last.weight * self.readout.last.alpha).t().unsqueeze(1) * scales

    def decode(self, cotangents: Tensor, encoded: Encoded, graph: Graph) -> Tensor:
        """Cotangents [K,n,D] of the last features -> of the edges [K,E,3] float64."""
        vec = graph.edge_vec.to(self.dtype)
        cotangents = self.readout.hidden_vjp(encoded.x, cotangents)
        cotangents = padded(cotangents, encoded.rows[-1])
        k = len(encoded.gate_in) - 1
        gradients = vec.new_zeros(cotangents.shape[0], vec.shape[0], 3)
        for layer in self.layers_reversed:
            seen = graph.atom_types if graph.exchange else graph.atom_types[: encoded.rows[k]]
            end = encoded.edges[k]
            cotangents, by_edges = layer.vjp(
                cotangents, encoded.gate_in[k], encoded.messages[k], vec[:end], graph.edge_index[:, :end],
                seen, graph.exchange,
            )  # fmt: skip
            gradients += padded(by_edges, vec.shape[0])
            k -= 1
        return gradients.to(torch.float64)

    def repulsion(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """ZBL energies [n], and the derivative of their sum by the edges [E,3]; zeros of a model without."""
        edge_vec, n = graph.edge_vec, graph.batch.shape[0]
        edge_index, types = graph.edge_index, graph.atom_types
        if self.zbl is None:
            return edge_vec.new_zeros(n), torch.zeros_like(edge_vec)
        length = torch.linalg.vector_norm(edge_vec, dim=1)
        cutoffs = self.cutoffs[types[edge_index[0]], types[edge_index[1]]]
        scaled = (length / cutoffs).unsqueeze(1)
        counts = (edge_index[0] < n).unsqueeze(1)
        energies = self.zbl(edge_vec, scaled, edge_index, types)[:n]
        return energies, self.zbl.gradient(edge_vec, scaled, edge_index, types) * counts
