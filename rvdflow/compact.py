"""The compact networks: one recurrent pyramid shared by the mean and the denoiser, made for small machines.

Differences from the published three networks, each for a reason that was measured (docs/design-decisions.md):

- frames are folded into patches (`patch` x `patch` pixels become channels), so that the widest maps are small;
- one pyramid serves mean and denoiser; recurrence sits at the coarser levels alone;
- the mean is the last frame plus an increment;
- the denoiser's share of each first convolution that depends on the context is computed once per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.config import ModelConfig
from rvdflow.layers import ConvGRU, ResBlock, StepEmbedding, downsample, upsample


def _silent(conv: nn.Conv2d) -> nn.Conv2d:
    """Start at zero, so that an untrained mean is persistence and an untrained answer is nothing."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class Pyramid(NamedTuple):
    """What the pyramid says about the next frame: `mean` (b, c, y, x) and `features`, one map per level."""

    mean: Tensor
    features: tuple[Tensor, ...]


class RecurrentPyramid(nn.Module):
    """Frames so far -> mean of the next frame and feature maps for the denoiser."""

    def __init__(
        self, channels: int, widths: Sequence[int], *, patch: int, recurrent_from: int, embedding: int
    ) -> None:
        super().__init__()
        self.patch, self.recurrent_from = patch, recurrent_from
        inputs = (2 * channels * patch * patch, *widths[1:])
        levels = range(len(widths))
        self.level_mlp = nn.Sequential(nn.Linear(1, embedding), nn.GELU(), nn.Linear(embedding, embedding))
        self.blocks = nn.ModuleList(ResBlock(inputs[i], widths[i], embedding) for i in levels)
        self.down = nn.ModuleList(downsample(widths[i], widths[i + 1]) for i in levels[:-1])
        self.memory = nn.ModuleList(ConvGRU(widths[i]) for i in levels[recurrent_from:])
        self.up = nn.ModuleList(upsample(widths[i + 1], widths[i]) for i in levels[:-1])
        self.merge = nn.ModuleList(ResBlock(2 * widths[i], widths[i]) for i in levels[:-1])
        self.head = _silent(nn.Conv2d(widths[0], channels * patch * patch, 3, padding=1))

    def forward(
        self, frames: Tensor, previous: Tensor, noise_level: Tensor, state: Sequence[Tensor] | None = None
    ) -> tuple[Pyramid, tuple[Tensor, ...]]:
        """frames, previous (b, t, c, y, x), noise_level (b,); results are flattened over (b t), state over b."""
        b, t = frames.shape[:2]
        vector = self.level_mlp(noise_level[:, None]).repeat_interleave(t, 0)
        last = frames.flatten(0, 1)
        h = F.pixel_unshuffle(torch.cat([last, previous.flatten(0, 1)], 1), self.patch)
        h = h.contiguous(memory_format=torch.channels_last)
        maps, new_state = [], []
        for i, block in enumerate(self.blocks):
            h = block(self.down[i - 1](h) if i else h, vector)
            if i >= self.recurrent_from:
                k = i - self.recurrent_from
                hidden = self.memory[k](h.unflatten(0, (b, t)), None if state is None else state[k])
                new_state.append(hidden[:, -1])
                h = hidden.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            maps.append(h)
        features = [maps[-1]]
        for i in reversed(range(len(maps) - 1)):
            h = self.merge[i](torch.cat([self.up[i](h), maps[i]], 1))
            features.insert(0, h)
        mean = last + F.pixel_shuffle(self.head(h), self.patch)
        return Pyramid(mean, tuple(features)), tuple(new_state)


class CompactDenoiser(nn.Module):
    """Noisy residual, diffusion step and pyramid features -> what the prediction type says (noise or velocity)."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        context_widths: Sequence[int],
        *,
        patch: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        inputs = (2 * channels * patch * patch, *widths[1:])
        levels = range(len(widths))
        self.embed = StepEmbedding(embedding)
        self.condition = nn.ModuleList(
            nn.Conv2d(c, w, 3, padding=1, bias=False) for c, w in zip(context_widths, widths, strict=True)
        )
        self.blocks = nn.ModuleList(ResBlock(inputs[i], widths[i], embedding) for i in levels)
        self.down = nn.ModuleList(downsample(widths[i], widths[i + 1]) for i in levels[:-1])
        self.up = nn.ModuleList(upsample(widths[i + 1], widths[i]) for i in levels[:-1])
        self.merge = nn.ModuleList(ResBlock(2 * widths[i], widths[i], embedding) for i in levels[:-1])
        self.head = _silent(nn.Conv2d(widths[0], channels * patch * patch, 3, padding=1))

    def conditioning(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        """The part of each level that depends on the context alone: once per frame, not once per call."""
        return tuple(conv(f) for conv, f in zip(self.condition, pyramid.features, strict=True))

    def forward(self, noisy: Tensor, step: Tensor, mean: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        vector = self.embed(step)
        h = F.pixel_unshuffle(torch.cat([noisy, mean], 1), self.patch).contiguous(memory_format=torch.channels_last)
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(self.down[i - 1](h) if i else h, vector, conditioning[i])
            maps.append(h)
        for i in reversed(range(len(maps) - 1)):
            h = self.merge[i](torch.cat([self.up[i](h), maps[i]], 1), vector)
        return F.pixel_shuffle(self.head(h), self.patch)


class CompactNetworks(nn.Module):
    """Pyramid and denoiser behind the two calls that the model makes."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        embedding = 2 * config.width
        self.pyramid = RecurrentPyramid(
            channels, widths, patch=config.patch, recurrent_from=config.recurrent_from, embedding=embedding
        )
        self.coarsening = config.patch * 2 ** (len(widths) - 1)
        self.denoiser = CompactDenoiser(channels, widths, widths, patch=config.patch, embedding=embedding)

    def look(
        self, frames: Tensor, previous: Tensor, level: Tensor, state: Sequence[Tensor] | None, *, skip: int
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Show frames (b, t, c, y, x), the frame before each, and the noise level (b,) that was put on them.

        Returns mean (b (t - skip), c, y, x) and conditioning of the frames after the first `skip`, and the new state.
        """
        b, t = frames.shape[:2]
        pyramid, new_state = self.pyramid(frames, previous, level, state)
        if skip:
            mean, *features = (
                x.unflatten(0, (b, t))[:, skip:].flatten(0, 1) for x in (pyramid.mean, *pyramid.features)
            )
            pyramid = Pyramid(mean, tuple(features))
        return pyramid.mean, self.denoiser.conditioning(pyramid), new_state

    def denoise(self, noisy: Tensor, n: Tensor, mean: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        """Answer (b, c, y, x) for y_n at steps n (b,)."""
        return self.denoiser(noisy, n, mean, conditioning)
