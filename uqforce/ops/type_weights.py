"""Weights of an equivariant linear map for each type of atom."""

import torch
from torch import Tensor


def type_weights(features: Tensor, weight: Tensor, spec: list[int]) -> Tensor:
    """Contract e3nn's weights of (features x scalars of a type -> features) with the scalars of every type.

    `out[t, weight_offset + u mul_out + w] = sum_v features[t, v] weight[V weight_offset + (u V + v) mul_out
    + w]` for every block: rows of weights for `block_linear`. The result does not depend on the number of
    threads. Differentiable any number of times in features and weight; scriptable.

    Args:
        features: [T, V] scalars of each type, float32 or float64.
        weight: [V * weight_numel], block by block [mul_in, V, mul_out].
        spec: `BlockSpec.flat`.

    Returns:
        [T, weight_numel].

    Raises:
        ValueError: shapes do not fit the spec or each other, or blocks overlap.
        TypeError: features and weight are not both float32 or float64.
    """
    return torch.ops.uqforce.type_weights(features, weight, spec)
