"""FutureGAN: a three-dimensional convolutional GAN that is grown from 4x4 pixels to the size of the frames.

At stage k frames have 2^k times the coarsest size. The generator's encoder takes the context down to the coarsest
size, resolution by resolution, there folds its frames into one and unfolds that into the future, and its decoder goes
back up; the critic is shown context and future together. A stage first fades in, alpha growing from 0 to 1,

    forecast = (1 - alpha) upsampled forecast of stage k - 1 + alpha forecast of stage k,

and likewise what encoder and critic make of frames, and the real frames themselves (halved and doubled again), so that
nothing jumps where a stage begins. Then it is trained as it is.

    critic     E D(fake) - E D(real) + 10 E (|grad D| - 1)^2 + 0.001 E D(real)^2
    generator  -E D(fake);    no loss of reconstruction, and no noise: the forecast is deterministic

Published: Aigner & Koerner (2018), arXiv:1810.01325. 6 frames after 6; channels 512 up to 32x32 pixels, 256 at 64x64,
128 at 128x128; every convolution with an equalised learning rate, LeakyReLU 0.2, pixel norm in the generator alone; no
bound on the output, clamped when forecasting; Adam 1e-3, betas (0, 0.99), times 0.87 at every growth; for each
resolution 10 epochs of fading in (none at the first) and as many without, 20 in all; batches of 32, 16, 8, 4, 2, 1.

Decided: all blocks are there from the start, stage and alpha are functions of the part of the training that is done,
in equal parts (`grown_by`: how much of the training growing takes; the last stage has what is left). The buffer
`progress` remembers the part at which the critic or generator was last trained, so that a model stopped early forecasts
at its stage, upsampled; an untrained one at full size. The minibatch deviation is taken within groups of
`deviation_group` clips side by side: a loss is the same however a step is divided, if its parts are whole groups.

Deviations: the moments of the optimiser outlive a growth; one batch size throughout; real frames do fade in (in the
release they do not, for want of a name); frames need not be square: the coarsest size is theirs divided by 2^levels;
inside obstacles all frames are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from rvdflow.methods.adversarial import deceived, drift, frozen, gradient_penalty, wasserstein
from rvdflow.methods.base import Adam, MethodConfig, Noise, Window, WindowModel, channels_of
from rvdflow.methods.discriminators import GrowingCritic, doubled, halved
from rvdflow.methods.equalised import EqualisedConv3d, EqualisedSpread3d, Stack, cube, narrow
from rvdflow.networks import Given
from rvdflow.noise import Draws

WIDEST, FULL_TO = 512, 3  # channels of the coarsest resolutions, and the last level that has as many


class FutureGanConfig(MethodConfig):
    levels: int = Field(4, ge=1, le=8, description="halvings between the frames and the coarsest size: stages less one")
    context_frames: int = Field(6, ge=1, description="frames shown")
    future_frames: int = Field(6, ge=1, description="frames forecast at once")
    grown_by: float = Field(1.0, gt=0, le=1, description="part of the training in which stages have equal shares")
    fade: float = Field(0.5, gt=0, le=1, description="part of a stage over which it fades in")
    resize: Literal["nearest", "area"] = Field("nearest", description="how frames are made smaller for early stages")
    penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")
    drift: float = Field(1e-3, ge=0, description="weight of the square of the critic's real scores")
    deviation_group: int = Field(4, ge=1, description="clips among which the critic sees the deviation; 1: none")


PRESETS: dict[str, dict[str, Any]] = {
    "futuregan-64": {},
    "futuregan-128": {"levels": 5},
    "futuregan-small": {
        "levels": 3,
        "width": 0.0625,
        "context_frames": 4,
        "future_frames": 4,
        "grown_by": 0.6,
        "normalisation": "standard",
    },
}
SMALL: dict[str, Any] = {  # how the small preset is trained
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "betas": (0.0, 0.99),
    "weight_decay": 0.0,
    "gradient_clip": None,
}


class Growth(NamedTuple):
    """The stage, from 0 for the coarsest frames, and how far it has faded in."""

    stage: int
    alpha: float


class GrowingGenerator(nn.Module):
    """Context (b, c, t, y, x) of a stage's resolution -> future of it; `widths`: channels from the coarsest on."""

    def __init__(self, channels: int, widths: Sequence[int], before: int, after: int, resize: str) -> None:
        super().__init__()
        self.resize = resize
        coarsest, pairs = widths[0], list(zip(widths[1:], widths, strict=False))
        self.from_frames = nn.ModuleList(Stack(EqualisedConv3d(channels, w, 1), norm=True) for w in widths)
        self.encoder = nn.ModuleList(narrow(fine, coarse, norm=True) for fine, coarse in pairs)
        self.middle = Stack(
            cube(coarsest, coarsest),
            EqualisedConv3d(coarsest, coarsest, (before, 1, 1)),
            EqualisedSpread3d(coarsest, coarsest, (after, 1, 1)),
            cube(coarsest, coarsest),
            norm=True,
        )
        self.decoder = nn.ModuleList(
            Stack(EqualisedSpread3d(coarse, fine, (1, 2, 2)), cube(fine, fine), norm=True) for fine, coarse in pairs
        )
        self.to_frames = nn.ModuleList(EqualisedConv3d(w, channels, 1, gain=1.0) for w in widths)

    def forward(self, context: Tensor, stage: int, alpha: float = 1.0) -> Tensor:
        h = self.from_frames[stage](context)
        for level in range(stage, 0, -1):
            h = self.encoder[level - 1](h)
            if level == stage and alpha < 1:
                h = torch.lerp(self.from_frames[level - 1](halved(context, self.resize)), h, alpha)
        h = coarser = self.middle(h)
        for level in range(1, stage + 1):
            h, coarser = self.decoder[level - 1](h), h
        future = self.to_frames[stage](h)
        if stage and alpha < 1:
            future = torch.lerp(doubled(self.to_frames[stage - 1](coarser)), future, alpha)
        return future


