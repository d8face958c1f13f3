"""One typed function per kernel."""

from uqforce.ops.gmm_nll import gmm_nll
from uqforce.ops.neighbor_list import NeighborList, edge_vectors, neighbor_list
from uqforce.ops.tensor_product_conv import TensorProductSpec, tensor_product_conv

__all__ = [
    "NeighborList",
    "TensorProductSpec",
    "edge_vectors",
    "gmm_nll",
    "neighbor_list",
    "tensor_product_conv",
]
