"""The Inception-I3D network: what the Fréchet Video Distance takes its features from.

Carreira and Zisserman (2017), doi:10.1109/CVPR.2017.502: Inception-v1 with every filter inflated along time, trained on
the 400 classes of Kinetics. Input (batch, 3, time, y, x) in [-1, 1]; output (batch, 400) logits, averaged over time.
Parameters bear the names of the public PyTorch port, so that its state dict (`i3d_pretrained_400.pt`) can be loaded:

    Conv3d_1a_7x7.conv3d.weight, Conv3d_1a_7x7.bn.running_mean, Mixed_3b.b1a.conv3d.weight, ..., logits.conv3d.bias

Padding is TensorFlow's SAME: ceil(n / stride) outputs, the missing cells added as zeros, the odd one behind. (Zeros do
for maxima too, since what comes before each maximum is never negative.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

CLASSES = 400
LEAST_FRAMES = 9  # the last average is over 2 of ceil(time / 8) steps
LEAST_SIDE = 193  # and over 7 of ceil(side / 32) cells

Size = tuple[int, int, int]
# name: channels of the six convolutions, (b0; b1a, b1b; b2a, b2b; b3b)
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """What `torch.nn.functional.pad` is to add, last dimension first: (front, back) for each."""
    padding: list[int] = []
    for n, k, s in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-n // s) - 1) * s + k - n, 0)
        padding += [missing // 2, missing - missing // 2]
    return padding


class Unit(nn.Module):
    """Convolution, then batch normalisation and ReLU (or, in the last one, a bias alone)."""

    def __init__(self, old: int, new: int, kernel: int = 1, stride: int = 1, last: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(old, new, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(new, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv3d(functional.pad(x, same_padding(x.shape[2:], self.conv3d.kernel_size, self.conv3d.stride)))
        return x if self.bn is None else functional.relu(self.bn(x), inplace=True)


class Maximum(nn.Module):
    def __init__(self, kernel: Size, stride: Size):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, same_padding(x.shape[2:], self.kernel, self.stride))
        return functional.max_pool3d(padded, self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches beside each other: 1x1x1; 1x1x1 and 3x3x3, twice; the maximum of 3x3x3 and 1x1x1."""

    def __init__(self, old: int, channels: Sequence[int]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(old, b0)
        self.b1a, self.b1b = Unit(old, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(old, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = Maximum((3, 3, 3), (1, 1, 1)), Unit(old, b3b)
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, 1)


class I3D(nn.Module):
    """The network, in the order of its layers: (batch, 3, time, y, x) -> logits (batch, 400)."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = Maximum((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = Maximum((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, sizes in _MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = Maximum((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = Maximum((2, 2, 2), (2, 2, 2))
            mixed = Mixed(channels, sizes)
            self.add_module(name, mixed)
            channels = mixed.channels
        self.logits = Unit(channels, classes, last=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        return self.logits(x).mean((2, 3, 4))
