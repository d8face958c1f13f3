"""The `local` form: every atom its own process, its standard deviation a function of its own edges."""

from typing import Final

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.graph import Graph, own_types
from uqforce.model.inference_layers import InferenceInteraction
from uqforce.model.interaction import Interaction
from uqforce.model.noise.terms import DTYPES, AtomProcesses, Head, Noise, NoiseTerms

CHANNELS, WIDTH = 16, 32


class Invariants(nn.Module):
    """Scalars of irreps: those of l = 0, and the squared norms of the others, one per channel."""

    channels: Final[int]
    l_max: Final[int]

    def __init__(self, channels: int, l_max: int) -> None:
        super().__init__()
        self.channels, self.l_max = channels, l_max

    def forward(self, x: Tensor) -> Tensor:
        """x [n, sum_l (2l+1) C] -> [n, (l_max+1) C]."""
        parts, start = [x[:, : self.channels]], self.channels
        for l in range(1, self.l_max + 1):
            end = start + (2 * l + 1) * self.channels
            parts.append(x[:, start:end].view(-1, 2 * l + 1, self.channels).square().sum(1))
            start = end
        return torch.cat(parts, 1)

    def vjp(self, x: Tensor, cotangents: Tensor) -> Tensor:
        """Cotangents [K, n, (l_max+1) C] -> of x [K, n, sum_l (2l+1) C]."""
        parts, start = [cotangents[:, :, : self.channels]], self.channels
        for l in range(1, self.l_max + 1):
            end = start + (2 * l + 1) * self.channels
            own = 2.0 * x[:, start:end].view(1, -1, 2 * l + 1, self.channels)
            of_norms = cotangents[:, :, l * self.channels : (l + 1) * self.channels].unsqueeze(2)
            parts.append((own * of_norms).flatten(2))
            start = end
        return torch.cat(parts, 2)


class LocalNoise(Noise):
    """Coherent noise of any structure: E = sum_j [mu_j + sigma_j eps_j(r_j)], a process per atom.

    sigma_j reads the edges of atom j through one small layer of its own, and the network's last features as
    constants. So d sigma_j by an edge of centre j is one backward pass for all atoms, and with it exactly

        Cov(F_i) = sum_j d_i sigma_j d_i sigma_j^T + gamma_i^2 s_i I,    s_j = sigma_j^2,

    in any cell, at every size, with gamma one number per type.
    """

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__(config, num_features, members)
        self.local = True
        dtype, num_types = DTYPES[config.dtype], len(config.type_names)
        hidden = " + ".join(f"{CHANNELS}x{l}{'eo'[l % 2]}" for l in range(config.l_max + 1))
        self.type_embedding = nn.Parameter(torch.randn(num_types, CHANNELS, dtype=dtype))
        self.layer = Interaction(
            irreps_in=Irreps(f"{CHANNELS}x0e"),
            irreps_hidden=Irreps(hidden),
            l_max=config.l_max,
            num_bessels=config.num_bessels,
            radial_mlp_depth=1,
            radial_mlp_width=WIDTH,
            num_type_features=CHANNELS,
            neighbor_norm=[count**-0.5 for count in config.per_type("avg_num_neighbors", 1.0)],
            first=True,
            dtype=dtype,
        )
        self.invariants = Invariants(CHANNELS, config.l_max)
        dims = [CHANNELS * (config.l_max + 1) + num_features, WIDTH, 1]
        self.head = Head(members, dims, num_types, dtype)
        self.process = AtomProcesses(config, members)

    def forward(self, features: Tensor, edges: Edges, graph: Graph) -> NoiseTerms:
        x = torch.nn.functional.embedding(graph.atom_types, self.type_embedding)
        x = self.layer(x, edges, graph.edge_index, graph.atom_types, self.type_embedding)
        # `.data`, not `.detach()`, which freezing a script removes: then the features would be no constants
        u = self.head(torch.cat([self.invariants(x), features.data], 1), graph.atom_types)
        return self.process(u, graph)

    @torch.jit.unused
    def inference(self, cutoffs: Tensor) -> nn.Module:
        return LocalInference(self, cutoffs)


class LocalInference(Noise):
    """The inference form of `LocalNoise`: its layer's radial network is a table."""

    def __init__(self, noise: LocalNoise, cutoffs: Tensor) -> None:
        nn.Module.__init__(self)
        self.local = True
        self.layer = InferenceInteraction(noise.layer, noise.type_embedding, cutoffs, True)
        self.invariants, self.head = noise.invariants, noise.head
        self.process = noise.process

    def explicit(self, features: Tensor, graph: Graph) -> tuple[NoiseTerms, Tensor, Tensor]:
        """The layer reads types and edges alone, so ghosts need no communication."""
        vec, edge_index, types = graph.edge_vec.to(features.dtype), graph.edge_index, graph.atom_types
        messages = self.layer.messages(features, types, False)
        gate_in = self.layer(features, messages, vec, edge_index, types)
        x = self.layer.gate(gate_in)
        invariants = self.invariants(x)
        u, slope = self.head.with_gradient(torch.cat([invariants, features], 1), own_types(graph))
        terms = self.process(u, graph)
        sigma_gradients = (0.5 * torch.sigmoid(u) / terms.sigmas).to(features.dtype).unsqueeze(2)
        cotangents = self.invariants.vjp(x, slope[:, :, : invariants.shape[1]] * sigma_gradients)
        by_edges = self.layer.vjp(cotangents, gate_in, messages, vec, edge_index, types, False)[1]
        return terms, features.unsqueeze(0)[:0], by_edges.to(torch.float64)

    def own_trace(self, sigma_gradients: Tensor, graph: Graph) -> Tensor:
        """Edges to several images of an atom count as their sum where the atoms' numbers tell of images."""
        num_owned, numbers = graph.batch.shape[0], graph.numbers
        members, num_atoms = sigma_gradients.shape[0], graph.atom_types.shape[0]
        centre, neighbour = graph.edge_index[0], graph.edge_index[1]
        rows = sigma_gradients.transpose(0, 1).flatten(1)  # [E, 3 M]: see `sums_by_atom`
        if numbers is not None:
            rows = rows * (numbers[neighbour] != numbers[centre]).unsqueeze(1)
            key = centre * 2147483648 + numbers[neighbour]  # engines' numbers have 31 bits
            key, order = torch.sort(key, stable=True)
            # Every pair a row, counted from 0 or 1; rows to spare, since a size that the values decide
            # could not be compiled ahead of time.
            pair, spare = torch.cumsum(key != key.roll(1), 0), key.shape[0] + 1
            rows = rows.new_zeros(spare, 3 * members).index_add(0, pair, rows[order])
            # Of several images any one: their owner is the same.
            centre = centre.new_zeros(spare).scatter(0, pair, centre[order])
            neighbour = neighbour.new_zeros(spare).scatter(0, pair, neighbour[order])
        # One more: the rows to spare name an atom where a process has none, too.
        own = rows.new_zeros(num_atoms + 1, 3 * members).index_add(0, centre, rows)[:num_owned]
        squares = rows.new_zeros(num_atoms + 1).index_add(0, neighbour, rows.square().sum(1))[:num_atoms]
        squares = torch.ops.uqforce.ghost_exchange_vjp(squares.view(1, -1, 1), num_owned).flatten()
        return (squares + own.square().sum(1)) / members
