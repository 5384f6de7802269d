"""Diagonal Gaussians of latent variables: drawing, and how far one is from another.

    z = mean + sqrt(variance) eps                                                       (reparametrisation)
    KL(q | p) = 1/2 sum [ log(v_p / v_q) + (v_q + (m_q - m_p)^2) / v_p - 1 ]            in nats
              = E_q [ log q(z) - log p(z) ]                                             estimated by one z from q

Sources: Kingma & Welling (2014), arXiv:1312.6114; free bits: Kingma et al. (2016), arXiv:1606.04934, Section 3 and
Appendix C.8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Gaussian(NamedTuple):
    """Independent normal numbers, `mean` and `variance` of the same shape (batch, ...), never in half precision."""

    mean: Tensor
    variance: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """Numbers of this law from standard normal ones of its shape."""
        return self.mean + self.variance.sqrt() * noise

    def log_density(self, z: Tensor) -> Tensor:
        """Logarithm of the density of each number."""
        scaled = (z - self.mean).square() / self.variance
        return -0.5 * (scaled + self.variance.log() + math.log(2 * math.pi))


def from_log_variance(mean: Tensor, log_variance: Tensor) -> Gaussian:
    """Variance exp(log_variance), which is kept between e^-20 and e^20."""
    return Gaussian(_full(mean), _full(log_variance).clamp(-20, 20).exp())


def from_softplus(mean: Tensor, raw: Tensor) -> Gaussian:
    """Variance log(1 + exp(raw)), and a little more so that its logarithm exists."""
    return Gaussian(_full(mean), F.softplus(_full(raw)) + 1e-6)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q | p) of each number, shape (batch, ...)."""
    square = (q.mean - p.mean).square()
    return 0.5 * (p.variance.log() - q.variance.log() + (q.variance + square) / p.variance - 1)


def kl_sampled(q: Gaussian, p: Gaussian, z: Tensor) -> Tensor:
    """log q(z) - log p(z) of each number: with z drawn from q its expectation is KL(q | p); it can be negative."""
    return q.log_density(z) - p.log_density(z)


def free_bits(nats: Tensor, free: float) -> Tensor:
    """KLs (...) of groups of latents below which there is nothing to gain: max(KL, free); `free` = 0 changes nothing.

    The group is what the caller has summed over. As published the KL is averaged over the batch before the maximum is
    taken; here each clip has its own, so that the loss does not depend on how a batch is divided.
    """
    return nats.clamp(min=free) if free else nats


def warmed(weight: float, progress: float, warm_up: float) -> float:
    """A weight that grows linearly from 0 over the first part `warm_up` of the training."""
    return weight if progress >= warm_up else weight * progress / warm_up


def _full(x: Tensor) -> Tensor:
    """In single precision at least: variances and their logarithms leave bfloat16's digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
