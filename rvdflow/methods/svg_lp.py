"""SVG-LP: stochastic video generation with a learned prior, on maps in place of vectors.

    h_t = encoder(x_t);  z_t ~ q(h_1 .. h_t) in training, p(h_1 .. h_{t-1}) in a forecast
    g_t = predictor(h_{t-1}, z_t);  x^_t = decoder(g_t, skips)
    loss = mean_t [ mean (x^_t - x_t)^2 + beta KL(q_t | p_t) ],    frames teacher-forced

Published: Denton & Fergus (2018), arXiv:1802.07687, with vectors of 128 numbers between encoder and decoder and LSTMs;
VGG-like encoder and decoder (conv3x3 - norm - LeakyReLU twice at 64 and 128 channels, three times at 256 and 512, max
pooling between), 256 recurrent units, 2 layers in the predictor and 1 in posterior and prior, z of 64 numbers and
beta = 1e-4 for BAIR (24 and 1e-6 for KTH), Adam 2e-3, 100 clips, 600 steps in each of 300 epochs.

The comparison of arXiv:2203.09481 used a convolutional form and does not describe it. Decided here: the encoder stops
where the shorter side has 8 to 15 pixels; the code is a map of 128 channels (conv3x3, norm, tanh); LSTMs are ConvLSTMs
of 256 channels; 1x1 convolutions lead into them, 3x3 out of them; z is a map of `z_channels` (or, with `z_spatial`
off, a vector: the mean of the map of its parameters). So that the weight of the whole KL stays as published, beta is
for `latents` numbers and is scaled by latents / numbers of z.

Deviations: GroupNorm for BatchNorm, whose statistics at test time came from the batch; frames in [-1, 1] and tanh for
[0, 1] and sigmoid, with errors counted in the published unit (half of ours; as they are for standard scores); the mean
over a clip's frames for the sum; skips come from the last context frame or always (`last_frame_skip`) from the last
frame; z of context frames is the posterior's mean in a forecast, so that all members share their state.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from rvdflow.layers import SLOPE
from rvdflow.methods.base import Adam, MethodConfig, Noise, VideoModel, channels_of
from rvdflow.methods.gaussian import Gaussian, free_bits, from_log_variance, kl, warmed
from rvdflow.methods.recurrent import ConvLSTM, Memory, over_time
from rvdflow.networks import Given
from rvdflow.noise import Draws

CHANNELS, CONVOLUTIONS = (64, 128, 256, 512), (2, 2, 3, 3)  # of each resolution
COARSEST = 8  # pixels of the shorter side of the code, at least


class SvgLpConfig(MethodConfig):
    code: int = Field(128, ge=1, description="channels of a frame's code")
    units: int = Field(256, ge=1, description="channels of every ConvLSTM")
    layers: int = Field(2, ge=1, le=8, description="ConvLSTMs of the predictor")
    z_channels: int = Field(8, ge=1, description="channels of z; not scaled by width")
    z_spatial: bool = Field(True, description="z is a map, not a vector")
    beta: float = Field(1e-4, ge=0, description="weight of the KL of `latents` numbers")
    latents: int = Field(64, ge=1, description="numbers of z that beta was published for")
    kl_warmup: float = Field(0.0, ge=0, le=1, description="part of the training over which beta grows from 0")
    free_bits: float = Field(0.0, ge=0, description="nats of a frame's KL that cost nothing more")
    last_frame_skip: bool = Field(False, description="skips from the last frame, not from the last context frame")
    context_frames: int = Field(
        2, ge=1, description="frames of a training clip that skips may come from (without last_frame_skip)"
    )
    clip_frames: int = Field(12, ge=2, description="frames of a training clip; all but the first carry loss")

    @model_validator(mode="after")
    def _consistent(self) -> SvgLpConfig:
        if self.clip_frames <= self.context_frames:
            raise ValueError(f"clip_frames {self.clip_frames} must exceed context_frames {self.context_frames}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "svg-lp-64": {},
    "svg-lp-128": {},  # the depth follows from the frames
    "svg-lp-small": {
        "width": 0.25,
        "normalisation": "standard",
        "last_frame_skip": True,
        "kl_warmup": 0.1,
    },
}
SMALL: dict[str, Any] = {"optimiser": "adam", "learning_rate": 1e-3, "betas": (0.9, 0.999)}  # its training


class SvgLpState(NamedTuple):
    """After some frames: what predictor and prior remember, the skips and the last frame."""

    predictor: tuple[Memory | None, ...]
    prior: Memory | None
    skips: tuple[Tensor, ...]
    last: Tensor
    given: Given


class _Block(nn.Sequential):
    """conv3x3 - norm - LeakyReLU as often as there are `widths` but the first."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(widths):
            norm = nn.GroupNorm(math.gcd(8, c_out), c_out)
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), norm, nn.LeakyReLU(SLOPE)]
        super().__init__(*layers)


