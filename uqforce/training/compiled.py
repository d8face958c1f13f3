"""A training step's losses and gradients as one compiled function (AOTInductor): no Python and no autograd.

What a step computes, forces by autograd and the gradients through them, is traced once, and the list of
operations compiled for this processor: the kernels stay, what stands between them becomes a few loops. The
function takes batches of any size, and the same numbers come out as without, to rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from uqforce.ahead_of_time import check_compiler, compile_module
from uqforce.data import Batch
from uqforce.errors import ConfigError, InstallationError
from uqforce.model import Potential
from uqforce.model.predict import predict_members
from uqforce.training.config_sections import LossConfig
from uqforce.training.loss import PROPERTIES, Measure, measure_members

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

TENSORS = tuple(name for name in Batch._fields if name not in ("pbc", "num_structures"))
MANY = {"edge_index": 1}  # the dimension whose length depends on the batch, 0 for the other tensors


class _Measured(nn.Module):
    """What the heads of a potential say of a batch, measured by the loss."""

    def __init__(self, potential: Potential, loss: LossConfig) -> None:
        super().__init__()
        self.potential, self.loss = potential, loss

    def forward(self, batch: Batch) -> Measure:
        return measure_members(predict_members(self.potential, batch), batch, self.loss)


class CompiledStep:
    """Losses of batches, and their gradients by the trained weights of `potential`, whatever these are now.

    Args:
        potential: on a processor, without noise and dropout (`TrainConfig` refuses these).
        sample: any batch of two or more structures; it is traced, not trained on.

    Raises:
        ConfigError: there is no compiler.
    """

    def __init__(self, potential: Potential, loss: LossConfig, sample: Batch) -> None:
        try:
            check_compiler()
        except InstallationError as error:
            raise ConfigError(f"compile: true: {error}, or set compile: false") from error
        measured = _Measured(potential.train(), loss)
        state = {**dict(measured.named_parameters()), **dict(measured.named_buffers())}
        trained = {name for name, tensor in state.items() if tensor.requires_grad}
        self.names = sorted(trained) + sorted(state.keys() - trained)
        self.tensors, self.num_trained = [state[name] for name in self.names], len(trained)
        self.trained = self.tensors[: self.num_trained]
        arguments = [*self._state(), *_tensors(sample), torch.ones(len(PROPERTIES), dtype=torch.float64)]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "step.pt2"
            self._compile(measured, arguments, path)
            self.package = torch._C._aoti.AOTIModelPackageLoader(str(path), "step", False, 1, -1)

    def _state(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self.tensors]

    def _compile(self, measured: _Measured, arguments: list[Tensor], path: Path) -> None:
        import torch.fx.experimental._config as symbolic_shapes
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.export import Dim
        from torch.export.pt2_archive._package import package_pt2
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        def step(*arguments: Tensor) -> list[Tensor]:
            state = dict(zip(self.names, arguments))
            trained = [state[name].detach().requires_grad_(True) for name in self.names[: self.num_trained]]
            state |= zip(self.names, trained)
            batch = _batch(arguments[len(self.names) : -1])
            terms, tally = torch.func.functional_call(measured, state, (batch,))
            gradients = torch.autograd.grad((terms * arguments[-1]).sum(), trained)
            return [tally.detach(), *(gradient.detach() for gradient in gradients)]

        sizes = [None] * len(self.names) + [MANY.get(name, 0) for name in TENSORS] + [None]
        # No size of a batch is special, not even 0 or 1, and none is another one that happens to be equal.
        with symbolic_shapes.patch(backed_size_oblivious=True, use_duck_shape=False):
            fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
            fakes = [_fake(tensor, size, fake_mode) for tensor, size in zip(arguments, sizes)]
            with fake_mode:
                graph = make_fx(step)(*fakes)
            shapes = tuple({} if size is None else {size: Dim.DYNAMIC} for size in sizes)
            files = compile_module(_Flat(graph), arguments, (shapes,))
        package_pt2(str(path), aoti_files={"step": files})

    def __call__(self, batch: Batch, factors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`Measure.tally` [4,3] of the batch, and the gradients of sum(factors [3] * `Measure.terms`)."""
        tally, *gradients = self.package.run([*self._state(), *_tensors(batch), factors])
        return tally, gradients


def _fake(tensor: Tensor, size: int | None, mode: FakeTensorMode) -> Tensor:
    """The tensor without its values, one of its sizes a symbol."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    sizes = [DimDynamic.DYNAMIC if k == size else DimDynamic.STATIC for k in range(tensor.dim())]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


class _Flat(nn.Module):
    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: Tensor) -> Sequence[Tensor]:
        return self.graph(*arguments)


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, name).contiguous() for name in TENSORS]


def _batch(tensors: Sequence[Tensor]) -> Batch:
    named = dict(zip(TENSORS, tensors))
    cell, energy = named["cell"], named["energy"]
    # Neither is periodicity asked for once there are neighbours, nor a number where a length says it.
    return Batch(**named, pbc=cell[:, 0] != 0, num_structures=energy.shape[0])
