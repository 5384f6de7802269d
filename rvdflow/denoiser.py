"""Denoiser of the paper: a U-Net of the noisy residual, conditioned on the step n and on the context maps.

Facts: arXiv:2203.09481 and its figures. As in the released networks there is no skip at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rvdflow.layers import Block, LinearAttention, ResBlock, StepEmbedding, downsample, upsample


class _Down(nn.Module):
    """ResBlock -> concatenate the context map -> ResBlock -> attention."""

    def __init__(self, c_in: int, width: int, embedding: int) -> None:
        super().__init__()
        self.first = ResBlock(c_in, width, embedding)
        self.second = ResBlock(2 * width, width, embedding)
        self.attention = LinearAttention(width)

    def forward(self, x: Tensor, vector: Tensor, context: Tensor) -> Tensor:
        return self.attention(self.second(torch.cat([self.first(x, vector), context], 1), vector))


class _Up(nn.Module):
    """Concatenate the skip -> ResBlock -> ResBlock -> attention -> twice the resolution."""

    def __init__(self, c_in: int, width: int, embedding: int) -> None:
        super().__init__()
        self.first = ResBlock(2 * c_in, width, embedding)
        self.second = ResBlock(width, width, embedding)
        self.attention = LinearAttention(width)
        self.up = upsample(width, width)

    def forward(self, x: Tensor, skip: Tensor, vector: Tensor) -> Tensor:
        h = self.second(self.first(torch.cat([x, skip], 1), vector), vector)
        return self.up(self.attention(h))


class Denoiser(nn.Module):
    def __init__(self, channels: int, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.embed = StepEmbedding(width)
        inputs = (channels, *widths[:-1])
        self.levels = nn.ModuleList(_Down(c, w, width) for c, w in zip(inputs, widths, strict=True))
        self.down = nn.ModuleList(downsample(w, w) for w in widths[:-1])
        deepest = widths[-1]
        self.middle = nn.ModuleList(
            [ResBlock(deepest, deepest, width), LinearAttention(deepest), ResBlock(deepest, deepest, width)]
        )
        self.ups = nn.ModuleList(_Up(widths[i], widths[i - 1], width) for i in range(len(widths) - 1, 0, -1))
        self.head = nn.Sequential(Block(widths[0], width), nn.Conv2d(width, channels, 1))

    def forward(self, noisy: Tensor, step: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Answer (batch, channel, y, x) for y_n of that shape, n (batch,) integer and one context map per level."""
        vector = self.embed(step)
        skips, h = [], noisy
        for i, level in enumerate(self.levels):
            h = level(h, vector, context[i])
            skips.append(h)
            if i < len(self.down):
                h = self.down[i](h)
        h = self.middle[2](self.middle[1](self.middle[0](h, vector)), vector)
        for k, up in enumerate(self.ups):
            h = up(h, skips[-1 - k], vector)
        return self.head(h)
