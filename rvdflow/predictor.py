"""Mean predictor of the paper: frames so far -> deterministic prediction mu of the next one (Eq. 5).

The same recurrent down path as the context encoder, with weights of its own, and an up path with skips from the
ConvGRUs. Facts: arXiv:2203.09481 and its figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rvdflow.context import ContextEncoder
from rvdflow.layers import ResBlock, upsample


class MeanPredictor(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = ContextEncoder(channels, widths)
        deepest = len(widths) - 1
        self.blocks = nn.ModuleList(
            ResBlock(widths[i] if i == deepest else 2 * widths[i], widths[i - 1]) for i in range(deepest, 0, -1)
        )
        self.up = nn.ModuleList(upsample(widths[i - 1], widths[i - 1]) for i in range(deepest, 0, -1))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, frames: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Means (batch time, channel, y, x) after each frame of (batch, time, channel, y, x), and the new state."""
        maps = self.encoder(frames, state)
        h = maps[-1].flatten(0, 1)
        for k, (block, up) in enumerate(zip(self.blocks, self.up, strict=True)):
            skip = maps[-1 - k].flatten(0, 1)
            h = up(block(h if k == 0 else torch.cat([h, skip], 1)))
        return self.head(h), tuple(m[:, -1] for m in maps)
