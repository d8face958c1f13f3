"""Learning rate as a function of the step and, for `plateau`, of the validation losses seen so far.

Never of the clock: a run that was killed and resumed takes the same learning rates.
"""

from __future__ import annotations

import math

from uqforce.training.config_sections import ScheduleConfig


class Schedule:
    """`lr(step)` for `constant`, `cosine` (to `lr * final_factor` after `horizon` epochs) and `plateau`."""

    def __init__(self, config: ScheduleConfig, lr: float, steps_per_epoch: int):
        self.config = config
        self.base = lr
        self.warmup = config.warmup_epochs * steps_per_epoch
        self.horizon = max(1, (config.horizon or 1) * steps_per_epoch)
        self.factor = 1.0
        self.best = math.inf
        self.bad_epochs = 0

    def lr(self, step: int) -> float:
        """Learning rate of the step with this number, counted from 0 over the whole run."""
        if step < self.warmup:
            return self.base * (step + 1) / self.warmup
        if self.config.kind == "cosine":
            done = min(1.0, (step - self.warmup) / max(1.0, self.horizon - self.warmup))
            floor = self.config.final_factor
            return self.base * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done)))
        return self.base * self.factor

    def end_epoch(self, loss: float) -> None:
        """Take the epoch's validation loss; `plateau` lowers the rate after `patience` without gain."""
        if self.config.kind != "plateau":
            return
        if loss < self.best:
            self.best, self.bad_epochs = loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.config.patience:
            self.factor = max(self.factor * self.config.factor, self.config.final_factor)
            self.bad_epochs = 0

    def state_dict(self) -> dict[str, float | int]:
        return {"factor": self.factor, "best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.factor, self.best, self.bad_epochs = state["factor"], state["best"], int(state["bad_epochs"])
