"""Networks that tell real frames from generated ones: patches, residual networks, and one that grows.

    PatchGAN       frames (b, c, y, x) -> a score for each patch (b, 1, y / 16, x / 16)          RetroGAN
    ResNet         frames (b, t, c, y, x) -> a score for each frame (b, t), or clip (b, 1)       DVD-GAN
    Growing        clips (b, c, t, y, x) of the stage's resolution -> a score for each clip (b,) FutureGAN

Sources: patches: Isola et al. (2017), arXiv:1611.07004; residual blocks and the order of their layers: Brock et al.
(2019), arXiv:1809.11096, appendix B; attention: Zhang et al. (2019), arXiv:1805.08318, Eq. 1-3; spatial and temporal
discriminators: Clark, Donahue & Simonyan (2019), arXiv:1907.06571; minibatch deviation and growth: Karras et al.
(2018), arXiv:1710.10196.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.layers import SLOPE
from rvdflow.methods.equalised import EqualisedConv3d, EqualisedLinear, Stack, cube, narrow
from rvdflow.methods.spectral import SpectralConv2d, SpectralConv3d, SpectralLinear

# ---------------------------------------------------------------- patches


def instance_norm(channels: int) -> nn.GroupNorm:
    """Each channel of each frame with mean 0 and variance 1; nothing to learn, nothing remembered."""
    return nn.GroupNorm(channels, channels, affine=False)


class PatchGan(nn.Module):
    """conv4x4 of stride 2 four times (no norm after the first), then one score for each patch.

    Before a norm a convolution has no bias: it would be subtracted again. Frames need 32 pixels on one side at least,
    or the last norm sees one number and leaves zero.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for c_in, c_out in pairwise(widths):
            conv = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
            layers += [conv, instance_norm(c_out), nn.LeakyReLU(SLOPE)]
        # One row and column of zeros more above and to the left: an even kernel that keeps the size.
        self.layers = nn.Sequential(*layers, nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)


# ---------------------------------------------------------------- residual networks


