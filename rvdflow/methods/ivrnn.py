"""IVRNN: a variational recurrent network with a hierarchy of latent maps, densely connected.

    e(x_t): maps of the frame at every resolution, full to 1 x 1
    z^l_t ~ q(z^l | e^l(x_1 .. x_t), z^{<l}_t) in training, p(z^l | e^l(x_1 .. x_{t-1}), z^{<l}_t) in a forecast
    x^_t = renderer(e(x_{t-1}) at 1 x 1, z_t);  each of its stages: ConvLSTM, then twice the resolution
    loss = sum |x^_t - x_t| + beta sum_l [ log q(z^l_t) - log p(z^l_t) ],    z drawn once from q, frames teacher-forced

Published: Castrejon, Ballas & Courville (2019), arXiv:1904.12165: for 64 x 64 pixels and n = 64 channels, embeddings of
1, 2, 4, 8, 8, 8 n channels at 64, 32, 16, 8, 4 and 1 pixels (residual blocks whose branch counts 0.1, max pooling);
latents of 10, 512 and 128 channels at 1, 8 and 32 pixels; ConvLSTMs with group norms; every ConvLSTM's first state made
from the maps of all context frames, concatenated; L1, beta = 1 (warmed up over 20 of 500 epochs), Adam 1e-4 with weight
decay 1e-4, 16 clips. For 128 x 128 there is one stage of 8 n more, and latents stay at 1, 8 and 32.

Not known, decided here: prior and posterior have as many ConvLSTM channels as the embedding they read; roll-out begins
at the last context frame, since the first states have seen them all, so that frames after the context alone carry
loss; the cell is normalised where it is read; at 1 x 1 kernels are 1 x 1, the border's zeros being all that a larger
one would add. Frames may have any shape: the shorter side is halved until it has 4 to 7 pixels, the coarsest map of
whatever shape is pooled to 1 x 1 and grown from there, and latents lie before the renderer's stages `latent_stages`
(0: 1 x 1, 1: the coarsest map, each next one twice as fine).

Deviations: a forecast carries its states on, for which the published one runs through all frames again with new z for
those it has drawn already; priors see the coarser z, as in the paper (`dense_prior`; the released one does not);
frames in [-1, 1] and tanh, errors counted in the published unit of [0, 1] (standard scores: as they are); the loss is
divided by the numbers of a clip's frames, which leaves its minimum where it is and lets gradients be clipped at 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rvdflow.layers import SLOPE
from rvdflow.methods.base import Adam, MethodConfig, Noise, VideoModel, channels_of
from rvdflow.methods.gaussian import Gaussian, free_bits, from_softplus, kl_sampled, warmed
from rvdflow.methods.recurrent import ConvLSTM, Memory, over_time
from rvdflow.networks import Given
from rvdflow.noise import Draws

BASE, GROUPS, CELL_GROUPS = 64, 4, 16  # n; groups of the norms outside and inside ConvLSTMs
LARGEST = 8  # channels of the coarse maps, in units of n
COARSEST = 4  # pixels of the shorter side of the coarsest map, at least


class IvrnnConfig(MethodConfig):
    """`width` must make 64 * width a multiple of 16."""

    latent_stages: tuple[int, ...] = Field((0, 2, 4), min_length=1, description="renderer stages that z goes into")
    z_channels: tuple[int, ...] = Field(
        (10, 512, 128), min_length=1, description="channels of each z where width is 1; scaled with it, and rounded"
    )
    dense_prior: bool = Field(True, description="priors see the coarser z, as posteriors do")
    reconstruction: Literal["l1", "l2"] = Field("l1", description="norm of the error of frames")
    beta: float = Field(1.0, ge=0, description="weight of the KL")
    kl_warmup: float = Field(0.04, ge=0, le=1, description="part of the training over which beta grows from 0")
    free_bits: float = Field(0.0, ge=0, description="nats of a latent map's KL that cost nothing more")
    context_frames: int = Field(2, ge=1, description="context frames: this many, no fewer; of more the last ones")
    clip_frames: int = Field(12, ge=2, description="frames of a training clip; those after the context carry loss")

    @model_validator(mode="after")
    def _consistent(self) -> IvrnnConfig:
        if self.clip_frames <= self.context_frames:
            raise ValueError(f"clip_frames {self.clip_frames} must exceed context_frames {self.context_frames}")
        if len(self.z_channels) != len(self.latent_stages):
            raise ValueError(f"z_channels {self.z_channels} and latent_stages {self.latent_stages} differ in length")
        if min(self.z_channels) < 1 or min(self.latent_stages) < 0:
            raise ValueError(f"z_channels {self.z_channels} or latent_stages {self.latent_stages} are negative or 0")
        if list(self.latent_stages) != sorted(set(self.latent_stages)):
            raise ValueError(f"latent_stages {self.latent_stages} must grow, from coarse to fine")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "ivrnn-64": {},
    "ivrnn-128": {},  # the depth follows from the frames
    "ivrnn-small": {
        "width": 0.25,
        "normalisation": "standard",
        "latent_stages": (0, 2),
        "z_channels": (40, 128),
        "context_frames": 4,
        "kl_warmup": 0.2,
    },
}
SMALL: dict[str, Any] = {"optimiser": "adam", "learning_rate": 1e-3, "betas": (0.9, 0.999)}  # its training


class IvrnnState(NamedTuple):
    """Memories of the renderer's stages and of the priors, and the last frame, which they have not seen."""

    renderer: tuple[Memory, ...]
    priors: tuple[Memory, ...]
    last: Tensor
    given: Given


