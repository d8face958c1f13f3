"""Definition of `uqforce.ops.edge_embedding` in plain torch."""

import math

import torch
from torch import Tensor

from uqforce.reference.wigner_3j import wigner_3j


def edge_embedding(edge_vec: Tensor, inverse_cutoff: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """edge_vec [E,3], inverse_cutoff [E] or [1] -> edge_sh [E, (l_max + 1)^2], scaled length [E,1].

    Y_l is the coupling of Y_1 and Y_{l-1} to degree l, scaled so that Y_l(0, 1, 0) has the one entry
    sqrt(2l + 1) in the middle.
    """
    length = edge_vec.norm(dim=1, keepdim=True)
    normal = edge_vec / length.clamp(min=1e-300)
    first = math.sqrt(3.0) * normal
    degrees = [torch.ones_like(length), first][: l_max + 1]
    for l in range(2, l_max + 1):
        coupling = wigner_3j(1, l - 1, l).to(edge_vec)
        scale = math.sqrt(2 * l + 1) / (math.sqrt(3.0 * (2 * l - 1)) * coupling[1, l - 1, l])
        degrees.append(scale * torch.einsum("ea,eb,abc->ec", first, degrees[-1], coupling))
    return torch.cat(degrees, dim=1), length * inverse_cutoff[:, None]
