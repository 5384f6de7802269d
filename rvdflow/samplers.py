"""Samplers: draw y_0 given a denoiser, a list of noise levels and a source of normal noise.

All work on y = y_0 + sigma eps, from the first level of `sigmas` down to 0, and call `denoise(y, sigma)`, the expected
y_0, `steps` times. They start from sqrt(1 + sigma^2) times normal noise, the law of y for data of unit variance.

- ancestral: the posterior of the next level given y and y_0 (Ho et al. 2020, arXiv:2006.11239, Eq. 7). On all N levels
  of a schedule it is Algorithm 1 of arXiv:2203.09481 with its misprints mended (n runs from N down to 1; the noise is
  multiplied by the standard deviation of the posterior, and none is added at the last step).
- ddim: Song, Meng & Ermon (2021), arXiv:2010.02502, Eq. 12 with eta = 0; Euler's method for the probability flow.
- heun: Karras et al. (2022), arXiv:2206.00364, Algorithm 1, and with `churn` Algorithm 2; second order.
- dpmpp: DPM-Solver++(2M), Lu et al. (2022), arXiv:2211.01095, Algorithm 2, second order with a first-order last step.
- truncated: ddim down to the level `stop`, then the posterior mean at once (Tweedie's formula): few calls suffice, what
  is finer than the noise at `stop` is averaged (Shehata, Holzschuh & Thuerey 2025, ICLR).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rvdflow.config import SamplerConfig
from rvdflow.diffusion import Levels, Schedule, position_of, sigma_at

Denoise = Callable[[Tensor, float], Tensor]
Noise = Callable[[], Tensor]


def sigmas(levels: Levels, config: SamplerConfig) -> list[float]:
    """The noise levels that a sampler with `config.steps` network calls visits, from the largest down to 0.

    Discrete levels are taken from the schedule and distinct. ValueError when there are fewer of them than calls.
    """
    intervals = config.steps if config.name != "heun" else (config.steps + 1) // 2  # its last interval takes one call
    if isinstance(levels, Schedule):
        return _discrete(levels, config, intervals)
    if config.spacing == "even" and config.name != "truncated":
        return [sigma_at(position_of(config.sigma_max) * (1 - i / intervals)) for i in range(intervals + 1)]
    last = config.stop if config.name == "truncated" else config.sigma_min
    return [*_spaced(config.sigma_max, last, intervals, config), 0.0]


def _discrete(schedule: Schedule, config: SamplerConfig, intervals: int) -> list[float]:
    table = schedule.sigma
    if not 1 <= intervals <= schedule.steps:
        raise ValueError(f"sampler steps {config.steps}: this model has {schedule.steps} noise levels")
    if config.name != "truncated" and config.spacing == "even":
        steps = [round(schedule.steps * (intervals - i) / intervals) for i in range(intervals + 1)]
        return [float(table[n]) for n in steps]
    first, last = float(table[-1]), config.stop if config.name == "truncated" else float(table[1])
    wanted = torch.tensor(_spaced(min(first, config.sigma_max), last, intervals, config), dtype=table.dtype)
    nearest = (table[None] - wanted[:, None]).abs().argmin(1).tolist()
    for i in reversed(range(len(nearest))):  # distinct, and room for those below
        nearest[i] = max(nearest[i], nearest[i + 1] + 1 if i + 1 < len(nearest) else 1)
    return [*(float(table[min(n, schedule.steps)]) for n in nearest), 0.0]


def _spaced(first: float, last: float, count: int, config: SamplerConfig) -> list[float]:
    """`count` levels from `first` to `last`."""
    if count == 1:
        return [first]
    parts = [i / (count - 1) for i in range(count)]
    if config.spacing == "karras":
        a, b = first ** (1 / config.rho), last ** (1 / config.rho)
        return [(a + (b - a) * p) ** config.rho for p in parts]
    a, b = position_of(first), position_of(last)
    return [sigma_at(a + (b - a) * p) for p in parts]


def _start(noise: Noise, sigma: float) -> Tensor:
    return noise() * (1 + sigma**2) ** 0.5


def ancestral(denoise: Denoise, noise: Noise, sigmas: Sequence[float], config: SamplerConfig) -> Tensor:
    y = _start(noise, sigmas[0])
    for now, after in itertools.pairwise(sigmas):
        kept = (after / now) ** 2
        clean = denoise(y, now)
        y = clean + kept * (y - clean)
        if after:
            variance = after**2 * (1 - kept)
            # Of y_n = y / sqrt(1 + sigma^2), whose posterior variance is what Algorithm 1 prints as the factor.
            printed = variance / (1 + after**2) ** 0.5
            y = y + (variance**0.5 if config.noise_term == "deviation" else printed) * noise()
    return y


def ddim(denoise: Denoise, noise: Noise, sigmas: Sequence[float], config: SamplerConfig) -> Tensor:
    y = _start(noise, sigmas[0])
    for now, after in itertools.pairwise(sigmas):
        y = torch.lerp(denoise(y, now), y, after / now)
    return y


def heun(denoise: Denoise, noise: Noise, sigmas: Sequence[float], config: SamplerConfig) -> Tensor:
    y = _start(noise, sigmas[0])
    for now, after in itertools.pairwise(sigmas):
        if config.churn:
            more = now * (1 + config.churn)
            y = y + (more**2 - now**2) ** 0.5 * noise()
            now = more
        slope = (y - denoise(y, now)) / now
        guess = y + (after - now) * slope
        if after:
            slope = 0.5 * (slope + (guess - denoise(guess, after)) / after)
        y = y + (after - now) * slope
    return y


def dpmpp(denoise: Denoise, noise: Noise, sigmas: Sequence[float], config: SamplerConfig) -> Tensor:
    y = _start(noise, sigmas[0])
    before: tuple[Tensor, float] | None = None  # last clean residual, and its level
    for now, after in itertools.pairwise(sigmas):
        clean = direction = denoise(y, now)
        if before is not None and after:
            # Extrapolated to the middle of the interval in ln sigma; the last interval has no middle.
            ratio = math.log(now / after) / math.log(before[1] / now)
            direction = clean + 0.5 * ratio * (clean - before[0])
        y = torch.lerp(direction, y, after / now)
        before = clean, now
    return y


SAMPLERS: dict[str, Callable[[Denoise, Noise, Sequence[float], SamplerConfig], Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
    "dpmpp": dpmpp,
    "truncated": ddim,
}
