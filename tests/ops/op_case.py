"""What the six tests of every op (`test_six.py`) need to know of one, and derivatives of two orders.

Torch alone is imported here: a fresh process takes derivatives of a saved op without uqforce.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Arguments = Sequence[Any]
Sample = Callable[[], Arguments]


@dataclass(frozen=True)
class OpCase:
    """One op: its functions, its arguments, and how exact it is.

    A sample makes the op's positional arguments anew, in float64 on the CPU. Tests bear the samples' names.
    """

    op: Callable
    """Of `uqforce.ops`; it is scripted as it stands."""

    reference: Callable
    """The definition, with the same arguments and the same results."""

    differentiable: tuple[int, ...]
    """Positions of the arguments by which derivatives are taken."""

    samples: dict[str, Sample]
    """Compared with the definition, between instruction sets, and with a fresh process."""

    tiny: dict[str, Sample]
    """A few numbers, for finite differences."""

    edges: dict[str, Sample]
    """No atoms, one, no neighbours, more than 65 535: compared with the definition."""

    many: dict[str, Sample]
    """Work for several threads: computed again and again, the bits are the same."""

    called: dict[str, Sample]
    """For opcheck: a few numbers, and none."""

    calls: Callable[..., Iterable[tuple[Any, ...]]]
    """From arguments of the op: (name, arguments) of every schema that it stands on; behind them the names of
    opcheck's tests where not all can be asked for."""

    csrc: str = ""
    """Folder of its kernels, if that has another name than the op."""

    order: int = 2
    """How often the op can be differentiated: 0, 1 or 2."""

    refusal: str = "twice, not three times"
    """What it says to one derivative more; empty if any number can be taken."""

    tolerance: dict[torch.dtype, float] = field(
        default_factory=lambda: {torch.float32: 1e-5, torch.float64: 1e-13}
    )
    """Largest error relative to the largest entry of a result."""

    edge_tolerance: dict[torch.dtype, float] = field(default_factory=dict)
    """As `tolerance`, where it must be another for `edges`: sums of very many terms."""

    elsewhere: dict[str, Sample] = field(default_factory=dict)
    """More samples for the fresh process and the instruction sets alone."""

    layout_eps: int = 0
    """By how many roundings the layout of arguments may change results (torch's products), or not."""

    isa_eps: int = 0
    """By how many roundings instruction sets may differ, relative to the largest entry; 0: the same bits."""

    @property
    def name(self) -> str:
        return self.op.__name__

    @property
    def fresh(self) -> dict[str, Sample]:
        return {**self.samples, **self.elsewhere}

    @property
    def folder(self) -> str:
        return self.csrc or self.name


def overload(schema: str) -> torch._ops.OpOverload:
    """The op of a name, or of a name and an overload's, "op.overload"."""
    name, _, which = schema.partition(".")
    return getattr(getattr(torch.ops.uqforce, name), which or "default")


def random_like(tensor: Tensor, generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
    """Normal numbers in the tensor's type and place; rounded to `dtype` first, to compare two types."""
    numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return numbers.to(dtype or tensor.dtype).to(tensor)


def placed(arguments: Arguments, dtype: torch.dtype, device: torch.device | str = "cpu") -> list[Any]:
    """Arguments of a sample with their tensors on the device, floating-point ones in `dtype`."""
    return [
        argument.to(device, dtype if argument.is_floating_point() else None)
        if isinstance(argument, Tensor)
        else argument
        for argument in arguments
    ]


def derivatives(
    function: Callable,
    arguments: Arguments,
    differentiable: tuple[int, ...],
    order: int = 2,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Results of the function, their first derivatives, and the derivatives of a function of these.

    Cotangents are random and always the same. Second derivatives are by the first cotangents too, so that a
    backward pass and its own backward are seen whole. A derivative that does not exist is zero.
    """
    generator = torch.Generator().manual_seed(1)
    arguments = list(arguments)
    inputs = [arguments[k].detach().requires_grad_(order > 0) for k in differentiable]
    for k, tensor in zip(differentiable, inputs, strict=True):
        arguments[k] = tensor
    results = function(*arguments)
    results = [results] if isinstance(results, Tensor) else list(results)
    found = list(results)
    for _ in range(order):
        smooth = [t for t in results if t.is_floating_point()]
        seeds = [random_like(t, generator, dtype).requires_grad_() for t in smooth]
        pairs = [(t, seed) for t, seed in zip(smooth, seeds, strict=True) if t.requires_grad]
        results = torch.autograd.grad(
            [t for t, _ in pairs],
            inputs,
            [seed for _, seed in pairs],
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        found += results
        inputs = [*seeds, *inputs]
    return [t.detach() for t in found]


def assert_close(actual: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float) -> None:
    """Largest error relative to the largest entry, or to 0.1 where terms cancel; integers are equal."""
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        if not b.is_floating_point():
            assert torch.equal(a, b)
        elif b.numel():
            assert (a.double() - b.double()).abs().max() <= tolerance * max(b.double().abs().max(), 0.1)


def assert_same_bits(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