class SelfAttention(nn.Module):
    """x + gamma o(softmax(f(x)^T g(x)) h(x)), with keys and values of a quarter of the positions.

    Queries and keys have an eighth of the channels, values half of them; gamma starts at 0. Height and width even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow_to, half = max(1, channels // 8), max(1, channels // 2)
        self.query, self.key = (SpectralConv2d(channels, narrow_to, 1, bias=False) for _ in range(2))
        self.value = SpectralConv2d(channels, half, 1, bias=False)
        self.out = SpectralConv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).flatten(2)
        k, v = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        weights = torch.softmax(q.transpose(1, 2) @ k, 2)  # of every key, for every query
        return x + self.gamma * self.out((v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class Residual(nn.Module):
    """conv - relu - conv, with a 1x1 skip connection; `first`: no relu before it; `down`: half the size at the end.

    `dims` = 3 convolves, and halves, time as well.
    """

    def __init__(self, c_in: int, c_out: int, *, first: bool = False, down: bool = True, dims: int = 2) -> None:
        super().__init__()
        conv: Any = {2: SpectralConv2d, 3: SpectralConv3d}[dims]
        self.first, self.second = conv(c_in, c_out, 3, padding=1), conv(c_out, c_out, 3, padding=1)
        self.skip = conv(c_in, c_out, 1, bias=False)
        self.raw = first
        self.pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims](2) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.relu(self.first(x if self.raw else F.relu(x))))
        return self.pool(h) + self.skip(self.pool(x))  # a 1x1 convolution and a mean may change places


class ResNetDiscriminator(nn.Module):
    """Scores of frames, or of whole clips.

    Channels, in units of `base`, after each block: 2, 4 (then attention), 8, 16, 16; each halves height and width but
    the last. `temporal`: frames are averaged over 2x2 pixels first, and the first two blocks are three-dimensional
    and halve time too, so that the number of frames must divide by 4; the other blocks see frames one by one.
    The last layer adds up positions and has no bias: that of a hinge loss has no gradient while all scores lie
    within the margins.
    """

    def __init__(self, channels: int, base: int, *, temporal: bool) -> None:
        super().__init__()
        dims = 3 if temporal else 2
        self.temporal = temporal
        self.start = nn.Sequential(
            Residual(channels, 2 * base, first=True, dims=dims), Residual(2 * base, 4 * base, dims=dims)
        )
        self.attention = SelfAttention(4 * base)
        self.blocks = nn.Sequential(
            Residual(4 * base, 8 * base), Residual(8 * base, 16 * base), Residual(16 * base, 16 * base, down=False)
        )
        self.head = SpectralLinear(16 * base, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Scores (b, t) of frames (b, t, c, y, x); (b, 1) where temporal."""
        if self.temporal:
            small = F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
            h = self.start(small.transpose(1, 2)).transpose(1, 2)
        else:
            h = self.start(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        rows = h.shape[:2]
        h = F.relu(self.blocks(self.attention(h.flatten(0, 1))))
        scores = self.head(h.sum((2, 3))).reshape(rows)
        return scores.mean(1, keepdim=True) if self.temporal else scores


# ---------------------------------------------------------------- one that grows


def halved(x: Tensor, how: str) -> Tensor:
    """x (..., y, x) of half the height and width: every other pixel ("nearest") or means of 2x2 ("area")."""
    if how == "nearest":
        return x[..., ::2, ::2]
    return F.avg_pool2d(x.flatten(0, -3), 2).unflatten(0, x.shape[:-2])


def doubled(x: Tensor) -> Tensor:
    """x (..., y, x) of twice the height and width: each pixel four times."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def minibatch_deviation(h: Tensor, group: int) -> Tensor:
    """One more channel of h (b, c, ...): the standard deviation within a group of clips, averaged over all else.

    Groups are `group` clips side by side, or the largest divisor of b below that. Of a single clip it is zero.
    """
    size = next(n for n in range(min(group, len(h)), 0, -1) if len(h) % n == 0)
    variance = h.unflatten(0, (-1, size)).var(1, correction=0)
    value = (variance + 1e-8).sqrt().flatten(1).mean(1).repeat_interleave(size)
    return torch.cat([h, value.reshape(-1, *[1] * (h.ndim - 1)).expand(-1, 1, *h.shape[2:])], 1)


class GrowingCritic(nn.Module):
    """A critic of clips at each resolution, `widths` being the channels from the coarsest on.

    At stage k clips have 2^k times the coarsest size (`base`, y and x). While a stage fades in (`alpha` below 1), its
    block's answer is mixed with what the critic of the stage before sees of the halved clip.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], frames: int, base: tuple[int, int], *, group: int, resize: str
    ) -> None:
        super().__init__()
        self.group, self.resize = group, resize
        self.from_frames = nn.ModuleList(Stack(EqualisedConv3d(channels, w, 1), norm=False) for w in widths)
        pairs = zip(widths[1:], widths, strict=False)
        self.blocks = nn.ModuleList(narrow(fine, coarse, norm=False) for fine, coarse in pairs)
        coarsest = widths[0]
        whole = EqualisedConv3d(coarsest, coarsest, (frames, *base))
        self.middle = Stack(cube(coarsest + 1, coarsest), whole, norm=False)
        self.head = EqualisedLinear(coarsest, 1, gain=1.0)

    def forward(self, clips: Tensor, stage: int, alpha: float = 1.0) -> Tensor:
        h = self.from_frames[stage](clips)
        for level in range(stage, 0, -1):
            h = self.blocks[level - 1](h)
            if level == stage and alpha < 1:
                h = torch.lerp(self.from_frames[level - 1](halved(clips, self.resize)), h, alpha)
        h = self.middle(minibatch_deviation(h, self.group))
        return self.head(h.flatten(1))[:, 0]
