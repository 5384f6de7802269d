"""Equations of the diffusion: noise levels, noising, and how a denoiser's answer is read.

A noisy residual is y_0 + sigma eps: signal of one, noise of standard deviation sigma. The network is shown it scaled
to about unit variance,

    y_n = (y_0 + sigma eps) / sqrt(1 + sigma^2) = sqrt(abar_n) y_0 + sqrt(1 - abar_n) eps           (Eq. 6-7)

so that the N steps of a schedule (n = 0 clean .. N noise) are the levels sigma_n^2 = 1/abar_n - 1, and any other
sigma > 0 is a level as good. The velocity v = sqrt(abar) eps - sqrt(1 - abar) y_0 that a network may be asked for is,
but for its sign, what the preconditioning of EDM asks for where the data have unit variance: with c_skip = abar and
c_out = sqrt(1 - abar) the clean residual is c_skip (y_0 + sigma eps) - c_out v.

Symbols and equation numbers: Yang, Srivastava & Mandt (2023), arXiv:2203.09481. Cosine schedule: Nichol & Dhariwal
(2021), arXiv:2102.09672, Eq. 17. Velocity: Salimans & Ho (2022), arXiv:2202.00512. EDM: Karras et al. (2022),
arXiv:2206.00364, Table 1.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rvdflow.noise import Draws

Prediction = Literal["noise", "velocity"]
POSITIONS = 1000.0  # continuous levels are embedded as numbers from 0 (clean) to this (nothing but noise)


class Level(NamedTuple):
    """Noise levels of a batch: `sigma` (batch,) and `position` (batch,), the number that the network embeds."""

    sigma: Tensor
    position: Tensor

    def scales(self, ndim: int) -> tuple[Tensor, Tensor]:
        """sqrt(abar), sqrt(1 - abar), shaped to multiply tensors of `ndim` dimensions."""
        signal = torch.rsqrt(1 + self.sigma.square()).reshape(-1, *[1] * (ndim - 1))
        return signal, self.sigma.reshape(signal.shape) * signal


class Schedule(NamedTuple):
    """N discrete levels: `alpha_bar` (N + 1,) in float64, decreasing from 1 at n = 0."""

    alpha_bar: Tensor

    @property
    def steps(self) -> int:
        return len(self.alpha_bar) - 1

    @property
    def sigma(self) -> Tensor:
        """(N + 1,) float64, increasing from 0."""
        return (1 / self.alpha_bar - 1).clamp(min=0).sqrt()

    def level(self, n: Tensor) -> Level:
        """The levels of steps n (batch,)."""
        return Level(self.sigma.to(n.device)[n].float(), n)

    def at(self, sigma: float, like: Tensor) -> Level:
        """The step nearest to `sigma` for every row of `like`."""
        n = int((self.sigma - sigma).abs().argmin())
        return self.level(torch.full((like.shape[0],), n, dtype=torch.long, device=like.device))

    def draw(self, draws: Draws, count: int) -> Level:
        """Steps drawn evenly from 1..N, `count` for each clip: (clips * count,)."""
        return self.level(draws.integers(1, self.steps + 1, count).flatten())


class Continuum(NamedTuple):
    """Any sigma is a level; in training ln sigma is normal with `mean` and `deviation`."""

    mean: float
    deviation: float

    def level(self, sigma: Tensor) -> Level:
        return Level(sigma, position(sigma))

    def at(self, sigma: float, like: Tensor) -> Level:
        return self.level(torch.full((like.shape[0],), sigma, dtype=torch.float32, device=like.device))

    def draw(self, draws: Draws, count: int) -> Level:
        return self.level((self.mean + self.deviation * draws.normal(count).flatten()).exp())


Levels = Schedule | Continuum


def position(sigma: Tensor) -> Tensor:
    """Where on the way from clean (0) to noise (POSITIONS) a level lies: the step n/N of an ideal cosine schedule."""
    return torch.atan(sigma) * (2 / math.pi * POSITIONS)


def position_of(sigma: float) -> float:
    """`position` of one level."""
    return math.atan(sigma) * (2 / math.pi * POSITIONS)


def sigma_at(position: float) -> float:
    """The inverse of `position_of`, for positions below POSITIONS."""
    return math.tan(position / (2 / math.pi * POSITIONS))


def cosine_schedule(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """abar_n = f(n)/f(0), f(n) = cos^2((n/N + s)/(1 + s) pi/2), each beta_n = 1 - abar_n/abar_{n-1} capped."""
    n = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps  # also where a network is only described
    f = torch.cos((n + offset) / (1 + offset) * math.pi / 2).square()
    beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return Schedule(torch.cat([torch.ones_like(beta[:1]), torch.cumprod(1 - beta, 0)]))


def add_noise(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """y_n from y_0 and eps of the same shape (batch, ...)."""
    a, s = level.scales(clean.ndim)
    return a * clean + s * noise


def target(clean: Tensor, noise: Tensor, level: Level, prediction: Prediction) -> Tensor:
    """What the denoiser is asked for."""
    if prediction == "noise":
        return noise
    a, s = level.scales(clean.ndim)
    return a * noise - s * clean


def read_answer(
    noisy: Tensor, answer: Tensor, level: Level, prediction: Prediction, bound: float | None = None
) -> Tensor:
    """y_0 implied by a denoiser's answer at y_n, the inverse of `target`; with `bound` clamped to [-bound, bound]."""
    a, s = level.scales(noisy.ndim)
    clean = (noisy - s * answer) / a.clamp(min=1e-8) if prediction == "noise" else a * noisy - s * answer
    return clean if bound is None else clean.clamp(-bound, bound)