class Residual(nn.Module):
    """skip(x) + 0.1 branch(x), the branch: LeakyReLU - conv3x3 - norm, twice."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        hidden = min(c_in, c_out)
        self.branch = nn.Sequential(
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c_in, hidden, 3, padding=1),
            nn.GroupNorm(GROUPS, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, c_out, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, c_out),
        )
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + 0.1 * self.branch(x)


class Embedding(nn.Module):
    """Frames -> maps of `widths` (fine to coarse) channels, each half as large as the one before, and one of 1 x 1."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, widths[0], 1), Residual(widths[0], widths[0]))
        self.rest = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), Residual(a, b), Residual(b, b)) for a, b in itertools.pairwise(widths)
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """In the order of the renderer's stages: 1 x 1, coarsest .. finest."""
        maps = [self.first(frames)]
        for level in self.rest:
            maps.append(level(maps[-1]))
        return (maps[-1].amax((2, 3), keepdim=True), *reversed(maps))


class Law(nn.Module):
    """Maps of a resolution so far, and coarser z -> law of z: a prior, or a posterior."""

    def __init__(self, c_in: int, z_channels: int, coarser: int, kernel: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(c_in, c_in, 1), nn.GroupNorm(1, c_in))
        self.memory = ConvLSTM(c_in, c_in, kernel=kernel, groups=CELL_GROUPS)
        self.head = nn.Sequential(nn.Conv2d(c_in + coarser, 2 * z_channels, 1), nn.GroupNorm(1, 2 * z_channels))
        nn.init.zeros_(self.head[0].weight)  # type: ignore[arg-type]
        nn.init.normal_(self.head[0].bias, 0.0, 1e-3)  # type: ignore[arg-type]

    def remember(self, maps: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """Hidden maps after each of maps (b, t, c, y, x), and the last state."""
        return self.memory(over_time(self.embed, maps), state)

    def law(self, hidden: Tensor, coarser: Sequence[Tensor]) -> Gaussian:
        """Of z (b, t, z, y, x), given coarser ones of the same times."""
        size = hidden.shape[3:]
        seen = [hidden, *(_grown(z, size).to(hidden.dtype) for z in coarser)]
        return from_softplus(*over_time(self.head, torch.cat(seen, 2)).chunk(2, 2))


class Stage(nn.Module):
    """ConvLSTM, then convolution - norm - LeakyReLU to the next resolution."""

    def __init__(self, c_in: int, hidden: int, grow: nn.Module, c_out: int, kernel: int) -> None:
        super().__init__()
        self.memory = ConvLSTM(c_in, hidden, kernel=kernel, groups=CELL_GROUPS)
        self.grow = nn.Sequential(grow, nn.GroupNorm(GROUPS, c_out), nn.LeakyReLU(SLOPE))

    def forward(self, x: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        hidden, state = self.memory(x, state)
        return over_time(self.grow, hidden), state


class FirstState(nn.Module):
    """Maps of all context frames, concatenated -> the first state of a ConvLSTM of that resolution."""

    def __init__(self, frames: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(frames * channels, hidden, 1),
            nn.GroupNorm(GROUPS, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, 2 * hidden, 1),
            nn.GroupNorm(1, 2 * hidden),
        )

    def forward(self, maps: Tensor) -> Memory:
        hidden, cell = self.network(maps.flatten(1, 2)).chunk(2, 1)
        return hidden, cell


class Ivrnn(VideoModel):
    stochastic = True
    fixed_context = True
    published = {"model": Adam(1e-4, weight_decay=1e-4)}  # noqa: RUF012

    def __init__(self, config: IvrnnConfig, *, channels: int, height: int, width: int) -> None:
        halvings = max(1, int(math.log2(max(1, min(height, width) / COARSEST))))
        super().__init__(
            config, channels=channels, height=height, width=width, coarsening=2**halvings, smallest=COARSEST
        )
        stages = halvings + 2
        if config.latent_stages[-1] >= stages:
            raise ValueError(
                f"latent_stages {config.latent_stages}: the renderer of frames of {height} x {width} pixels has the "
                f"stages 0 to {stages - 1}"
            )
        self.context, self.clip_frames = config.context_frames, config.clip_frames
        n = channels_of(BASE, config.width, CELL_GROUPS)
        fine_to_coarse = [n * min(2**level, LARGEST) for level in range(halvings + 1)]
        widths = [fine_to_coarse[-1], *reversed(fine_to_coarse)]  # of each stage
        coarsest = (height >> halvings, width >> halvings)
        sizes = [(1, 1), *((coarsest[0] << s, coarsest[1] << s) for s in range(stages - 1))]
        latents = [max(1, round(z * config.width)) for z in config.z_channels]
        self.z_shapes = [(z, *sizes[s]) for z, s in zip(latents, config.latent_stages, strict=True)]

        self.embedding = Embedding(channels, fine_to_coarse)
        self.stages = nn.ModuleList()
        entering = widths[0]
        for s in range(stages):
            z = sum(z for z, at in zip(latents, config.latent_stages, strict=True) if at == s)
            after = widths[min(s + 1, stages - 1)]
            self.stages.append(Stage(entering + z, widths[s], _grower(s, stages, widths[s], after, coarsest), after,
                                     kernel=3 if s else 1))  # fmt: skip
            entering = after
        self.head = nn.Conv2d(entering, channels, 3, padding=1)

        priors, posteriors = [], []
        for i, s in enumerate(config.latent_stages):
            coarser, kernel = sum(latents[:i]), 3 if s else 1
            priors.append(Law(widths[s], latents[i], coarser if config.dense_prior else 0, kernel))
            posteriors.append(Law(widths[s], latents[i], coarser, kernel))
        self.priors, self.posteriors = nn.ModuleList(priors), nn.ModuleList(posteriors)

        def firsts(at: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(FirstState(config.context_frames, widths[s], widths[s]) for s in at)

        self.first_rendered = firsts(range(stages))
        self.first_priors, self.first_posteriors = firsts(config.latent_stages), firsts(config.latent_stages)

    def compilable(self) -> list[nn.Module]:
        laws = [part for law in (*self.priors, *self.posteriors) for part in law.children()]
        return [self.embedding, *self.stages, *laws]

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        """Teacher-forced frames after the context, z from the posteriors."""
        c, k = self.config, self.context
        steps = frames.shape[1] - k
        maps = self._maps(frames)
        context, before, after = ([m[:, part] for m in maps] for part in (slice(k), slice(k - 1, -1), slice(k, None)))
        renderer, priors = self._first(context)
        z: list[Tensor] = []
        nats: list[Tensor] = []
        for i, s in enumerate(c.latent_stages):
            posterior: Any = self.posteriors[i]
            known, _ = posterior.remember(after[s], self.first_posteriors[i](context[s]))
            q = posterior.law(known, z)
            p, _ = self._prior(i, before[s], z, priors[i])
            z.append(q.draw(draws.normal(steps, *self.z_shapes[i])))
            nats.append(kl_sampled(q, p, z[-1]).sum((2, 3, 4)))
        forecast, _ = self._render(before[0], z, renderer)
        unit = 0.5 if c.normalisation == "minmax" else 1.0
        error = unit * (forecast - frames[:, k:])
        values = error.abs() if c.reconstruction == "l1" else error.square()
        costs = torch.stack([free_bits(one, c.free_bits).mean() for one in nats]).sum()
        numbers = math.prod(self.frame_shape)
        named = {f"kl_{s}": one.detach().mean() for s, one in zip(c.latent_stages, nats, strict=True)}
        return {
            "loss": self.pixel_mean(values, given) + warmed(c.beta, progress, c.kl_warmup) * costs / numbers,
            "reconstruction_rmse": self.pixel_mean(error.detach().square(), given).sqrt() / unit,
            **named,
        }

    def begin(self, context: Tensor, given: Given) -> IvrnnState:
        context = self.usable(context)
        renderer, priors = self._first(list(self._maps(context)))
        return IvrnnState(renderer, priors, context[:, -1], given)

    def advance(self, state: IvrnnState, noise: Noise) -> tuple[Tensor, IvrnnState]:
        maps = self._maps(state.last[:, None])
        z: list[Tensor] = []
        priors = []
        for i, s in enumerate(self.config.latent_stages):
            p, after = self._prior(i, maps[s], z, state.priors[i])
            priors.append(after)
            z.append(p.draw(noise(self.z_shapes[i])[:, None]))
        rendered, renderer = self._render(maps[0], z, state.renderer)
        frame = self.kept(rendered, state.given)
        return frame, IvrnnState(renderer, tuple(priors), frame[:, 0], state.given)

    def _maps(self, frames: Tensor) -> list[Tensor]:
        """Maps (b, t, c, y, x) of clips, one for each stage."""
        return [m.unflatten(0, frames.shape[:2]) for m in self.embedding(frames.flatten(0, 1))]

    def _first(self, context: Sequence[Tensor]) -> tuple[tuple[Memory, ...], tuple[Memory, ...]]:
        """First states of the renderer and of the priors, from maps (b, context, c, y, x) of each stage."""
        renderer = tuple(first(m) for first, m in zip(self.first_rendered, context, strict=True))
        at = self.config.latent_stages
        return renderer, tuple(first(context[s]) for first, s in zip(self.first_priors, at, strict=True))

    def _prior(self, i: int, maps: Tensor, z: Sequence[Tensor], state: Memory) -> tuple[Gaussian, Memory]:
        prior: Any = self.priors[i]
        hidden, state = prior.remember(maps, state)
        return prior.law(hidden, z if self.config.dense_prior else ()), state

    def _render(self, h: Tensor, z: Sequence[Tensor], state: Sequence[Memory]) -> tuple[Tensor, tuple[Memory, ...]]:
        """Frames (b, t, c, y, x) from 1 x 1 maps of the frames before them."""
        after = []
        entering = dict(zip(self.config.latent_stages, z, strict=True))
        for s, stage in enumerate(self.stages):
            if s in entering:
                h = torch.cat([h, entering[s].to(h.dtype)], 2)
            h, memory = stage(h, state[s])
            after.append(memory)
        return self.bounded(over_time(self.head, h)), tuple(after)


def _grower(stage: int, stages: int, c_in: int, c_out: int, coarsest: tuple[int, int]) -> nn.Module:
    if stage == 0:
        return nn.ConvTranspose2d(c_in, c_out, coarsest)
    if stage == stages - 1:
        return nn.Conv2d(c_in, c_out, 3, padding=1)
    return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)


def _grown(z: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (b, t, z, y, x) at a finer resolution, by nearest neighbours."""
    return over_time(nn.Upsample(tuple(size), mode="nearest"), z)
