"""The Laplacian of a Gaussian, an edge filter: what it sees of two frames should agree.

    L(x, y) = -1 / (pi s^4) (1 - r^2 / 2 s^2) exp(-r^2 / 2 s^2),    r^2 = x^2 + y^2

sampled at pixels, less its mean, so that a constant frame gives zero. Source: Marr & Hildreth (1980),
doi:10.1098/rspb.1980.0020, Eq. 5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def laplacian_of_gaussian(sigma: float = 1.4, size: int = 9) -> Tensor:
    """Kernel (size, size) float64, symmetric, of sum zero. ValueError for an even size or sigma not above 0."""
    if size < 1 or size % 2 == 0 or sigma <= 0:
        raise ValueError(f"a kernel of {size} pixels with sigma {sigma}: the size must be odd, and sigma above 0")
    x = torch.arange(size, dtype=torch.float64) - size // 2
    ratio = (x[:, None].square() + x.square()) / (2 * sigma**2)
    kernel = -(1 - ratio) * torch.exp(-ratio) / (math.pi * sigma**4)
    return kernel - kernel.mean()


def filtered(frames: Tensor, kernel: Tensor) -> Tensor:
    """Each channel of frames (..., c, y, x) filtered with `kernel` (k, k), mirrored at the borders.

    ValueError when the frames are not larger than half a kernel.
    """
    half = kernel.shape[-1] // 2
    if min(frames.shape[-2:]) <= half:
        raise ValueError(f"frames of {frames.shape[-2]} x {frames.shape[-1]} pixels: the filter needs {half + 1}")
    planes = F.pad(frames.reshape(-1, 1, *frames.shape[-2:]), (half,) * 4, mode="reflect")
    return F.conv2d(planes, kernel.to(planes.dtype)[None, None]).reshape(frames.shape)
