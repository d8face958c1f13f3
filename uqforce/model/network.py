"""NequIP's network: edges and types in, per-atom energies and last features out."""

import math

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from uqforce.model.config import ModelConfig
from uqforce.model.embedding import EdgeEmbedding, Edges
from uqforce.model.graph import Graph
from uqforce.model.interaction import Interaction
from uqforce.model.linear import ScalarMLP
from uqforce.model.zbl import ZBL

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class PerTypeScaleShift(nn.Module):
    """energy_i = shift[type] + scale[type] * x_i in float64, eV."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        scales = torch.tensor(config.per_type("per_type_energy_scales", 1.0), dtype=torch.float64)
        shifts = torch.tensor(config.per_type("per_type_energy_shifts", 0.0), dtype=torch.float64)
        self.scales = nn.Parameter(scales, requires_grad=config.per_type_energy_scales_trainable)
        self.shifts = nn.Parameter(shifts, requires_grad=config.per_type_energy_shifts_trainable)

    def forward(self, x: Tensor, atom_types: Tensor) -> Tensor:
        return self.shifts[atom_types] + self.scales[atom_types] * x.to(torch.float64)


class Network(nn.Module):
    """NequIP (Batzner et al., Nat. Commun. 13, 2453 (2022)), architecture and constants of nequip 0.19."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dtype = DTYPES[config.dtype]
        self.dtype = dtype
        num_types = len(config.type_names)
        num_type_features = config.type_embed_num_features or config.num_features[0]
        self.type_embedding = nn.Parameter(torch.randn(num_types, num_type_features, dtype=dtype))
        self.edge_embedding = EdgeEmbedding(
            config.l_max,
            config.cutoff_table(),
            config.r_max,
            config.num_bessels,
            config.bessel_trainable,
            config.polynomial_cutoff_p,
            dtype,
        )
        # Nodes at which radial networks are evaluated in training, where a batch has more edges; 0: never.
        # So many that the interpolation's error stays below a tenth of the rounding of float32.
        self.radial_nodes = 16 * config.num_bessels + 64 if dtype == torch.float32 else 0
        counts = config.per_type("avg_num_neighbors", 1.0)
        irreps = Irreps([(num_type_features, (0, 1))])
        layers = []
        for i in range(config.num_layers):
            last = i == config.num_layers - 1
            layer = Interaction(
                irreps_in=irreps,
                irreps_hidden=Irreps(f"{config.num_features[0]}x0e" if last else config.hidden_irreps()),
                l_max=config.l_max,
                num_bessels=config.num_bessels,
                radial_mlp_depth=config.radial_mlp_depth,
                radial_mlp_width=config.radial_mlp_width,
                num_type_features=num_type_features,
                neighbor_norm=[1.0 / math.sqrt(count) for count in counts],
                first=i == 0,
                dtype=dtype,
            )
            layers.append(layer)
            irreps = layer.irreps_out
        self.layers = nn.ModuleList(layers)
        width = config.readout_mlp_hidden_layers_width or irreps.dim
        depth = config.readout_mlp_hidden_layers_depth
        self.readout = ScalarMLP(
            [irreps.dim] + [width] * depth + [config.heads], dtype, config.readout_mlp_nonlinearity
        )
        self.num_last_features = width if depth else irreps.dim
        self.scale_shift = PerTypeScaleShift(config)
        self.zbl = ZBL(config.type_names) if config.zbl else None

    def embed(self, graph: Graph) -> Edges:
        """The edges as the layers see them."""
        # Lengths rounded to float32 would cost a digit in stresses; in training that does not matter.
        vec = graph.edge_vec.to(self.dtype if self.training else torch.float64)
        if self.training and 0 < self.radial_nodes < vec.shape[0]:
            edge_sh, scaled_length = self.edge_embedding.geometry(vec, graph.edge_index, graph.atom_types)
            basis, slope = self.edge_embedding.node_basis(self.radial_nodes)
            return Edges(vec, edge_sh, scaled_length, basis, slope)
        edge_sh, basis, scaled_length = self.edge_embedding(vec, graph.edge_index, graph.atom_types)
        return Edges(vec, edge_sh, scaled_length, basis, None)

    def features(self, edges: Edges, graph: Graph) -> Tensor:
        """The last features [N,D] of embedded edges."""
        x = torch.nn.functional.embedding(graph.atom_types, self.type_embedding)
        for layer in self.layers:
            x = layer(x, edges, graph.edge_index, graph.atom_types, self.type_embedding)
        return self.readout.hidden(x)

    def energies(self, features: Tensor, edges: Edges, graph: Graph) -> Tensor:
        """Energies [M,N] of last features."""
        energies = self.scale_shift(self.readout.last(features).t(), graph.atom_types)
        if self.zbl is not None:
            energies = energies + self.zbl(edges.vec, edges.scaled_length, graph.edge_index, graph.atom_types)
        return energies

    @torch.jit.unused
    def inference(self, cutoffs: Tensor) -> nn.Module:
        """Its inference form, of the float64 network, for cutoffs [T,T] A of pairs of types."""
        from uqforce.model.inference_network import InferenceNetwork

        return InferenceNetwork(self, cutoffs)

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        """Energy scales of atoms [N], eV."""
        return self.scale_shift.scales[atom_types]

    @torch.jit.unused
    def last_layer(self) -> nn.Parameter:
        """Weights [D,M] of the last linear map, from the last features to the energies."""
        return self.readout.last.weight
