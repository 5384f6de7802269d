"""Context encoder of the paper: each frame in turn -> one hidden map per level of a recurrent pyramid.

Its input is the last frame alone; what came before lives in the ConvGRUs. Facts: arXiv:2203.09481 and its figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rvdflow.layers import ConvGRU, ResBlock, downsample


class ContextEncoder(nn.Module):
    """At each level ResBlock -> ConvGRU -> emit the hidden map -> half the resolution (not after the last)."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(ResBlock(c, w) for c, w in zip(inputs, widths, strict=True))
        self.memory = nn.ModuleList(ConvGRU(w) for w in widths)
        self.down = nn.ModuleList(downsample(w, w) for w in widths[:-1])

    def forward(self, frames: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Hidden maps (batch, time, channel, y, x) of each level for frames (batch, time, channel, y, x).

        `state` holds one map (batch, channel, y, x) per level; None at the start of a clip.
        """
        shape = frames.shape[:2]
        maps, h = [], frames.flatten(0, 1)
        for i, (block, memory) in enumerate(zip(self.blocks, self.memory, strict=True)):
            x = block(h if i == 0 else self.down[i - 1](h)).unflatten(0, shape)
            hidden = memory(x, None if state is None else state[i])
            maps.append(hidden)
            h = hidden.flatten(0, 1)
        return tuple(maps)