class Encoder(nn.Module):
    """Frames -> code, and a skip for each resolution, the finest first."""

    def __init__(self, channels: int, widths: list[int], code: int) -> None:
        super().__init__()
        counts = CONVOLUTIONS[: len(widths)]
        inputs = [channels, *widths[:-1]]
        self.blocks = nn.ModuleList(_Block(c, *[w] * n) for c, w, n in zip(inputs, widths, counts, strict=True))
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], code, 3, padding=1), nn.GroupNorm(math.gcd(8, code), code), nn.Tanh()
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips, h = [], frames
        for block in self.blocks:
            skips.append(block(h))
            h = F.max_pool2d(skips[-1], 2)
        return self.head(h), tuple(skips)


class Decoder(nn.Module):
    """Code and skips -> frame, before the bound: the encoder's mirror image, with nearest-neighbour upsampling."""

    def __init__(self, channels: int, widths: list[int], code: int) -> None:
        super().__init__()
        self.first = _Block(code, widths[-1])
        self.blocks = nn.ModuleList()
        for level in reversed(range(1, len(widths))):
            w = widths[level]
            self.blocks.append(_Block(2 * w, *[w] * (CONVOLUTIONS[level] - 1), widths[level - 1]))
        self.blocks.append(_Block(2 * widths[0], widths[0]))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, code: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        h = self.first(code)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], 1))
        return self.head(h)


