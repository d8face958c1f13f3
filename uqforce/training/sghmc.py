"""Stochastic gradient Hamiltonian Monte Carlo with AMSGrad's preconditioner, learned and then frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from uqforce.errors import InputError

CHUNK = 1 << 15  # weights handled at a time on a CPU: all their arrays stay in a core's cache


class SGHMC(torch.optim.Optimizer):
    """Steps of a Markov chain whose stationary law, for a small step size, is exp(-U / temperature).

    Chen, Fox, Guestrin (ICML 2014) in the variables of Rensmeyer et al., arXiv:2304.03694. The gradient given
    to step t is g = grad U / num_data, estimated from a batch, with U the negative log posterior; elementwise

        p     = (1 - alpha) sqrt(lr' / lr) p - alpha g + alpha xi,  xi ~ N(0, 2 temperature D / (lr num_data))
        theta = theta + lr p / (D debias),                          debias = 1 - (1 - alpha)^t or 1

    with lr' the step size before. Up to step `freeze_step` D = sqrt(max_t v / (1 - beta^t)) + eps with
    v = beta v + (1 - beta) g^2, as in AMSGrad; without noise those steps are Adam's (betas 1 - alpha, beta).
    Afterwards D stays as it is: only then is this a Markov chain with a known law. On a quadratic U of
    curvature lambda with exact gradients, and a constant lr, it is a Gaussian of variance
    (temperature / lambda) / (1 - alpha lr lambda / (2 (2 - alpha) D num_data)).

    The stationary variance of p goes as 1 / lr, hence the square root: with a step size that varies, and
    above all one that jumps up where a cycle begins, a momentum left as it was would be far too cold or hot.

    Args:
        params: weights or groups of weights; a weight without a gradient counts as one of gradient zero.
        lr: step size; a schedule may change it between steps.
        num_data: structures (or other independent data) in U.
        freeze_step: last step that updates D; None: all do, and the samples are biased.
        temperature: of the posterior; 0 is plain AMSGrad.
        debias: Adam's first debiasing. It is 1 to rounding after some 30 / alpha steps.
        rescale: the momentum with the step size, as above.
        seed: of the noise, which is the same in every process that is given the same seed.

    Raises:
        InputError: an argument outside its range, named with its value.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        num_data: int,
        *,
        alpha: float = 0.1,
        beta: float = 0.999,
        eps: float = 1e-5,
        freeze_step: int | None = None,
        temperature: float = 1.0,
        debias: bool = True,
        rescale: bool = True,
        seed: int = 0,
    ) -> None:
        ranges = {
            "lr": (lr, lr > 0, "positive"),
            "num_data": (num_data, num_data > 0, "positive"),
            "alpha": (alpha, 0 < alpha <= 1, "in (0, 1]"),
            "beta": (beta, 0 <= beta < 1, "in [0, 1)"),
            "eps": (eps, eps > 0, "positive"),
            "freeze_step": (freeze_step, freeze_step is None or freeze_step > 0, "positive or None"),
            "temperature": (temperature, temperature >= 0, "0 or positive"),
        }
        for name, (value, good, wanted) in ranges.items():
            if not good:
                raise InputError(f"{name} must be {wanted}, got {value}")
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "alpha": alpha,
            "beta": beta,
            "eps": eps,
            "freeze_step": freeze_step,
            "temperature": temperature,
            "debias": debias,
            "rescale": rescale,
            "step": 0,
            "last_lr": None,
        }
        super().__init__(params, defaults)
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.device not in self.generators:
                self.generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            for parameters in _of_one_kind(group["params"]):
                self._step(group, parameters)
            group["last_lr"] = group["lr"]
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One step of the weights of one kind, as one vector; its state is kept with the first of them."""
        state = self.state[parameters[0]]
        gradient = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        )
        if not state:
            state.update({name: torch.zeros_like(gradient) for name in ("momentum", "square", "largest")})
        t, lr, alpha, beta = group["step"], group["lr"], group["alpha"], group["beta"]
        last_lr = group["last_lr"] or lr
        decay = (1.0 - alpha) * (math.sqrt(last_lr / lr) if group["rescale"] else 1.0)
        spread = alpha * math.sqrt(2.0 * group["temperature"] / (lr * group["num_data"]))
        freezing = t == group["freeze_step"]
        if freezing:
            state["mass"] = torch.empty_like(gradient)
        adapting = "square" in state
        generator = self.generators[gradient.device]
        size = CHUNK if gradient.device.type == "cpu" else gradient.numel()
        for start in range(0, gradient.numel(), size):
            g, p = gradient[start : start + size], state["momentum"][start : start + size]
            if adapting:
                square = state["square"][start : start + size].mul_(beta).addcmul_(g, g, value=1.0 - beta)
                largest = state["largest"][start : start + size]
                torch.maximum(largest, square, out=largest)
                mass = largest.div(1.0 - beta**t).sqrt_().add_(group["eps"])
                if freezing:
                    state["mass"][start : start + size] = mass
            else:
                mass = state["mass"][start : start + size]
            p.mul_(decay).sub_(g, alpha=alpha)
            if spread > 0.0:
                p.addcmul_(torch.empty_like(g).normal_(generator=generator), mass.sqrt(), value=spread)
            torch.div(p, mass, out=g)
        if freezing:
            del state["square"], state["largest"]
        stride = lr / (1.0 - (1.0 - alpha) ** t) if group["debias"] else lr
        updates = gradient.split([p.numel() for p in parameters])
        torch._foreach_add_(
            parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)], alpha=stride
        )

    @torch.no_grad()
    def kinetic_temperature(self) -> float:
        """Mean square of the momentum over its stationary value at temperature 1, once D is frozen.

        Above `temperature` by what the noise of the batches' gradients adds (and the step size where it is
        too large): the samples are then too wide by about that factor. A single draw over W weights has a
        relative standard deviation of sqrt(2 / W). NaN before D is frozen.
        """
        total, number = 0.0, 0
        for group in self.param_groups:
            alpha, lr = group["alpha"], group["last_lr"] or math.nan
            scale = lr * group["num_data"] * (2.0 - alpha) / (2.0 * alpha)
            for parameters in _of_one_kind(group["params"]):
                state = self.state[parameters[0]]
                if "mass" not in state:
                    return math.nan
                total += scale * (state["momentum"].square() / state["mass"]).sum(dtype=torch.float64).item()
                number += state["mass"].numel()
        return total / number

    def state_dict(self) -> dict[str, Any]:
        """As of any optimiser, with the states of the noise's generators."""
        noise = {str(device): generator.get_state() for device, generator in self.generators.items()}
        return {**super().state_dict(), "noise": noise}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = dict(state_dict)
        noise = state_dict.pop("noise")
        super().load_state_dict(state_dict)
        for device, generator in self.generators.items():
            generator.set_state(noise[str(device)])


def _of_one_kind(parameters: list[Tensor]) -> list[list[Tensor]]:
    """The parameters by dtype and device, in their order."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(kinds.values())
