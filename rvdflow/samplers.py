"""Samplers: draw y_0 given a denoiser function, a schedule and a source of normal noise.

Each takes `denoise(y, n) -> (clean, noise)` with n (batch,) integer, and `noise() -> Tensor` which returns fresh
standard normal numbers of the sample's shape (batch, channel, y, x). `steps` is the number of network calls.

- ancestral: Algorithm 1 of arXiv:2203.09481 with its misprints mended (n runs from N down to 1; the noise is
  multiplied by the standard deviation of the posterior, and none is added at the last step). With fewer calls than N
  the posterior of the thinned schedule is used.
- ddim: Song, Meng & Ermon (2021), arXiv:2010.02502, Eq. 12 with eta = 0.
- dpmpp: DPM-Solver++(2M), Lu et al. (2022), arXiv:2211.01095, Algorithm 2, with a first-order last step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rvdflow.diffusion import Schedule

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Noise = Callable[[], Tensor]


def levels(schedule: Schedule, steps: int) -> list[int]:
    """steps + 1 distinct noise levels from N down to 0, evenly spaced."""
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"sampler steps {steps} is outside 1..{schedule.steps}")
    return [round(schedule.steps * (steps - i) / steps) for i in range(steps + 1)]


def _pairs(schedule: Schedule, steps: int) -> Iterator[tuple[int, int, float, float]]:
    """(n, next n, abar_n, abar_next) along the way down."""
    grid = levels(schedule, steps)
    for n, m in itertools.pairwise(grid):
        yield n, m, float(schedule.alpha_bar[n]), float(schedule.alpha_bar[m])


def _at(n: int, like: Tensor) -> Tensor:
    return torch.full((like.shape[0],), n, dtype=torch.long, device=like.device)


def ancestral(denoise: Denoise, noise: Noise, schedule: Schedule, steps: int) -> Tensor:
    y = noise()
    for n, m, abar, abar_next in _pairs(schedule, steps):
        clean, _ = denoise(y, _at(n, y))
        alpha = abar / abar_next  # of this (possibly thinned) step; beta = 1 - alpha
        mean_clean = abar_next**0.5 * (1 - alpha) / (1 - abar)
        mean_noisy = alpha**0.5 * (1 - abar_next) / (1 - abar)
        y = mean_clean * clean + mean_noisy * y
        if m > 0:
            y = y + ((1 - alpha) * (1 - abar_next) / (1 - abar)) ** 0.5 * noise()
    return y


def ddim(denoise: Denoise, noise: Noise, schedule: Schedule, steps: int) -> Tensor:
    y = noise()
    for n, _, _, abar_next in _pairs(schedule, steps):
        clean, eps = denoise(y, _at(n, y))
        y = abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * eps
    return y


def dpmpp(denoise: Denoise, noise: Noise, schedule: Schedule, steps: int) -> Tensor:
    y = noise()
    last_clean, last_h = None, 0.0
    for n, m, abar, abar_next in _pairs(schedule, steps):
        clean, _ = denoise(y, _at(n, y))
        if m == 0:
            return clean  # first order: the last level is noise-free
        h = 0.5 * (_logit(abar_next) - _logit(abar))  # step in log(signal / noise)
        direction = clean if last_clean is None else clean + (clean - last_clean) * (h / (2 * last_h))
        ratio = ((1 - abar_next) / (1 - abar)) ** 0.5
        y = ratio * y + (abar_next**0.5 - ratio * abar**0.5) * direction
        last_clean, last_h = clean, h
    return y


def _logit(abar: float) -> float:
    """log(signal^2 / noise^2)."""
    return math.log(max(abar, 1e-300)) - math.log1p(-abar)


SAMPLERS: dict[str, Callable[[Denoise, Noise, Schedule, int], Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpmpp": dpmpp,
}
