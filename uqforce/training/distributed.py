"""Processes of one training run, started with `torchrun`.

Every process holds the whole model and a share of each batch. Gradients are summed by hand after the backward
pass: losses are already divided by the entries of the whole batch, so the sum is the gradient that one
process would have found, and nothing depends on hooks firing in a double backward.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    size: int = 1

    @staticmethod
    def start() -> Processes:
        """Join the processes that `torchrun` started; alone where it was not used."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return Processes(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients_(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over processes."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients)])

    def from_first(self, value):
        """The first process's `value` (any picklable object) in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def stop(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()
