"""What the tests of several ops do: take derivatives of two orders, and compare them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def second_order(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    """Value of function(x, weight, *others), first derivatives, and the derivatives of a function of them."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = function(x, weight, *others)
    grad = out.detach().sin().requires_grad_()
    first = torch.autograd.grad(out, [x, weight], grad, create_graph=True)
    seeds = [(t.detach() / (1 + t.detach().norm())).cos() for t in first]
    second = torch.autograd.grad(first, [grad, x, weight], seeds)
    return out, *first, *second


def assert_close(actual: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float) -> None:
    """Largest error relative to the largest entry."""
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        if b.numel():
            assert (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max()
