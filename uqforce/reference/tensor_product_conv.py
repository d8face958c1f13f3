"""The tensor-product convolution in plain torch: slow and obvious, the definition of the op."""

from math import sqrt

import torch
from torch import Tensor

from uqforce.reference.wigner_3j import wigner_3j


def tensor_product_conv(
    x: Tensor, edge_sh: Tensor, edge_weight: Tensor, edge_index: Tensor, spec: list[int]
) -> Tensor:
    """See `uqforce.ops.tensor_product_conv`; `spec` is `TensorProductSpec.flat`."""
    _, dim_out, _, _, n_paths = spec[:5]
    centre, neighbour = edge_index
    out = x.new_zeros(x.shape[0], dim_out)
    for p in range(n_paths):
        l1, l2, l3, mul, in_offset, in_stride, out_offset, out_stride, weight_offset = spec[
            5 + 9 * p : 14 + 9 * p
        ]
        channel = torch.arange(mul, device=x.device)
        columns_in = in_offset + in_stride * torch.arange(2 * l1 + 1, device=x.device)[:, None] + channel
        columns_out = out_offset + out_stride * torch.arange(2 * l3 + 1, device=x.device)[:, None] + channel
        message = sqrt(2 * l3 + 1) * torch.einsum(
            "abc,eau,eb,eu->ecu",
            wigner_3j(l1, l2, l3).to(x),
            x[neighbour][:, columns_in],
            edge_sh[:, l2**2 : (l2 + 1) ** 2],
            edge_weight[:, weight_offset : weight_offset + mul],
        )
        summed = message.new_zeros(x.shape[0], *message.shape[1:]).index_add(0, centre, message)
        out = out.index_add(1, columns_out.flatten(), summed.flatten(1))
    return out
