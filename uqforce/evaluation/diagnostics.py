"""Whether Markov chains have converged: effective sample size and R-hat of draws.

`draws` are [C, S] or [C, S, Q]: C chains of S draws each of Q quantities (predictions, for a network: its
weights have symmetries and need not mix). Both functions return one number per quantity, [] or [Q] float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uqforce.errors import InputError


def r_hat(draws: Tensor, ranked: bool = True) -> Tensor:
    """Potential scale reduction of split chains; 1 where they agree, above 1.05 or so where they do not.

    Every chain is cut in two, sqrt(((n - 1) / n W + B / n) / W) with n draws in a half, W the mean variance
    within halves and B / n the variance of their means (Gelman, Rubin, Stat. Sci. 7, 457 (1992)). `ranked`
    replaces draws by normal scores of their ranks, and takes the larger of the value so found and that of the
    draws' distances from the median, which sees chains of equal means but different spreads (Vehtari et al.,
    Bayesian Anal. 16, 667 (2021)). NaN where a quantity does not vary.

    Raises:
        InputError: fewer than 4 draws per chain.
    """
    halves = _split(_checked(draws))
    if not ranked:
        return _scale_reduction(halves).reshape(draws.shape[2:])
    ordered = halves.flatten(0, 1).sort(0).values
    median = 0.5 * (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2])
    location, spread = _normal_scores(halves), _normal_scores((halves - median).abs())
    return torch.maximum(_scale_reduction(location), _scale_reduction(spread)).reshape(draws.shape[2:])


def effective_sample_size(draws: Tensor) -> Tensor:
    """Number of independent draws that would give the mean of a quantity as exactly as these do.

    C S / tau with tau = 1 + 2 sum of autocorrelations over all lags, combined over split chains and cut off
    by Geyer's initial monotone sequence, as in Stan's reference manual and Vehtari et al. (2021). At most
    C S log10(C S), which anticorrelated draws may reach. NaN where a quantity does not vary.

    Raises:
        InputError: fewer than 4 draws per chain.
    """
    halves = _split(_checked(draws))
    chains, n = halves.shape[:2]
    covariance = _autocovariance(halves)
    within = covariance[:, 0].mean(0) * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(1).var(0)
    correlation = 1.0 - (within - covariance.mean(0) * n / (n - 1)) / total  # [n, Q]
    correlation[0] = 1.0
    pairs = correlation[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    positive = torch.cummin((pairs > 0).to(pairs.dtype), 0).values
    monotone = torch.cummin(pairs, 0).values
    tau = -1.0 + 2.0 * (monotone.clamp(min=0.0) * positive).sum(0)
    number = float(chains * n)
    size = number / tau.clamp(min=1.0 / torch.tensor(number).log10().item())
    return torch.where(total > 0, size, torch.nan).reshape(draws.shape[2:])


def _checked(draws: Tensor) -> Tensor:
    if draws.dim() not in (2, 3) or draws.shape[1] < 4:
        raise InputError(
            f"draws must be [chains, draws] or [chains, draws, quantities] with 4 draws or more, "
            f"got {list(draws.shape)}"
        )
    return draws.to(torch.float64).reshape(*draws.shape[:2], -1)


def _split(draws: Tensor) -> Tensor:
    """Both halves of every chain as chains [2C, S // 2, Q]; of an odd number the middle draw is left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]])


def _scale_reduction(draws: Tensor) -> Tensor:
    n = draws.shape[1]
    within, between = draws.var(1).mean(0), draws.mean(1).var(0)
    return torch.sqrt((n - 1) / n + between / within)


def _normal_scores(draws: Tensor) -> Tensor:
    """Normal quantiles of the draws' ranks within all chains, (rank - 3/8) / (number + 1/4); ties share."""
    flat = draws.flatten(0, 1).T.contiguous()
    ordered = flat.sort(1).values
    below = torch.searchsorted(ordered, flat, side="left")
    up_to = torch.searchsorted(ordered, flat, side="right")
    ranks = 0.5 * (below + up_to + 1)
    scores = torch.special.ndtri((ranks - 0.375) / (flat.shape[1] + 0.25))
    return scores.T.reshape(draws.shape)


def _autocovariance(draws: Tensor) -> Tensor:
    """[C, n, Q] -> autocovariances at lags 0 ... n - 1, each the sum over its pairs divided by n."""
    n = draws.shape[1]
    spectrum = torch.fft.rfft(draws - draws.mean(1, keepdim=True), n=2 * n, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=1)[:, :n] / n
