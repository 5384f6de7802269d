"""Layers with an equalised learning rate, and a norm without parameters: those of progressively grown networks.

Weights start as N(0, 1) and are scaled where they are used by gain / sqrt(fan in), so that an optimiser that
normalises its steps moves all layers at the same relative rate. Pixel norm divides the channels at each position by
their root mean square. Source: Karras et al. (2018), arXiv:1710.10196, sections 4.1 and 4.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.layers import SLOPE


class _Equalised(nn.Module):
    weight: Tensor
    bias: Any

    def __init__(self, *args: Any, gain: float = math.sqrt(2), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.scale = gain / math.sqrt(self.fan_in())

    def fan_in(self) -> int:
        """Numbers that each number put out is a sum of."""
        return self.weight[0].numel()


class EqualisedLinear(_Equalised, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class EqualisedConv3d(_Equalised, nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.scale, self.bias)


class EqualisedSpread3d(_Equalised, nn.ConvTranspose3d):
    """A transposed convolution whose stride is its kernel: each number put out comes from one position."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(c_in, c_out, kernel, stride=kernel)

    def fan_in(self) -> int:
        return self.in_channels

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv_transpose3d(x, self.weight * self.scale, self.bias, stride=self.stride)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x (b, c, ...) with channels of mean square one at each position."""
    square = x.to(torch.promote_types(x.dtype, torch.float32)).square().mean(1, keepdim=True)
    return x * torch.rsqrt(square + eps).to(x.dtype)


class Stack(nn.Module):
    """Layers each followed by a leaky rectifier, and by pixel norm where `norm`."""

    def __init__(self, *layers: nn.Module, norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            if self.norm:
                x = pixel_norm(x)
        return x


def cube(c_in: int, c_out: int) -> EqualisedConv3d:
    """conv3x3x3 of the same size."""
    return EqualisedConv3d(c_in, c_out, 3, padding=1)


def narrow(fine: int, coarse: int, *, norm: bool) -> Stack:
    """One resolution of an encoder: conv3x3x3, then conv1x2x2 that halves height and width."""
    halve = EqualisedConv3d(fine, coarse, (1, 2, 2), stride=(1, 2, 2))
    return Stack(cube(fine, fine), halve, norm=norm)
