"""Samplers: draw y_0 given a denoiser, a list of noise levels and a source of normal noise.

All work on y = y_0 + sigma eps, from the first level of `sigmas` down to 0, and call `denoise(y, sigma)`, the expected
y_0, `steps` times. They start from sqrt(1 + sigma^2) times normal noise, the law of y for data of unit variance.

- ancestral: the posterior of the next level given y and y_0 (Ho et al. 2020, arXiv:2006.11239, Eq. 7). On all N levels
  of a schedule it is Algorithm 1 of arXiv:2203.09481 with its misprints mended (n runs from N down to 1; the noise is
  multiplied by the standard deviation of the posterior, and none is added at the last step).
- ddim: Song, Meng & Ermon (2021), arXiv:2010.02502, Eq. 12 with eta = 0; Euler's method for the probability flow.
- heun: Karras et al. (2022), arXiv:2206.00364, Algorithm 1, and with `churn` Algorithm 2, for sigma(t) = tan t and
  s(t) = cos t; second order. In the angle t the interval that begins at a sigma of thousands is as short as another,
  while a slope averaged over it in sigma is worth nothing. The last interval takes one call, the others two; where the
  number of calls is even the first, on which the path is nearly straight, takes one.
- dpmpp: DPM-Solver++(2M), Lu et al. (2022), arXiv:2211.01095, Algorithm 2, with a first-order last step; second order
  on karras levels, about 1.6 on even ones, whose last steps do not get short in ln sigma.
- truncated: ddim down to the level `stop`, then the posterior mean at once (Tweedie's formula): few calls suffice, what
  is finer than the noise at `stop` is averaged (Shehata, Holzschuh & Thuerey 2025, ICLR).

Levels: `even` spaces the steps n of a schedule evenly, and a continuum in the same way (`position`), from the largest
level to 0; `karras` spaces sigma^(1/rho) evenly, from `sigma_max` to `sigma_min` and then 0. A schedule begins at its
own last step where spacing is even, whatever `sigma_max`, and ends at its own first step, whatever `sigma_min`.
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
    """The noise levels that a sampler with `config.steps` network calls visits, from the largest down to 0, distinct.

    Discrete levels are taken from the schedule. ValueError for settings that no such list fulfils.
    """
    intervals = config.steps // 2 + 1 if config.name == "heun" else config.steps
    if config.name == "truncated" and config.steps == 1:
        raise ValueError("sampler truncated needs steps of 2 or more: with 1 it never comes down to its level stop")
    if isinstance(levels, Schedule):
        return _discrete(levels, config, intervals)
    if config.name == "truncated":
        if config.stop >= config.sigma_max:
            raise ValueError(f"sampler.stop {config.stop:g} must lie below sampler.sigma_max {config.sigma_max:g}")
        return [*_spaced(config.sigma_max, config.stop, intervals, config), 0.0]
    if config.spacing == "karras":
        return [*_spaced(config.sigma_max, config.sigma_min, intervals, config), 0.0]
    return _spaced(config.sigma_max, 0.0, intervals + 1, config)


def calls(config: SamplerConfig, levels: Sequence[float]) -> int:
    """How often a sampler calls the denoiser on `levels`, counted."""
    count = 0

    def denoise(y: Tensor, sigma: float) -> Tensor:
        nonlocal count
        count += 1
        return torch.zeros_like(y)

    SAMPLERS[config.name](denoise, lambda: torch.zeros(1, 1, 1, 1), list(levels), config)
    return count


def _discrete(schedule: Schedule, config: SamplerConfig, intervals: int) -> list[float]:
    if config.name == "heun" and config.churn:
        raise ValueError("sampler.churn leaves this model's discrete noise levels: set it to 0, or use another sampler")
    table, last = schedule.sigma, schedule.steps
    bottom = max(1, _nearest(table, config.stop)) if config.name == "truncated" else 1
    top = last if config.spacing == "even" else _nearest(table, min(config.sigma_max, float(table[last])))
    if config.name == "truncated" and bottom >= top:
        raise ValueError(f"sampler.stop {config.stop:g} must lie below the first level, {float(table[top]):g}")
    if intervals > top - bottom + 1:
        raise ValueError(
            f"sampler.steps {config.steps}: {config.name} needs {intervals} noise levels, this model has "
            f"{top - bottom + 1} from {float(table[bottom]):.3g} to {float(table[top]):.3g}: choose fewer steps"
        )
    if config.spacing == "karras":
        wanted = _spaced(float(table[top]), float(table[bottom]), intervals, config)
        steps = [_nearest(table, sigma) for sigma in wanted]
        for i in reversed(range(intervals)):  # distinct, with room for those below ...
            steps[i] = max(steps[i], bottom if i + 1 == intervals else steps[i + 1] + 1)
        steps = [min(n, top - i) for i, n in enumerate(steps)]  # ... and for those above
    elif config.name == "truncated":
        steps = [round(top - (top - bottom) * i / (intervals - 1)) for i in range(intervals)]
    else:
        steps = [round(top * (intervals - i) / intervals) for i in range(intervals)]
    return [*(float(table[n]) for n in steps), 0.0]


def _nearest(table: Tensor, sigma: float) -> int:
    return int((table - sigma).abs().argmin())


def _spaced(first: float, last: float, count: int, config: SamplerConfig) -> list[float]:
    """`count` levels from `first` to `last`, both exact; only `first` where count is 1."""
    parts = [i / max(1, count - 1) for i in range(count)]
    if config.spacing == "karras":
        a, b = first ** (1 / config.rho), last ** (1 / config.rho)
        between = [(a + (b - a) * p) ** config.rho for p in parts]
    else:
        a, b = position_of(first), position_of(last)
        between = [sigma_at(a + (b - a) * p) for p in parts]
    return [first, *between[1:-1], last][:count]


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
    straight = config.steps % 2 == 0  # the first interval in one call
    for now, after in itertools.pairwise(sigmas):
        if config.churn:
            more = now * (1 + config.churn)
            y = y + (more**2 - now**2) ** 0.5 * noise()
            now = more
        clean = denoise(y, now)
        guess = torch.lerp(clean, y, after / now)
        if after and not straight:
            t, end = math.atan(now), math.atan(after)
            slopes = _slope(y, clean, now) + _slope(guess, denoise(guess, after), after)
            guess = (y * math.cos(t) + 0.5 * (end - t) * slopes) / math.cos(end)
        y, straight = guess, False
    return y


def _slope(y: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """Derivative of y cos t by t = atan(sigma) along the probability flow: eps cos t - y_0 sin t."""
    return math.cos(math.atan(sigma)) * ((y - clean) / sigma - sigma * clean)


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
