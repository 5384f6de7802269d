"""Residual video diffusion: next frame = mean + sigma * residual, the residual drawn by a conditional diffusion.

    x^t = mu(x^{<t}) + sigma * y_0^t                                                      (Eq. 5)
    loss = sum_t || eps - f(y_n^t, n, x^{<t}) ||,   y_n = sqrt(abar) y_0 + sqrt(1-abar) eps  (Eq. 9)

Source: Yang, Srivastava & Mandt, Entropy 25(10):1469 (2023), doi:10.3390/e25101469, arXiv:2203.09481.
Frames are normalised, `(batch, channel, y, x)`; clips `(batch, time, channel, y, x)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rvdflow.compact import CompactNetworks
from rvdflow.config import ModelConfig, SamplerConfig
from rvdflow.diffusion import add_noise, clean_and_noise, cosine_schedule, target
from rvdflow.published import PublishedNetworks
from rvdflow.samplers import SAMPLERS


class State(NamedTuple):
    """A forecast under way: what has been seen (`recurrent`, `last`, `previous`) and the outlook on the next frame.

    `outlook` is (mean, conditioning), or None when `last` has not been shown to the networks yet.
    """

    recurrent: Any
    last: Tensor
    previous: Tensor
    outlook: Any


def _map(tree: Any, f: Callable[[Tensor], Tensor]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return f(tree)
    items = [_map(t, f) for t in tree]
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)


class ResidualVideoDiffusion(nn.Module):
    """The model: `loss` to train it, `encode`, `expand` and `step` to forecast with it."""

    residual_variance: Tensor
    inflation: Tensor

    def __init__(self, config: ModelConfig, *, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.config, self.frame_shape = config, (channels, height, width)
        self.schedule = cosine_schedule(config.diffusion_steps)
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
        self.register_buffer("inflation", torch.ones(()))  # of drawn residuals, set by rvdflow.calibrate
        if config.architecture == "compact":
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    @property
    def sigma(self) -> Tensor:
        """Scale of the residual, (channel, y, x) or (channel, 1, 1)."""
        if self.config.residual_scale == "fixed":
            return self.residual_variance.sqrt()
        floor = 1e-2 * self.residual_variance.mean()
        return (self.residual_variance + floor).sqrt()

    def loss(self, clip: Tensor, *, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        c = self.config
        b, t = clip.shape[:2]
        level = torch.zeros(b, device=clip.device)
        frames = clip[:, :-1]
        if c.context_noise:
            level = c.context_noise * torch.rand(b, generator=generator, device=clip.device)
            frames = frames + level[:, None, None, None, None] * torch.randn(
                frames.shape, generator=generator, device=clip.device
            )
        previous = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        mean, conditioning, _ = self.networks.look(frames, previous, level, None, skip=c.context_frames - 1)
        truth = clip[:, c.context_frames :].flatten(0, 1)
        residual = truth - mean
        if self.training and c.residual_scale != "fixed":
            self._follow(residual.detach(), step)
        mean_error = residual.square().mean()
        clean = residual / self.sigma
        if not c.mean_gradient:
            clean = clean.detach()
        k = t - c.context_frames
        draws = b if c.noise_level_per == "clip" else b * k
        n = torch.randint(1, c.diffusion_steps + 1, (draws,), generator=generator, device=clip.device)
        if c.noise_level_per == "clip":
            n = n.repeat_interleave(k)
        noise = torch.randn(clean.shape, generator=generator, device=clip.device)
        noisy = add_noise(clean, noise, n, self.schedule)
        answer = self.networks.denoise(noisy, n, mean if c.mean_gradient else mean.detach(), conditioning)
        wrong = answer - target(clean, noise, n, self.schedule, c.prediction)
        diffusion = wrong.square().mean() if c.loss == "l2" else wrong.abs().mean()
        total = diffusion
        if c.mean_loss:
            total = total + c.mean_loss * mean_error / self.residual_variance.mean()
        return {"loss": total, "diffusion": diffusion.detach(), "mean_rmse": mean_error.detach().sqrt()}

    def _follow(self, residual: Tensor, step: int) -> None:
        dims = (0,) if self.config.residual_scale == "pixel" else (0, 2, 3)
        now = residual.square().mean(dims, keepdim=True)[0]
        self.residual_variance.lerp_(now, max(0.01, 1 / (step + 1)))

    # forecasting

    @torch.no_grad()
    def encode(self, context: Tensor) -> State:
        level = torch.zeros(context.shape[0], device=context.device)
        previous = torch.cat([context[:, :1], context[:, :-1]], 1)
        mean, conditioning, recurrent = self.networks.look(context, previous, level, None, skip=context.shape[1] - 1)
        return State(recurrent, context[:, -1], previous[:, -1], (mean, conditioning))

    def expand(self, state: State, members: int) -> State:
        return _map(state, lambda x: x.repeat_interleave(members, 0))

    @torch.no_grad()
    def step(self, state: State, noise: Callable[[], Tensor], sampler: SamplerConfig) -> tuple[Tensor, State]:
        outlook, recurrent = state.outlook, state.recurrent
        if outlook is None:
            level = torch.zeros(state.last.shape[0], device=state.last.device)
            mean, conditioning, recurrent = self.networks.look(
                state.last[:, None], state.previous[:, None], level, recurrent, skip=0
            )
            outlook = (mean, conditioning)
        mean, conditioning = outlook

        def denoise(y: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
            answer = self.networks.denoise(y, n, mean, conditioning)
            return clean_and_noise(y, answer, n, self.schedule, self.config.prediction, self.config.clip_residual)

        residual = SAMPLERS[sampler.name](denoise, noise, self.schedule, sampler.steps)
        frame = mean + self.inflation * self.sigma * residual
        if self.config.clamp:
            frame = frame.clamp(-1, 1)
        return frame, State(recurrent, frame, state.last, None)
