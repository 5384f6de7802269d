"""Equations of the diffusion: noise schedule, noising, and the three ways to write a denoiser's answer.

    y_n = sqrt(abar_n) y_0 + sqrt(1 - abar_n) eps,   n = 0 (clean) .. N (noise)                    (Eq. 6-7)

Cosine schedule: Nichol & Dhariwal (2021), arXiv:2102.09672, Eq. 17. Velocity v = sqrt(abar) eps - sqrt(1 - abar) y_0:
Salimans & Ho (2022), arXiv:2202.00512. Symbols and equation numbers otherwise: arXiv:2203.09481.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Prediction = Literal["noise", "velocity"]


class Schedule(NamedTuple):
    """`alpha_bar` (N + 1,) in float64, decreasing from 1 at n = 0."""

    alpha_bar: Tensor

    @property
    def steps(self) -> int:
        return len(self.alpha_bar) - 1

    def signal_and_noise(self, n: Tensor, ndim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """sqrt(abar_n), sqrt(1 - abar_n) for n (batch,), shaped to multiply tensors of `ndim` dimensions."""
        abar = self.alpha_bar.to(n.device)[n].reshape(-1, *[1] * (ndim - 1))
        return abar.sqrt().to(dtype), (1 - abar).sqrt().to(dtype)


def cosine_schedule(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """abar_n = f(n)/f(0), f(n) = cos^2((n/N + s)/(1 + s) pi/2), each beta_n = 1 - abar_n/abar_{n-1} capped."""
    n = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((n + offset) / (1 + offset) * math.pi / 2).square()
    beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]))


def add_noise(clean: Tensor, noise: Tensor, n: Tensor, schedule: Schedule) -> Tensor:
    """y_n from y_0 and eps of the same shape, n (batch,)."""
    a, s = schedule.signal_and_noise(n, clean.ndim, clean.dtype)
    return a * clean + s * noise


def target(clean: Tensor, noise: Tensor, n: Tensor, schedule: Schedule, prediction: Prediction) -> Tensor:
    """What the denoiser is asked for."""
    if prediction == "noise":
        return noise
    a, s = schedule.signal_and_noise(n, clean.ndim, clean.dtype)
    return a * noise - s * clean


def clean_and_noise(
    noisy: Tensor,
    answer: Tensor,
    n: Tensor,
    schedule: Schedule,
    prediction: Prediction,
    bound: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(y_0, eps) implied by a denoiser's answer at y_n, the inverse of `target`.

    With `bound`, y_0 is clamped to [-bound, bound] and eps follows from it.
    """
    a, s = schedule.signal_and_noise(n, noisy.ndim, noisy.dtype)
    if prediction == "noise":
        clean, noise = (noisy - s * answer) / a.clamp(min=1e-8), answer
    else:
        clean, noise = a * noisy - s * answer, s * noisy + a * answer
    if bound is None:
        return clean, noise
    clean = clean.clamp(-bound, bound)
    return clean, (noisy - a * clean) / s
