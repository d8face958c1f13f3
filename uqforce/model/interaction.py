"""One message-passing layer of NequIP."""

import torch
from e3nn.o3 import Irrep, Irreps
from torch import Tensor, nn

from uqforce.model.embedding import Edges
from uqforce.model.gate import Gate
from uqforce.model.linear import IrrepsLinear, ScalarMLP
from uqforce.ops import BlockSpec, TensorProductSpec


class SelfConnection(nn.Module):
    """Linear map of an atom's own features with weights that depend on its type: x (x) type features -> out.

    e3nn's FullyConnectedTensorProduct of `irreps_in` with `num_type_features` even scalars, same weights and
    normalisation. Since the scalars are a function of the type, they are contracted with the weights first.
    """

    spec: list[int]

    def __init__(
        self, irreps_in: Irreps, num_type_features: int, irreps_out: Irreps, dtype: torch.dtype
    ) -> None:
        super().__init__()
        spec = BlockSpec(irreps_in, irreps_out, num_type_features)
        self.spec = spec.flat
        self.weight = nn.Parameter(torch.randn(num_type_features * spec.weight_numel, dtype=dtype))

    def forward(self, x: Tensor, atom_types: Tensor, type_features: Tensor) -> Tensor:
        """x [N, dim_in], atom_types [N], type_features [T, V] -> [N, dim_out], zeros where x lacks one."""
        weight = torch.ops.uqforce.type_weights(type_features, self.weight, self.spec)
        return torch.ops.uqforce.block_linear(x, weight, atom_types, self.spec, False)


def is_reachable(irreps_in: Irreps, irreps_sh: Irreps, ir: Irrep) -> bool:
    return any(ir in a * b for _, a in irreps_in for _, b in irreps_sh)


class Interaction(nn.Module):
    """Linear map, convolution, linear map, self-connection, gate (nequip's ConvNetLayer).

    Args:
        irreps_in: irreps of the incoming features.
        irreps_hidden: irreps wanted; `irreps_out` are those of them that a path leads to.
        neighbor_norm: 1 / sqrt(mean number of neighbours), one per type of the neighbour.
        first: the first layer has no self-connection, so that an isolated atom keeps its reference energy.
    """

    spec: list[int]

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_hidden: Irreps,
        l_max: int,
        num_bessels: int,
        radial_mlp_depth: int,
        radial_mlp_width: int,
        num_type_features: int,
        neighbor_norm: list[float],
        first: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        irreps_in, irreps_sh = Irreps(irreps_in), Irreps.spherical_harmonics(l_max)
        reachable = [(mul, ir) for mul, ir in Irreps(irreps_hidden) if is_reachable(irreps_in, irreps_sh, ir)]
        self.gate = Gate(
            Irreps([r for r in reachable if r[1].l == 0]), Irreps([r for r in reachable if r[1].l > 0])
        )
        self.irreps_in, self.irreps_out = irreps_in, self.gate.irreps_out
        self.conv = conv = TensorProductSpec(irreps_in, l_max, self.gate.irreps_in)
        self.spec = conv.flat
        self.linear_in = IrrepsLinear(irreps_in, irreps_in, dtype)
        self.register_buffer("neighbor_norm", torch.tensor(neighbor_norm, dtype=dtype).view(-1, 1))
        self.radial = ScalarMLP(
            [num_bessels] + [radial_mlp_width] * radial_mlp_depth + [conv.weight_numel], dtype
        )
        self.linear_out = IrrepsLinear(conv.irreps_out, self.gate.irreps_in, dtype)
        self.self_connection = (
            None if first else SelfConnection(irreps_in, num_type_features, self.gate.irreps_in, dtype)
        )

    def forward(
        self, x: Tensor, edges: Edges, edge_index: Tensor, atom_types: Tensor, type_features: Tensor
    ) -> Tensor:
        """x [N, irreps_in.dim] -> [N, irreps_out.dim].

        Where the edges have a `slope`, the radial network is evaluated at nodes and interpolated.
        """
        node_slope = edges.slope
        if node_slope is not None:
            table, slope = self.radial.with_slope(edges.basis, node_slope)
            edge_weight = torch.ops.uqforce.radial_interpolation(table, slope, edges.scaled_length)
        else:
            edge_weight = self.radial(edges.basis)
        messages = self.linear_in(x) * torch.nn.functional.embedding(atom_types, self.neighbor_norm)
        messages = torch.ops.uqforce.tensor_product_conv(
            messages, edges.sh, edge_weight, edge_index, self.spec
        )
        out = self.linear_out(messages)
        if self.self_connection is not None:
            out = out + self.self_connection(x, atom_types, type_features)
        return self.gate(out)
