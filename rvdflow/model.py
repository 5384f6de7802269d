"""Residual video diffusion: next frame = mean + sigma * residual, the residual drawn by a conditional diffusion.

    x^t = mu(x^{<t}) + sigma * y_0^t                                                      (Eq. 5)
    loss = sum_t || eps - f(y_n^t, n, x^{<t}) ||,   y_n = sqrt(abar) y_0 + sqrt(1-abar) eps  (Eq. 9)

Source: Yang, Srivastava & Mandt, Entropy 25(10):1469 (2023), doi:10.3390/e25101469, arXiv:2203.09481.
Frames are normalised, `(batch, channel, y, x)`; clips `(batch, time, channel, y, x)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rvdflow.compact import CompactNetworks
from rvdflow.config import ModelConfig, SamplerConfig
from rvdflow.diffusion import POSITIONS, Continuum, Levels, cosine_schedule, read_answer
from rvdflow.layers import ConvGRU, LinearAttention, ResBlock
from rvdflow.networks import Given, Networks, Outlook
from rvdflow.noise import Draws
from rvdflow.objectives import crps_loss, diffusion_loss
from rvdflow.published import PublishedNetworks
from rvdflow.samplers import SAMPLERS, calls, sigmas
from rvdflow.trainable import Losses, Noise, Trainable


class State(NamedTuple):
    """A forecast under way: the last frames `seen` (b, t, c, y, x), and the outlook on the next one.

    `outlook` is None when the last frame has not been shown to the networks yet, `noise` (what the last residual was
    drawn from) when nothing has been drawn yet. `recurrent` is the networks' state where it is carried on, else None.
    """

    recurrent: Any
    seen: Tensor
    outlook: Outlook | None
    given: Given
    noise: Tensor | None = None


class ResidualVideoDiffusion(Trainable):
    """The model: see `rvdflow.trainable`; its statistic is the mean square of the residual."""

    recomputed = (ResBlock, ConvGRU, LinearAttention)
    networks: Networks
    residual_variance: Tensor
    inflation: Tensor
    memory: Tensor

    def __init__(self, config: ModelConfig, *, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.config, self.frame_shape = config, (channels, height, width)
        self.clip_frames = config.clip_frames
        self.levels: Levels = (
            cosine_schedule(config.diffusion_steps)
            if config.levels == "discrete"
            else Continuum(config.log_sigma_mean, config.log_sigma_deviation)
        )
        sigmas(self.levels, config.sampler)  # ValueError here, not after the training
        networks = PublishedNetworks if config.architecture == "published" else CompactNetworks
        self.networks = networks(config, channels)
        coarsening = self.networks.coarsening
        if height % coarsening or width % coarsening:
            raise ValueError(
                f"frames of {height} x {width} pixels do not divide by {coarsening}, which this model's levels need: "
                f"choose another frame size, or fewer multipliers or a smaller patch"
            )
        shape = (channels, height, width) if config.residual_scale == "pixel" else (channels, 1, 1)
        self.register_buffer("residual_variance", torch.ones(shape) * config.sigma**2)
        # Of drawn residuals, set by rvdflow.calibrate: their scale, and the correlation of noise from frame to frame.
        self.register_buffer("inflation", torch.ones(()))
        self.register_buffer("memory", torch.zeros(()))
        if config.architecture == "compact":
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    @property
    def sampler(self) -> SamplerConfig:
        return self.config.sampler

    @property
    def sigma(self) -> Tensor:
        """Scale of the residual, (channel, y, x) or (channel, 1, 1)."""
        if self.config.residual_scale == "fixed":
            return self.residual_variance.sqrt()
        floor = 1e-2 * self.residual_variance.mean()
        return (self.residual_variance + floor).sqrt()

    def compilable(self) -> list[nn.Module]:
        return list(self.networks.children())  # type: ignore[attr-defined]

    def calls(self, sampler: SamplerConfig | None = None) -> int:
        """Network calls for a frame: of the denoiser, with `sampler` or the default one."""
        if self.config.objective == "crps":
            return 1
        chosen = sampler or self.sampler
        return calls(chosen, sigmas(self.levels, chosen))

    def look(
        self, frames: Tensor, previous: Tensor, level: Tensor, given: Given, state: Any, *, skip: int
    ) -> tuple[Outlook, Any]:
        """See `Networks.look`; the mean is nothing where the diffusion draws whole frames."""
        outlook, state = self.networks.look(frames, previous, level, given, state, skip=skip)
        if self.config.mean == "zero":
            outlook = Outlook(torch.zeros_like(outlook.mean), outlook.conditioning)
        return outlook, state

    # training

    def loss(self, frames: Tensor, given: Given, *, player: str = "model", progress: float, draws: Draws) -> Losses:
        """Loss of clips (b, t, c, y, x) after a part `progress` (0 to 1) of the training."""
        if self.config.mean_first:
            self.networks.predictor.requires_grad_(progress < self.config.mean_first)
        objective = diffusion_loss if self.config.objective == "diffusion" else crps_loss
        return objective(self, frames, given, progress, draws)

    def mean_square(self, residual: Tensor, fluid: Tensor | None = None) -> Tensor:
        """Mean square of residuals (rows, c, y, x) in the shape of `residual_variance`.

        Given the mask `fluid` (rows, 1, y, x) residuals are 0 inside obstacles; the mean of a channel leaves these out.
        """
        if fluid is not None and self.config.residual_scale != "pixel":
            residual = residual * fluid.mean((1, 2, 3), keepdim=True).rsqrt()
        dims = (0,) if self.config.residual_scale == "pixel" else (0, 2, 3)
        return residual.square().mean(dims, keepdim=True)[0]

    @torch.no_grad()
    def follow(self, statistic: Tensor, step: int, player: str = "model") -> None:
        """Take one step's mean square residual into the running one; `step` counts from 0."""
        if self.config.residual_scale != "fixed":
            self.residual_variance.lerp_(statistic, max(0.01, 1 / (step + 1)))

    # forecasting

    @torch.no_grad()
    def encode(self, context: Tensor, given: Given) -> State:
        """The state after seeing context frames (b, t, c, y, x), of which the last `look_back` count (0: all)."""
        seen = context[:, -self.config.look_back :]
        outlook, recurrent = self._look_anew(seen, given)
        if self.config.look_back:
            return State(None, seen, outlook, given)
        return State(recurrent, torch.cat([seen[:, :1], seen], 1)[:, -2:], outlook, given)

    def _look_anew(self, frames: Tensor, given: Given) -> tuple[Outlook, Any]:
        """The outlook after frames (b, t, c, y, x) of which the first is the first that is known."""
        level = torch.zeros(frames.shape[0], device=frames.device)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        return self.look(frames, previous, level, given, None, skip=frames.shape[1] - 1)

    def _look_on(self, state: State) -> tuple[Outlook, Any]:
        """The outlook after the last frame seen, and the recurrent state to carry on."""
        if self.config.look_back:
            return self._look_anew(state.seen, state.given)[0], None
        level = torch.zeros(state.seen.shape[0], device=state.seen.device)
        frames, previous = state.seen[:, -1:], state.seen[:, -2:-1]
        return self.look(frames, previous, level, state.given, state.recurrent, skip=0)

    @torch.no_grad()
    def step(self, state: State, noise: Noise, sampler: SamplerConfig | None = None) -> tuple[Tensor, State]:
        """Draw the next frame (b, c, y, x); `noise()` and `noise(shape)` return fresh normal numbers for each row."""
        outlook, recurrent = state.outlook, state.recurrent
        if outlook is None:
            outlook, recurrent = self._look_on(state)
        start = noise()
        if state.noise is not None:
            start = self.memory * state.noise + (1 - self.memory.square()).sqrt() * start
        residual = self.draw(outlook, start, noise, sampler or self.sampler)
        frame = outlook.mean + self.inflation * self.sigma * residual
        if self.config.clamp:
            frame = frame.clamp(-1, 1)
        if self.config.masked_loss:
            frame = frame * state.given.fluid
        seen = torch.cat([state.seen, frame[:, None]], 1)[:, -(self.config.look_back or 2) :]
        return frame, State(recurrent, seen, None, state.given, start)

    def draw(self, outlook: Outlook, start: Tensor, noise: Noise, sampler: SamplerConfig) -> Tensor:
        """A residual y_0 (b, c, y, x) for each row of `outlook`, from normal numbers `start` of that shape.

        What more a sampler, or a one-step member, needs it takes from `noise`.
        """
        if self.config.objective == "crps":
            width = self.networks.noise_width
            return self.one_step(start, noise((width,)) if width else None, outlook)

        def denoise(y: Tensor, sigma: float) -> Tensor:
            """y_0 expected given y = y_0 + sigma eps."""
            level = self.levels.at(sigma, y)
            noisy = y * level.scales(y.ndim)[0]
            answer = self.networks.denoise(noisy, level.position, outlook)
            return read_answer(noisy, answer, level, self.config.prediction, self.config.clip_residual)

        waiting = [start]
        source = lambda: waiting.pop() if waiting else noise()  # noqa: E731
        return SAMPLERS[sampler.name](denoise, source, sigmas(self.levels, sampler), sampler)

    def one_step(self, noise: Tensor, vector: Tensor | None, outlook: Outlook) -> Tensor:
        """The residual that noise (b, c, y, x) and its vector (b, noise_width) mean, in one network call."""
        position = torch.full((len(noise),), POSITIONS, device=noise.device)
        return self.networks.denoise(noise, position, outlook, vector)
