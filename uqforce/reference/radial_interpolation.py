"""Definition of `uqforce.ops.radial_interpolation` in plain torch."""

import torch
from torch import Tensor

WIDTH = 8


def lagrange(table: Tensor, x: Tensor) -> Tensor:
    """table [R,W] at R nodes evenly over [0, 1], x [E,1] -> [E,W], zero where x >= 1.

    The polynomial of degree 7 through the values at the 8 nodes around x (Lagrange's form).
    """
    rows = table.shape[0]
    position = x[:, 0] * (rows - 1)
    first = (position.detach().clamp(max=rows - 1).floor().long() - (WIDTH // 2 - 1)).clamp(0, rows - WIDTH)
    t = position - first
    result = torch.zeros(len(x), table.shape[1], dtype=table.dtype, device=table.device)
    for k in range(WIDTH):
        polynomial = torch.ones_like(t)
        for j in range(WIDTH):
            if j != k:
                polynomial = polynomial * (t - j) / (k - j)
        result = result + polynomial[:, None] * table[first + k]
    return result * (x < 1)


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, slope, x):
        ctx.save_for_backward(table, slope, x)
        return lagrange(table, x)

    @staticmethod
    def backward(ctx, grad):
        table, slope, x = ctx.saved_tensors
        with torch.enable_grad():
            value = lagrange(zero := torch.zeros_like(table).requires_grad_(), x)
            (dtable,) = torch.autograd.grad(value, zero, grad, create_graph=True)
        return dtable, None, (grad * lagrange(slope, x)).sum(1, keepdim=True)


def radial_interpolation(table: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """`lagrange(table, x)`, whose derivative by x is taken to be `lagrange(slope, x)`."""
    return _Interpolation.apply(table, slope, x)
