"""One typed function per kernel."""

from uqforce.ops.block_linear import BlockSpec, block_linear
from uqforce.ops.edge_embedding import edge_embedding
from uqforce.ops.force_variance import ForceVariance, force_variance
from uqforce.ops.gate import GateSpec, gate
from uqforce.ops.gmm_nll import gmm_nll
from uqforce.ops.neighbor_list import NeighborList, edge_vectors, neighbor_list
from uqforce.ops.radial_interpolation import radial_interpolation
from uqforce.ops.tabulated_conv import radial_table, tabulated_conv, tabulated_conv_vjp
from uqforce.ops.tensor_product_conv import TensorProductSpec, tensor_product_conv
from uqforce.ops.type_weights import type_weights

__all__ = [
    "BlockSpec",
    "ForceVariance",
    "GateSpec",
    "NeighborList",
    "TensorProductSpec",
    "block_linear",
    "edge_embedding",
    "edge_vectors",
    "force_variance",
    "gate",
    "gmm_nll",
    "neighbor_list",
    "radial_interpolation",
    "radial_table",
    "tabulated_conv",
    "tabulated_conv_vjp",
    "tensor_product_conv",
    "type_weights",
]
