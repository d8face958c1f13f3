"""A Bayesian network: the training loop as a Markov chain over the weights, of which samples are kept.

Rensmeyer, Craig, Kramer, Niggemann, arXiv:2304.03694, with the momentum rescaled where the step size varies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uqforce.training.config_sections import SamplerConfig
from uqforce.training.loop import Trainer
from uqforce.training.prior import GaussianPrior
from uqforce.training.schedule import Schedule
from uqforce.training.sghmc import SGHMC

IN_UNITS = ("scale_shift", "frequencies", "log_gamma")
"""Parameters with a meaning and a unit: their prior is centred on where they start, never on zero."""


class SamplerSchedule(Schedule):
    """Step sizes: exponential from `lr` to `lr_final` over the burn-in, then cycles, each a half cosine."""

    config: SamplerConfig  # type: ignore[assignment]  # instead of the schedule's

    def __init__(self, config: SamplerConfig, steps_per_epoch: int):
        self.config = config
        self.burn_in, self.cycle = config.burn_in * steps_per_epoch, config.cycle * steps_per_epoch

    def lr(self, step: int) -> float:
        """Of the step with this number, counted from 0. Cycles: Zhang et al., ICLR 2020, Eq. 1."""
        c = self.config
        if step < self.burn_in:
            return c.lr * (c.lr_final / c.lr) ** (step / max(1, self.burn_in - 1))
        done = (step - self.burn_in) % self.cycle / self.cycle
        return 0.5 * c.lr_cycle * (math.cos(math.pi * done) + 1.0)

    def end_epoch(self, loss: float) -> None:
        pass

    def state_dict(self) -> dict[str, float | int]:
        return {}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        pass


class Sampler(Trainer):
    """One chain in `directory`, which is resumed, distributed and judged as a training run is.

    Writes sample_000.uqf after the burn-in and one more after every cycle: complete models. Since a sample is
    written before the checkpoint of its epoch, a chain that was killed between writes the same one again.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.prior = GaussianPrior(self.parameters, self.config.sampler.prior_scale, self._centres())

    def _make_optimizer(self) -> SGHMC:
        c = self.config.sampler
        return SGHMC(
            self.parameters,
            c.lr,
            len(self.train),
            alpha=c.alpha,
            beta=c.beta,
            eps=c.eps,
            freeze_step=c.freeze_epochs * self.steps_per_epoch,
            temperature=c.temperature,
            seed=self.config.seed,
        )

    def _make_schedule(self) -> SamplerSchedule:
        return SamplerSchedule(self.config.sampler, self.steps_per_epoch)

    def _centres(self) -> list[Tensor]:
        """Of the prior: the network's weights where they came from a model (`start`), zero elsewhere."""
        trained = [(name, p) for name, p in self.potential.named_parameters() if p.requires_grad]
        started = self.config.model.start is not None
        return [
            parameter.detach().clone()
            if (started and name.startswith("network.")) or any(part in name for part in IN_UNITS)
            else torch.zeros_like(parameter)
            for name, parameter in trained
        ]

    def objective(self, terms: Tensor, counts: Tensor) -> Tensor:
        """Mean over the batch's structures of their negative log likelihoods, nats.

        Its gradient and that of the prior, divided by the number of training structures, are those of the
        negative log posterior, divided by the same number.
        """
        weights = [getattr(self.config.loss, name).weight for name in ("energy", "forces", "stress")]
        first = self.progress.step * self.config.batch_size
        structures = min(self.config.batch_size, len(self.train) - first)
        return (terms * terms.new_tensor(weights)).sum() / structures

    def _clip(self) -> float:
        """The gradients are summed over processes here, so that the prior is counted once."""
        self.prior.add_gradient_(len(self.train))
        return super()._clip()

    def _columns(self) -> dict[str, float]:
        return {"temperature": self.optimizer.kinetic_temperature()}

    def _keep_model(self, improved: bool) -> None:
        number = self.config.sampler.sample_after(self.progress.epoch)
        if number is not None:
            self.save_model(sample_name(number))


def sample_name(number: int) -> str:
    """File of a chain's sample 0, 1, ..."""
    return f"sample_{number:03d}.uqf"
