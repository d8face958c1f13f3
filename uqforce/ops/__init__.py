"""One typed function per kernel."""

from uqforce.ops.gmm_nll import gmm_nll
from uqforce.ops.tensor_product_conv import TensorProductSpec, tensor_product_conv

__all__ = ["TensorProductSpec", "gmm_nll", "tensor_product_conv"]