class Law(nn.Module):
    """Codes so far -> the law of z: the posterior, or the prior."""

    def __init__(self, code: int, units: int, z_channels: int, *, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.embed = nn.Conv2d(code, units, 1)
        self.memory = ConvLSTM(units, units)
        self.head = nn.Conv2d(units, 2 * z_channels, 3, padding=1)

    def forward(self, codes: Tensor, state: Memory | None = None) -> tuple[Gaussian, Memory]:
        """Laws after each of codes (b, t, c, y, x), shapes (b, t, z, y, x) or (b, t, z, 1, 1)."""
        hidden, state = self.memory(over_time(self.embed, codes), state)
        raw = over_time(self.head, hidden)
        if not self.spatial:
            raw = raw.mean((3, 4), keepdim=True)
        return from_log_variance(*raw.chunk(2, 2)), state


class Predictor(nn.Module):
    """Code of the last frame and z -> code of the next."""

    def __init__(self, code: int, units: int, z_channels: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(code + z_channels, units, 1)
        self.memory = nn.ModuleList(ConvLSTM(units, units) for _ in range(layers))
        self.head = nn.Sequential(nn.Conv2d(units, code, 3, padding=1), nn.Tanh())

    def forward(self, codes: Tensor, z: Tensor, state: tuple[Memory | None, ...]) -> tuple[Tensor, tuple[Memory, ...]]:
        z = z.expand(*z.shape[:3], *codes.shape[3:]).to(codes.dtype)
        h, after = over_time(self.embed, torch.cat([codes, z], 2)), []
        for memory, before in zip(self.memory, state, strict=True):
            h, last = memory(h, before)
            after.append(last)
        return over_time(self.head, h), tuple(after)


class SvgLp(VideoModel):
    stochastic = True
    published = {"model": Adam(2e-3, batch_size=100, steps=180_000)}  # noqa: RUF012

    def __init__(self, config: SvgLpConfig, *, channels: int, height: int, width: int) -> None:
        halvings = max(1, int(math.log2(max(1, min(height, width) / COARSEST))))
        if halvings > len(CHANNELS):
            raise ValueError(f"frames of {height} x {width} pixels are too large: SVG-LP halves them 4 times at most")
        super().__init__(
            config, channels=channels, height=height, width=width, coarsening=2**halvings, smallest=COARSEST
        )
        self.context, self.clip_frames = 1, config.clip_frames
        widths = [channels_of(c, config.width) for c in CHANNELS[:halvings]]
        code, units = (channels_of(c, config.width) for c in (config.code, config.units))
        self.encoder = Encoder(channels, widths, code)
        self.decoder = Decoder(channels, widths, code)
        self.posterior = Law(code, units, config.z_channels, spatial=config.z_spatial)
        self.prior = Law(code, units, config.z_channels, spatial=config.z_spatial)
        self.predictor = Predictor(code, units, config.z_channels, config.layers)
        size = (height >> halvings, width >> halvings) if config.z_spatial else (1, 1)
        self.z_shape = config.z_channels, *size
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and ".memory" not in name:  # recurrent weights start as torch's do
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        """Teacher-forced: frame t from frames before it and a z that has seen it."""
        c, steps = self.config, frames.shape[1] - 1
        codes, skips = self._encoded(frames)
        before = codes[:, :-1]
        q, _ = self.posterior(codes[:, 1:])
        p, _ = self.prior(before)
        z = q.draw(draws.normal(steps, *self.z_shape))
        predicted, _ = self.predictor(before, z, self._blank())
        source = torch.arange(steps, device=frames.device)
        if not c.last_frame_skip:
            source = source.clamp(max=c.context_frames - 1)
        forecast = self._decoded(predicted, tuple(s[:, source] for s in skips))
        square = self.pixel_mean((forecast - frames[:, 1:]).square(), given)
        nats = kl(q, p).sum((2, 3, 4))
        weight = warmed(c.beta, progress, c.kl_warmup) * c.latents / math.prod(self.z_shape)
        unit = 0.5 if c.normalisation == "minmax" else 1.0
        return {
            "loss": unit**2 * square + weight * free_bits(nats, c.free_bits).mean(),
            "reconstruction_rmse": square.detach().sqrt(),
            "kl": nats.detach().mean(),
        }

    def begin(self, context: Tensor, given: Given) -> SvgLpState:
        context = self.usable(context)
        predictor, prior = self._blank(), None
        codes, skips = self._encoded(context)
        if context.shape[1] > 1:
            q, _ = self.posterior(codes[:, 1:])
            _, prior = self.prior(codes[:, :-1])
            _, predictor = self.predictor(codes[:, :-1], q.mean, predictor)
        return SvgLpState(predictor, prior, tuple(s[:, -1] for s in skips), context[:, -1], given)

    def advance(self, state: SvgLpState, noise: Noise) -> tuple[Tensor, SvgLpState]:
        codes, skips = self._encoded(state.last[:, None])
        last = tuple(s[:, 0] for s in skips) if self.config.last_frame_skip else state.skips
        p, prior = self.prior(codes, state.prior)
        z = p.draw(noise(self.z_shape)[:, None])
        predicted, predictor = self.predictor(codes, z, state.predictor)
        frame = self.kept(self._decoded(predicted, tuple(s[:, None] for s in last)), state.given)
        return frame, SvgLpState(predictor, prior, last, frame[:, 0], state.given)

    def _blank(self) -> tuple[None, ...]:
        return (None,) * self.config.layers

    def _encoded(self, frames: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Codes and skips (b, t, c, y, x) of clips."""
        code, skips = self.encoder(frames.flatten(0, 1))
        return code.unflatten(0, frames.shape[:2]), tuple(s.unflatten(0, frames.shape[:2]) for s in skips)

    def _decoded(self, codes: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        frames = self.decoder(codes.flatten(0, 1), tuple(s.flatten(0, 1) for s in skips))
        return self.bounded(frames).unflatten(0, codes.shape[:2])
