"""DVD-GAN, conditioned on frames: recurrent generator, one discriminator of single frames and one of clips.

    z ~ N(0, I), once for a clip;  h = affine map of z, the same at every time
    at 1/16, 1/8, 1/4, 1/2 of the resolution:  h = ConvGRU(h over time), then two residual blocks, frame by frame,
        the second of which doubles the resolution; their norms are scaled and shifted by linear functions of z
    frames = tanh(conv(relu(h)))

Context frames go through a residual network like that of D_S; at each resolution its features of all context frames,
stacked on channels, a convolution and a rectifier give the initial state of the ConvGRU there. D_S scores some frames
of the future, drawn at random, each by itself; D_T scores context and future together, at half the resolution.

    discriminator  E max(0, 1 - D(real)) + E max(0, 1 + D(fake)), for D_S and D_T, added
    generator      -E D_S(fake) - E D_T(fake)

Published: Clark, Donahue & Simonyan (2019), arXiv:1907.06571; layers of the third-party code where the paper leaves
them open. Spectral norm everywhere, orthogonal initial weights, 5 + 11 frames, 8 frames for D_S; Adam 1e-4 for the
generator and 5e-4 for the discriminator, betas (0, 0.999), two steps of the discriminator for one of the generator,
batch 512, samples from an exponential average of the generator's weights with decay 0.9999 (these settings, and the
conditioning, recalled from the paper, not checked).

Decided: `recurrence` "single" has one ConvGRU of 3x3 at a resolution, as the paper; "stack" three, as the third-party
code (channels 1, 2 and 1 times the resolution's, kernels 3, 5, 3, or 3, 5, 5 at the finest), which makes the generator
of 35 million weights one of 183; in a stack, the context gives the initial state of each. D_T has the attention of
D_S. Scores of frames are averaged before the hinge, where the paper adds them up; so are those of times. D_S is shown
the same times of real and of false clips. Class embeddings are left out. A forecast goes on by chaining clips, each
with a z of its own and the frames before as context. Vectors of the spectral norm move after each gradient step of a
player (`follow`); both steps of the discriminator see the same clips, with other noise.

Norms: "batch", as published, takes statistics over the rows and frames of a batch; it keeps running ones (of the
generator's own loss calls, averaged as the weights are) for forecasts, where a sample therefore does not depend on its
batch; but in training its loss does depend on how a step is divided. "group" depends on nothing but the frame: it is
what `dvd-gan-small` has.

Deviations: no bias where the next layer takes it out again, nor in the last layer of a discriminator; optional
(`grid`, 0 as published): mean absolute error of the mean of a few draws, against mode collapse, from DGMR (Ravuri et
al. 2021, doi:10.1038/s41586-021-03854-z); inside obstacles all frames are 0, real and forecast.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.methods.adversarial import deceived, frozen, hinge_fake, hinge_real
from rvdflow.methods.base import Adam, MethodConfig, Noise, Window, WindowModel, channels_of
from rvdflow.methods.discriminators import Residual, ResNetDiscriminator, doubled
from rvdflow.methods.spectral import SpectralConv2d, SpectralGru, SpectralLinear, settle
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.trainable import Losses

MOMENTUM = 0.1  # of running statistics
Moments = list[Tensor] | None  # mean and variance of each norm, as they are met
WIDTHS = (8, 8, 8, 4, 2)  # of the generator, in units of the base width: each recurrence's input, and the last map
STACKS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {  # (channels, kernel) of ConvGRUs; channels in halves
    "stack": (((2, 3), (4, 5), (2, 3)),) * 3 + (((2, 3), (4, 5), (2, 5)),),
    "single": (((2, 3),),) * 4,
}


class DvdGanConfig(MethodConfig):
    latent: int = Field(120, ge=1, description="numbers of z; not scaled by width")
    recurrence: Literal["single", "stack"] = Field("single", description="one ConvGRU at a resolution, or three")
    norm: Literal["batch", "group"] = Field("batch", description="in the generator: over the batch, or over a frame")
    context_frames: int = Field(5, ge=1, description="frames shown")
    future_frames: int = Field(11, ge=1, description="frames drawn at once")
    scored_frames: int = Field(8, ge=1, description="frames of the future that D_S is shown; all where there are fewer")
    grid: float = Field(0.0, ge=0, description="weight of the mean absolute error of the mean of `grid_members` draws")
    grid_members: int = Field(3, ge=2, description="draws in that mean")

    @model_validator(mode="after")
    def _consistent(self) -> DvdGanConfig:
        frames = self.context_frames + self.future_frames
        if frames % 4:
            raise ValueError(f"context_frames + future_frames must divide by 4 for D_T, got {frames}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "dvd-gan-64": {},
    "dvd-gan-128": {},
    "dvd-gan-small": {
        "width": 0.125,
        "norm": "group",
        "context_frames": 4,
        "future_frames": 8,
        "normalisation": "standard",
    },
}
SMALL: dict[str, Any] = {  # how the small preset is trained
    "optimiser": "adam",
    "learning_rate": 1e-4,
    "betas": (0.0, 0.999),
    "weight_decay": 0.0,
    "gradient_clip": None,
}


class ConditionalNorm(nn.Module):
    """norm(h) (1 + A z) + B z, for rows of h in which every `times` side by side belong to one row of z."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, latent: int, kind: str) -> None:
        super().__init__()
        self.groups = math.gcd(8, channels) if kind == "group" else None
        self.scale, self.shift = (SpectralLinear(latent, channels, bias=False) for _ in range(2))
        if self.groups is None:
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("variance", torch.ones(channels))

    def forward(self, h: Tensor, z: Tensor, *, track: Moments) -> Tensor:
        """`track` takes the statistics of these rows, in training mode."""
        times = len(h) // len(z)
        scale, shift = (layer(z).repeat_interleave(times, 0)[:, :, None, None] for layer in (self.scale, self.shift))
        return torch.addcmul(shift, self._normalised(h, track), 1 + scale)

    def _normalised(self, h: Tensor, track: Moments) -> Tensor:
        if self.groups is not None:
            return F.group_norm(h, self.groups)
        if not self.training:
            return F.batch_norm(h, self.mean, self.variance)
        if track is not None:
            variance, mean = torch.var_mean(h.detach().to(torch.promote_types(h.dtype, torch.float32)), (0, 2, 3))
            track += [mean, variance]
        return F.batch_norm(h, None, None, training=True)

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Take the statistics of one step into the running ones."""
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance, MOMENTUM)


class GeneratorBlock(nn.Module):
    """norm - relu - (double) - conv, norm - relu - conv, and a 1x1 skip connection."""

    def __init__(self, c_in: int, c_out: int, latent: int, kind: str, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.norms = nn.ModuleList(ConditionalNorm(c, latent, kind) for c in (c_in, c_out))
        self.first = SpectralConv2d(c_in, c_out, 3, padding=1, bias=False)
        self.second = SpectralConv2d(c_out, c_out, 3, padding=1)
        self.skip = SpectralConv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor, z: Tensor, *, track: Moments) -> Tensor:
        h, skip = F.relu(self.norms[0](x, z, track=track)), self.skip(x)
        if self.up:
            h, skip = doubled(h), doubled(skip)
        return self.second(F.relu(self.norms[1](self.first(h), z, track=track))) + skip


class ContextFeatures(nn.Module):
    """Context frames -> the initial states (b, hidden, y, x) at 1/16 .. 1/2 of the resolution."""

    def __init__(self, channels: int, base: int, frames: int, hidden: list[int]) -> None:
        super().__init__()
        widths = [m * base for m in (2, 4, 8, 16)]
        self.blocks = nn.ModuleList(
            Residual(c_in, c_out, first=not k)
            for k, (c_in, c_out) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.heads = nn.ModuleList(
            SpectralConv2d(frames * w, n, 3, padding=1) for w, n in zip(widths, reversed(hidden), strict=True)
        )

    def forward(self, context: Tensor) -> list[Tensor]:
        h, states = context.flatten(0, 1), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            h = block(h)
            states.append(F.relu(head(h.unflatten(0, context.shape[:2]).flatten(1, 2))))
        return states[::-1]


class GeneratorStage(nn.Module):
    """One resolution of the generator: ConvGRUs of (channels, kernel) `units` over time, and two residual blocks."""

    def __init__(self, c_in: int, c_out: int, units: list[tuple[int, int]], latent: int, kind: str) -> None:
        super().__init__()
        self.hidden = [channels for channels, _ in units]
        inputs = [c_in, *self.hidden]
        self.memory = nn.ModuleList(SpectralGru(c, *unit) for c, unit in zip(inputs, units, strict=False))
        blocks = ((inputs[-1], False), (c_out, True))
        self.blocks = nn.ModuleList(GeneratorBlock(inputs[-1], c, latent, kind, up=up) for c, up in blocks)

    def forward(self, x: Tensor, state: Tensor, z: Tensor, times: int, *, track: Moments) -> Tensor:
        """Maps (b, times, c, 2 y, 2 x) from inputs (b, times or 1, c, y, x); `state` (b, n, y, x): of all units."""
        for unit, initial in zip(self.memory, state.split(self.hidden, 1), strict=True):
            x = unit(x, initial, times)
        rows = x.flatten(0, 1)
        for block in self.blocks:
            rows = block(rows, z, track=track)
        return rows.unflatten(0, (-1, times))


class DvdGenerator(nn.Module):
    """Context (b, t, c, y, x) and z (b, latent) -> frames (b, times, c, y, x), before the bound."""

    def __init__(self, config: DvdGanConfig, base: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        widths = [m * base for m in WIDTHS]
        units = [[(w * n // 2, k) for n, k in s] for w, s in zip(widths, STACKS[config.recurrence], strict=False)]
        self.times, self.coarsest = config.future_frames, (widths[0], size[0] // 16, size[1] // 16)
        hidden = [sum(n for n, _ in stage) for stage in units]
        self.context = ContextFeatures(channels, base, config.context_frames, hidden)
        self.start = SpectralLinear(config.latent, math.prod(self.coarsest))
        self.stages = nn.ModuleList(
            GeneratorStage(c_in, c_out, stage, config.latent, config.norm)
            for c_in, c_out, stage in zip(widths, widths[1:], units, strict=False)
        )
        self.head = SpectralConv2d(widths[-1], channels, 3, padding=1)

    def forward(self, context: Tensor, z: Tensor, *, track: Moments = None) -> Tensor:
        h = self.start(z).unflatten(1, self.coarsest)[:, None]
        for stage, state in zip(self.stages, self.context(context), strict=True):
            h = stage(h, state, z, self.times, track=track)
        return self.head(F.relu(h.flatten(0, 1))).unflatten(0, (-1, self.times))


class DualDiscriminator(nn.Module):
    """D_S and D_T."""

    def __init__(self, channels: int, base: int) -> None:
        super().__init__()
        self.spatial = ResNetDiscriminator(channels, base, temporal=False)
        self.temporal = ResNetDiscriminator(channels, base, temporal=True)

    def forward(self, clips: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, 1) of the `chosen` (b, k) frames of clips (b, t, c, y, x), averaged, and of the clips."""
        frames = clips[torch.arange(len(clips), device=clips.device)[:, None], chosen]
        return self.spatial(frames).mean(1, keepdim=True), self.temporal(clips)


