"""The compact networks: one recurrent pyramid shared by the mean and the denoiser, made for small machines.

Differences from the published three networks, each for a reason that was measured (docs/design-decisions.md):

- frames are folded into patches (`patch` x `patch` pixels become channels), so that the widest maps are small;
- one pyramid serves mean and denoiser; recurrence sits at the coarser levels alone;
- the mean is the last frame plus an increment;
- vectors (diffusion step, noise level, Reynolds number) scale and shift feature maps instead of being added;
- the denoiser's share of each first convolution that depends on the context is computed once per frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.config import ModelConfig
from rvdflow.layers import ConvGRU, ResBlock, StepEmbedding, downsample, silence, upsample
from rvdflow.networks import Given, Outlook

NOISE_WIDTH = 16  # numbers of the noise that reaches a one-step member as a vector


class RecurrentPyramid(nn.Module):
    """Frames so far -> mean of the next frame and one feature map per level for the denoiser."""

    def __init__(self, config: ModelConfig, channels: int, widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.patch, self.recurrent_from, self.mask = config.patch, config.recurrent_from, config.obstacle_mask
        area = config.patch**2
        inputs = ((2 * channels + self.mask) * area, *widths[1:])
        levels = range(len(widths))
        numbers = 1 + len(config.conditions)
        self.vector = nn.Sequential(nn.Linear(numbers, embedding), nn.GELU(), nn.Linear(embedding, embedding))
        self.blocks = nn.ModuleList(ResBlock(inputs[i], widths[i], embedding, film=True) for i in levels)
        self.down = nn.ModuleList(downsample(widths[i], widths[i + 1]) for i in levels[:-1])
        self.memory = nn.ModuleList(ConvGRU(widths[i]) for i in levels[self.recurrent_from :])
        self.up = nn.ModuleList(upsample(widths[i + 1], widths[i]) for i in levels[:-1])
        self.merge = nn.ModuleList(ResBlock(2 * widths[i], widths[i], embedding, film=True) for i in levels[:-1])
        self.head = nn.Conv2d(widths[0], channels * area, 3, padding=1)
        silence(self.head)  # an untrained mean is persistence

    def forward(
        self, frames: Tensor, previous: Tensor, level: Tensor, given: Given, state: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...]]:
        """Mean (b t, c, y, x) and features after each of frames (b, t, c, y, x); the new state (b, ...)."""
        b, t = frames.shape[:2]
        vector = self.vector(torch.cat([level[:, None], given.conditions], 1)).repeat_interleave(t, 0)
        last = frames.flatten(0, 1)
        seen = [last, previous.flatten(0, 1)]
        if self.mask:
            seen.append(given.fluid.repeat_interleave(t, 0))
        h = F.pixel_unshuffle(torch.cat(seen, 1), self.patch).contiguous(memory_format=torch.channels_last)
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
            h = self.merge[i](torch.cat([self.up[i](h), maps[i]], 1), vector)
            features.insert(0, h)
        return last + F.pixel_shuffle(self.head(h), self.patch), features, tuple(new_state)


class CompactDenoiser(nn.Module):
    """Noisy residual, level and pyramid features -> what the prediction type says; or noise -> a residual."""

    def __init__(self, config: ModelConfig, channels: int, widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.patch = config.patch
        area = config.patch**2
        inputs = (2 * channels * area, *widths[1:])
        levels = range(len(widths))
        self.embed = StepEmbedding(embedding)
        self.noise = nn.Linear(NOISE_WIDTH, embedding) if config.objective == "crps" else None
        self.condition = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1, bias=False) for w in widths)
        self.blocks = nn.ModuleList(ResBlock(inputs[i], widths[i], embedding, film=True) for i in levels)
        self.down = nn.ModuleList(downsample(widths[i], widths[i + 1]) for i in levels[:-1])
        self.up = nn.ModuleList(upsample(widths[i + 1], widths[i]) for i in levels[:-1])
        self.merge = nn.ModuleList(ResBlock(2 * widths[i], widths[i], embedding, film=True) for i in levels[:-1])
        self.head = nn.Conv2d(widths[0], channels * area, 3, padding=1)
        silence(self.head)

    def conditioning(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The part of each level that depends on the context alone: once per frame, not once per call."""
        return tuple(conv(f) for conv, f in zip(self.condition, features, strict=True))

    def forward(self, noisy: Tensor, position: Tensor, outlook: Outlook, vector: Tensor | None = None) -> Tensor:
        embedded = self.embed(position)
        if vector is not None and self.noise is not None:
            embedded = embedded + self.noise(vector)
        h = torch.cat([noisy, outlook.mean], 1)
        h = F.pixel_unshuffle(h, self.patch).contiguous(memory_format=torch.channels_last)
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(self.down[i - 1](h) if i else h, embedded, outlook.conditioning[i])
            maps.append(h)
        for i in reversed(range(len(maps) - 1)):
            h = self.merge[i](torch.cat([self.up[i](h), maps[i]], 1), embedded)
        return F.pixel_shuffle(self.head(h), self.patch)


class CompactNetworks(nn.Module):
    """Pyramid and denoiser behind the two calls of `rvdflow.networks.Networks`."""

    noise_width = NOISE_WIDTH

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        embedding = 2 * config.width
        self.predictor = RecurrentPyramid(config, channels, widths, embedding)
        self.denoiser = CompactDenoiser(config, channels, widths, embedding)
        self.coarsening = config.patch * 2 ** (len(widths) - 1)

    def look(
        self,
        frames: Tensor,
        previous: Tensor,
        level: Tensor,
        given: Given,
        state: Sequence[Tensor] | None,
        *,
        skip: int,
    ) -> tuple[Outlook, tuple[Tensor, ...]]:
        """See `Networks.look`."""
        b, t = frames.shape[:2]
        mean, features, new_state = self.predictor(frames, previous, level, given, state)
        if skip:
            mean, *features = (x.unflatten(0, (b, t))[:, skip:].flatten(0, 1) for x in (mean, *features))
        return Outlook(mean, self.denoiser.conditioning(features)), new_state

    def denoise(self, noisy: Tensor, position: Tensor, outlook: Outlook, vector: Tensor | None = None) -> Tensor:
        """See `Networks.denoise`."""
        return self.denoiser(noisy, position, outlook, vector)
