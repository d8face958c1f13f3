"""The `local` form: every atom its own process, its standard deviation a function of its own edges."""

from typing import Final, Optional

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import Edges
from uqforce.model.inference_layers import InferenceInteraction
from uqforce.model.interaction import Interaction
from uqforce.model.noise.terms import DTYPES, AtomProcesses, Head, NoiseTerms

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


class LocalNoise(nn.Module):
    """Coherent noise of any structure: E = sum_j [mu_j + sigma_j eps_j(r_j)], a process per atom.

    sigma_j reads the edges of atom j through one small layer of its own, and the network's last features as
    constants. So d sigma_j by an edge of centre j is one backward pass for all atoms, and with it exactly

        Cov(F_i) = sum_j d_i sigma_j d_i sigma_j^T + gamma_i^2 s_i I,    s_j = sigma_j^2,

    in any cell, at every size, with gamma one number per type.
    """

    local: Final[bool]

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__()
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

    def forward(
        self, features: Tensor, edges: Edges, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int,
    ) -> NoiseTerms:  # fmt: skip
        x = torch.nn.functional.embedding(atom_types, self.type_embedding)
        x = self.invariants(self.layer(x, edges, edge_index, atom_types, self.type_embedding))
        # `.data`, not `.detach()`, which freezing a script removes: then the features would be no constants
        u = self.head(torch.cat([x, features.data], 1), atom_types)
        return self.process(u, atom_types, batch, num_structures, False)

    def split(
        self, gradients: Tensor, terms: NoiseTerms, edge_index: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return gradients, gradients * terms.sigmas[:, edge_index[0]].unsqueeze(2)

    @torch.jit.unused
    def inference(self, cutoffs: Tensor) -> nn.Module:
        return LocalInference(self, cutoffs)


class LocalInference(nn.Module):
    """The inference form of `LocalNoise`: its layer's radial network is a table."""

    local: Final[bool]

    def __init__(self, noise: LocalNoise, cutoffs: Tensor) -> None:
        super().__init__()
        self.local = True
        self.layer = InferenceInteraction(noise.layer, noise.type_embedding, cutoffs, True)
        self.invariants, self.head = noise.invariants, noise.head
        self.process = noise.process

    def explicit(
        self, features: Tensor, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor,
        num_structures: int, many_ranks: bool, numbers: Optional[Tensor],
    ) -> tuple[NoiseTerms, Tensor, Tensor]:  # fmt: skip
        """The layer reads types and edges alone, so ghosts need no communication."""
        vec, types = edge_vec.to(features.dtype), atom_types[: batch.shape[0]]
        messages = self.layer.messages(features, atom_types, False)
        gate_in = self.layer(features, messages, vec, edge_index, atom_types)
        x = self.layer.gate(gate_in)
        invariants = self.invariants(x)
        u, slope = self.head.with_slope(torch.cat([invariants, features], 1), types)
        terms = self.process(u, types, batch, num_structures, many_ranks)
        of_u = (0.5 * torch.sigmoid(u) / terms.sigmas).to(features.dtype).unsqueeze(2)
        cotangents = self.invariants.vjp(x, slope[:, :, : invariants.shape[1]] * of_u)
        of_edges = self.layer.vjp(cotangents, gate_in, messages, vec, edge_index, atom_types, False)[1]
        return terms, features.unsqueeze(0)[:0], of_edges.to(torch.float64)

    def split(
        self, gradients: Tensor, terms: NoiseTerms, edge_index: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        ghosts = batch.shape[0] - terms.sigmas.shape[1]  # their edges have no slopes
        sigmas = torch.nn.functional.pad(terms.sigmas, [0, ghosts])[:, edge_index[0]]
        return gradients, gradients * sigmas.unsqueeze(2)

    def own_trace(
        self, slopes: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int,
        numbers: Optional[Tensor],
    ) -> Tensor:  # fmt: skip
        """Edges to several images of an atom count as their sum where the atoms' numbers tell of images."""
        members, num_atoms = slopes.shape[0], atom_types.shape[0]
        centre, neighbour = edge_index[0], edge_index[1]
        rows = slopes.transpose(0, 1).flatten(1)  # [E, 3 M]: see `sums_by_atom`
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