class DvdGan(WindowModel):
    stochastic = True
    players = ("discriminator", "generator")
    published = {  # noqa: RUF012
        "discriminator": Adam(5e-4, (0.0, 0.999), batch_size=512),
        "generator": Adam(1e-4, (0.0, 0.999), batch_size=512, ema_decay=0.9999),
    }
    turns: ClassVar[dict[str, int]] = {"discriminator": 2}
    average_buffers = True

    def __init__(self, config: DvdGanConfig, *, channels: int, height: int, width: int) -> None:
        super().__init__(config, channels=channels, height=height, width=width, coarsening=32)
        self.context, self.block = config.context_frames, config.future_frames
        self.clip_frames = self.context + self.block
        base = channels_of(32, config.width)
        self.generator = DvdGenerator(config, base, channels, (height, width))
        self.discriminator = DualDiscriminator(channels, base)

    def follow(self, statistic: Tensor, step: int, player: str = "generator") -> None:
        """One power iteration in the layers of `player` (rvdflow.methods.spectral); running statistics of its norms."""
        settle(self.get_submodule(player))
        norms = [m for m in self.modules() if isinstance(m, ConditionalNorm) and m.groups is None]
        if not len(statistic):
            return
        moments = statistic.split([len(x) for norm in norms for x in (norm.mean, norm.variance)])
        for k, norm in enumerate(norms):
            norm.follow(*moments[2 * k : 2 * k + 2])

    def loss(self, frames: Tensor, given: Given, *, player: str = "generator", progress: float, draws: Draws) -> Losses:
        """Its statistic are the moments that the generator's norms met."""
        moments: list[Tensor] = []
        values = self._losses(player, frames, given, draws, moments)
        return Losses(values, torch.cat(moments) if moments else frames.new_zeros(0))

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        return self._losses(player, frames, given, draws, None)

    def _losses(self, player: str, frames: Tensor, given: Given, draws: Draws, track: Moments) -> dict[str, Tensor]:
        if player not in self.players:
            raise ValueError(f"DvdGan has no player {player!r}")
        context, future = frames.split((self.context, self.block), 1)
        count = min(self.config.scored_frames, self.block)
        chosen = self.context + draws.uniform(self.block).argsort(1)[:, :count].sort(1).values
        z = draws.normal(self.config.latent).to(frames.dtype)
        if player == "discriminator":
            with torch.no_grad():
                fake = torch.cat([context, self._drawn(context, given, z)], 1)
            (real_s, real_t), (fake_s, fake_t) = (self.discriminator(clips, chosen) for clips in (frames, fake))
            spatial, temporal = hinge_real(real_s) + hinge_fake(fake_s), hinge_real(real_t) + hinge_fake(fake_t)
            return {"loss": spatial + temporal, "spatial": spatial.detach(), "temporal": temporal.detach()}
        made = self._drawn(context, given, z, track=track)
        with frozen(self.discriminator):
            spatial, temporal = map(deceived, self.discriminator(torch.cat([context, made], 1), chosen))
        values = {"loss": spatial + temporal, "spatial": spatial.detach(), "temporal": temporal.detach()}
        if self.config.grid:
            more = draws.normal(self.config.grid_members - 1, self.config.latent).to(frames.dtype)
            mean = torch.stack([made, *(self._drawn(context, given, other) for other in more.unbind(1))]).mean(0)
            error = self.pixel_mean((mean - future).abs(), given)
            values["loss"], values["grid"] = values["loss"] + self.config.grid * error, error.detach()
        return values

    def _drawn(self, context: Tensor, given: Given, z: Tensor, *, track: Moments = None) -> Tensor:
        return self.kept(self.bounded(self.generator(context, z, track=track)), given)

    def advance(self, state: Window, noise: Noise) -> tuple[Tensor, Window]:
        z = noise((self.config.latent,)).to(state.frames.dtype)
        future = self._drawn(state.frames, state.given, z)
        return future, self.moved(state, future)