class FutureGan(WindowModel):
    stochastic = False
    players = ("discriminator", "generator")
    published = {  # noqa: RUF012
        name: Adam(1e-3, (0.0, 0.99), batch_size=2) for name in ("discriminator", "generator")
    }
    progress: Tensor

    def __init__(self, config: FutureGanConfig, *, channels: int, height: int, width: int) -> None:
        super().__init__(config, channels=channels, height=height, width=width, coarsening=2**config.levels)
        c = config
        self.context, self.block = c.context_frames, c.future_frames
        self.clip_frames = c.context_frames + c.future_frames
        widths = [channels_of(WIDEST // 2 ** max(0, k - FULL_TO), c.width) for k in range(c.levels + 1)]
        base = height >> c.levels, width >> c.levels
        self.generator = GrowingGenerator(channels, widths, c.context_frames, c.future_frames, c.resize)
        self.discriminator = GrowingCritic(
            channels, widths, self.clip_frames, base, group=c.deviation_group, resize=c.resize
        )
        self.register_buffer("progress", torch.ones((), dtype=torch.float64))

    def compilable(self) -> list[nn.Module]:
        """Compiled networks cannot be differentiated twice, as the penalty asks of the critic."""
        return [self.generator]

    def growth(self, progress: float) -> Growth:
        """Stage and alpha after a part `progress` (0 to 1) of the training."""
        stages = self.config.levels + 1
        position = min(progress / self.config.grown_by, 1.0) * stages
        stage = min(int(position), stages - 1)
        return Growth(stage, min(1.0, (position - stage) / self.config.fade) if stage else 1.0)

    def settled(self, progress: float) -> bool:
        """Not before it is grown: forecasts of a coarse stage are smooth, and may err less than sharp ones."""
        return self.growth(progress) == (self.config.levels, 1.0)

    def rate_factor(self, player: str, progress: float) -> float:
        """Rates fall at each growth."""
        return 0.87 ** self.growth(progress).stage

    def shown(self, frames: Tensor, growth: Growth) -> Tensor:
        """Frames (..., y, x) as that moment of the training shows them: of the stage's resolution, and faded in."""
        for _ in range(self.config.levels - growth.stage):
            frames = halved(frames, self.config.resize)
        if growth.alpha == 1:
            return frames
        return torch.lerp(doubled(halved(frames, self.config.resize)), frames, growth.alpha)

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        if player not in self.players:
            raise ValueError(f"FutureGan has no player {player!r}")
        if self.training:
            self.progress.fill_(progress)
        growth = self.growth(progress)
        real = self.shown(frames, growth).transpose(1, 2)
        context = real[:, :, : self.context]
        if player == "generator":
            with frozen(self.discriminator):
                fake = self._completed(context, given, growth)
                loss = deceived(self.discriminator(fake, *growth))
            return {"loss": loss}
        with torch.no_grad():
            fake = self._completed(context, given, growth)
        critic, c = self.discriminator, self.config
        of_real, of_fake = critic(real, *growth), critic(fake, *growth)
        distance = wasserstein(of_real, of_fake)
        penalty = gradient_penalty(lambda x: critic(x, *growth), real, fake, draws.uniform())
        loss = c.penalty * penalty + c.drift * drift(of_real) - distance
        return {"loss": loss, "wasserstein": distance.detach(), "penalty": penalty.detach()}

    def _completed(self, context: Tensor, given: Given, growth: Growth) -> Tensor:
        """Clips (b, c, t, y, x): the context (b, c, t, y, x), and what the generator adds to it."""
        return torch.cat([context, self._future(context, given, growth)], 2)

    def _future(self, context: Tensor, given: Given, growth: Growth) -> Tensor:
        """Frames (b, c, t, y, x) after the context; as real ones are, 0 inside obstacles and less at faded edges."""
        future = self.generator(context, *growth).to(context.dtype)
        return future * self.shown(given.fluid, growth)[:, None] if self.config.masked_loss else future

    def advance(self, state: Window, noise: Noise) -> tuple[Tensor, Window]:
        growth = self.growth(float(self.progress))
        context = self.shown(state.frames, growth).transpose(1, 2)
        future = self._future(context, state.given, growth).transpose(1, 2)
        for _ in range(self.config.levels - growth.stage):
            future = doubled(future)
        if self.value_range == "minmax":
            future = future.clamp(-1, 1)
        future = self.kept(future, state.given)
        return future, self.moved(state, future)
