"""TimeGrad on coefficients of modes: the next state of a reduced-order model, drawn by a conditional diffusion.

    x_t = mean + sum_i s_i c_i phi_i + rest;   h_t = LSTM(h_{t-1}, [c_{t-1}, c_{t-2}, ..]);   c_t ~ diffusion given h_t
    loss = || eps - net(sqrt(abar_n) c_t + sqrt(1 - abar_n) eps, n, h_t) ||^2

Published: Rasul, Seward, Schuster & Vollgraf (2021), arXiv:2101.12072, for time series of a few hundred numbers: an
LSTM of 2 layers of 40 units and a condition of 100 numbers; a net of 8 residual layers of 8 channels, gated and dilated
by turns (1, 2), its convolutions along the numbers of a time and periodic; N = 100 steps, beta from 1e-4 to 0.1,
ancestral sampling without bounds, Adam 1e-3.

A frame of 64 x 64 x 3 pixels as such a series would take 75 million weights for the condition alone, and neighbours
along the series are not neighbours in the frame. Two readings of "TimeGrad for video" remain. In pixels, it is a U-Net
that draws the whole frame given a recurrent encoding of the past: that is the ablation VD of arXiv:2203.09481, here
`rvdflow.config.ModelConfig(mean="zero")`. This module is the other: TimeGrad itself, on the leading coefficients of a
proper orthogonal decomposition, each divided by its deviation over the training runs. What the modes do not hold is
forecast as their mean: a forecast is too smooth by that known part, and cannot be better than the truncation.

The modes are not trained: `prepare` fits them on the training runs before the first step, and they travel in the
checkpoint as buffers.

Deviations: whitening stands for the division by each series' mean; no dropout; inputs may hold numbers of the run
(`conditions`); lags are frames, none is a time of day. Coefficients are ordered by energy, along which a periodic
convolution means little: the order is the published net's need, not ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from lbm.errors import DataError
from rvdflow.config import SamplerConfig
from rvdflow.diffusion import Schedule, add_noise, read_answer
from rvdflow.layers import StepEmbedding
from rvdflow.methods.base import Adam, MethodConfig, Noise, ValueRange, VideoModel, channels_of
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.samplers import SAMPLERS, calls, sigmas

if TYPE_CHECKING:
    from rvdflow.windows import Windows

SLOPE = 0.4  # of the published net's rectifiers
EMBEDDING = 16  # numbers of the embedded step, before its perceptron


class TimeGradConfig(MethodConfig):
    normalisation: ValueRange = Field("standard", description="of frames; a sum of modes has no bound in either")
    modes: int = Field(32, ge=2, le=4096, description="coefficients that are forecast")
    lags: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="frames back whose coefficients the LSTM sees")
    conditions: tuple[str, ...] = Field((), description="numbers of each run given to the LSTM")
    units: int = Field(40, ge=1, description="units of the LSTM")
    layers: int = Field(2, ge=1, le=8, description="layers of the LSTM")
    condition: int = Field(100, ge=1, description="numbers that the LSTM tells the net; not scaled by width")
    net_channels: int = Field(8, ge=1, description="channels of the net")
    net_layers: int = Field(8, ge=1, le=64, description="residual layers of the net")
    diffusion_steps: int = Field(100, ge=2, le=100_000, description="N")
    first_beta: float = Field(1e-4, gt=0, lt=1, description="variance added by the first step")
    last_beta: float = Field(0.1, gt=0, lt=1, description="and by the last; between them linear")
    loss: Literal["l2", "l1"] = Field("l2", description="norm of the error of the noise")
    sampler: SamplerConfig = Field(
        SamplerConfig(name="ancestral", steps=100, spacing="even"), description="how coefficients are drawn"
    )
    context_frames: int = Field(3, ge=1, description="frames at the start of a training clip that carry no loss")
    clip_frames: int = Field(20, ge=2, description="frames of a training clip")

    @model_validator(mode="after")
    def _consistent(self) -> TimeGradConfig:
        if min(self.lags) < 1 or len(set(self.lags)) < len(self.lags):
            raise ValueError(f"lags {self.lags} must be different frames back, 1 or more")
        if self.context_frames < max(self.lags):
            raise ValueError(f"context_frames {self.context_frames} must be at least the largest of lags {self.lags}")
        if self.clip_frames <= self.context_frames:
            raise ValueError(f"clip_frames {self.clip_frames} must exceed context_frames {self.context_frames}")
        return self


_SAMPLED = {"name": "dpmpp", "steps": 10, "spacing": "karras"}
PRESETS: dict[str, dict[str, Any]] = {
    "timegrad-64": {},
    "timegrad-128": {"modes": 64},
    "timegrad-small": {"modes": 16, "lags": (1, 2), "context_frames": 2, "clip_frames": 12, "sampler": _SAMPLED},
}
SMALL: dict[str, Any] = {  # its training; modes are of frames that are not reflected
    "optimiser": "adam", "batch_size": 16, "weight_decay": 0.0, "mirror": False
}  # fmt: skip


class TimeGradState(NamedTuple):
    """The LSTM's state (b, 2, layers, units), None before any input; the last coefficients (b, frame, mode)."""

    memory: Tensor | None
    recent: Tensor
    given: Given


class _Layer(nn.Module):
    """Gated dilated convolution along the coefficients, told the step and the condition."""

    def __init__(self, channels: int, step: int, dilation: int) -> None:
        super().__init__()
        self.from_step = nn.Linear(step, channels)
        self.from_condition = nn.Conv1d(1, 2 * channels, 1)
        self.conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation, padding_mode="circular")
        self.out = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (rows, channel, mode) -> the next x, and this layer's share of the answer."""
        h = self.conv(x + self.from_step(step)[:, :, None]) + self.from_condition(condition)
        gate, signal = h.chunk(2, 1)
        residual, skip = self.out(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, 1)
        return (x + residual) * math.sqrt(0.5), skip


class NoiseNet(nn.Module):
    """Noisy coefficients (rows, mode), step (rows,) and condition (rows, k) -> their noise."""

    def __init__(self, modes: int, condition: int, channels: int, layers: int) -> None:
        super().__init__()
        self.embed = StepEmbedding(EMBEDDING)
        self.first = nn.Conv1d(1, channels, 1)
        self.condition = nn.Sequential(
            nn.Linear(condition, modes // 2), nn.LeakyReLU(SLOPE), nn.Linear(modes // 2, modes), nn.LeakyReLU(SLOPE)
        )
        self.layers = nn.ModuleList(_Layer(channels, EMBEDDING, 2 ** (i % 2)) for i in range(layers))
        self.skip = nn.Conv1d(channels, channels, 3, padding=1, padding_mode="circular")
        self.head = nn.Conv1d(channels, 1, 3, padding=1, padding_mode="circular")
        nn.init.zeros_(self.head.weight)

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        vector = self.embed(step)
        told = self.condition(condition)[:, None]
        x = F.leaky_relu(self.first(noisy[:, None]), SLOPE)
        total: Any = 0.0
        for layer in self.layers:
            x, share = layer(x, vector, told)
            total = total + share
        h = F.leaky_relu(self.skip(total / math.sqrt(len(self.layers))), SLOPE)
        return self.head(h)[:, 0]


class TimeGrad(VideoModel):
    stochastic = True
    published = {"model": Adam(1e-3, batch_size=64)}  # noqa: RUF012
    mean: Tensor
    modes: Tensor
    deviation: Tensor

    def __init__(self, config: TimeGradConfig, *, channels: int, height: int, width: int) -> None:
        super().__init__(config, channels=channels, height=height, width=width, coarsening=1)
        self.context, self.clip_frames = max(config.lags), config.clip_frames
        if config.modes > channels * height * width:
            raise ValueError(f"frames of {height} x {width} pixels do not have {config.modes} modes: lower modes")
        self.schedule = linear_schedule(config.diffusion_steps, config.first_beta, config.last_beta)
        self.sigmas = sigmas(self.schedule, config.sampler)
        self.register_buffer("mean", torch.zeros(self.frame_shape))
        self.register_buffer("modes", torch.zeros(config.modes, *self.frame_shape))
        self.register_buffer("deviation", torch.ones(config.modes))
        units, net_channels = (channels_of(c, config.width) for c in (config.units, config.net_channels))
        inputs = len(config.lags) * config.modes + len(config.conditions)
        self.lstm = nn.LSTM(inputs, units, config.layers, batch_first=True)
        self.tell = nn.Linear(units, config.condition)
        self.net = NoiseNet(config.modes, config.condition, net_channels, config.net_layers)

    def calls(self, sampler: SamplerConfig | None = None) -> float:
        return calls(self.config.sampler, self.sigmas)

    def prepare(self, windows: Windows) -> None:
        """Take the modes of the training runs. DataError where these have fewer than are asked for."""
        from rvdflow.baselines.pod import leading_modes

        numbers, count = math.prod(self.frame_shape), sum(len(block) for block in windows.blocks())
        mean = sum(block.sum(0, dtype=np.float64) for block in windows.blocks()) / count

        def anomalies() -> Iterator[np.ndarray]:
            for block in windows.blocks():
                yield ((block - mean) / math.sqrt(numbers)).astype(np.float32).reshape(len(block), numbers)

        modes, variance, _ = leading_modes(anomalies, numbers, count, self.config.modes)
        if len(modes) < self.config.modes:
            raise DataError(
                f"the training runs have {len(modes)} modes, model.modes asks for {self.config.modes}: lower it"
            )
        found = mean, modes.reshape(-1, *self.frame_shape) * math.sqrt(numbers), np.sqrt(variance)
        self.set_modes(*(torch.as_tensor(x, dtype=torch.float32) for x in found))

    @torch.no_grad()
    def set_modes(self, mean: Tensor, modes: Tensor, deviation: Tensor) -> None:
        """Take the mean (c, y, x) and modes (mode, c, y, x) of training frames, and each coefficient's deviation.

        A coefficient is the mean over numbers of a frame of (x - mean) phi; modes are orthonormal in that product.
        ValueError where shapes differ, or modes are not orthonormal or deviations not positive.
        """
        for name, new in (("mean", mean), ("modes", modes), ("deviation", deviation)):
            if new.shape != getattr(self, name).shape:
                raise ValueError(f"{name} has shape {tuple(new.shape)}, not {tuple(getattr(self, name).shape)}")
        flat = modes.flatten(1).double()
        off = (flat @ flat.T / flat.shape[1] - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).abs().max()
        if not off < 1e-3:
            raise ValueError(f"modes are not orthonormal under the mean over a frame: off by {float(off):.2g}")
        if not bool((deviation > 0).all() & deviation.isfinite().all()):
            raise ValueError("deviations of the coefficients must be positive: use fewer modes")
        for name, new in (("mean", mean), ("modes", modes), ("deviation", deviation)):
            getattr(self, name).copy_(new)

    def project(self, frames: Tensor) -> Tensor:
        """Whitened coefficients (..., mode) of frames (..., c, y, x)."""
        numbers = math.prod(self.frame_shape)
        return (frames - self.mean).flatten(-3) @ self.modes.flatten(1).T / numbers / self.deviation

    def reconstruct(self, coefficients: Tensor) -> Tensor:
        """Frames (..., c, y, x) of whitened coefficients (..., mode)."""
        flat = (coefficients * self.deviation) @ self.modes.flatten(1)
        return self.mean + flat.unflatten(-1, self.frame_shape)

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        """Error of the noise put on the coefficients of each frame after `context_frames`."""
        first = self.config.context_frames
        clean = self._exactly(frames)
        told, _ = self._told(clean[:, :-1], given, None)
        told = told[:, first - self.context :].flatten(0, 1)
        clean = clean[:, first:]
        count = clean.shape[1]
        level = self.schedule.draw(draws, count)
        noise = draws.normal(count, self.config.modes).flatten(0, 1)
        clean = clean.flatten(0, 1)
        noisy = add_noise(clean, noise, level)
        answer = self.net(noisy, level.position, told)
        error = answer - noise
        loss = error.square().mean() if self.config.loss == "l2" else error.abs().mean()
        with torch.no_grad():
            guess = read_answer(noisy, answer, level, "noise")
            weight = 1 - level.scales(2)[1].square()  # what is guessed from nothing but noise says nothing
            known = (weight * (guess - clean).square()).mean() / weight.mean()
        return {"loss": loss, "coefficient_rmse": known.sqrt()}

    def begin(self, context: Tensor, given: Given) -> TimeGradState:
        seen = self._exactly(self.usable(context))
        memory = None
        if seen.shape[1] > self.context:
            _, memory = self._told(seen[:, :-1], given, None)
        return TimeGradState(memory, seen[:, -self.context :], given)

    def advance(self, state: TimeGradState, noise: Noise) -> tuple[Tensor, TimeGradState]:
        told, memory = self._told(state.recent, state.given, state.memory)

        def denoise(y: Tensor, sigma: float) -> Tensor:
            level = self.schedule.at(sigma, y)
            noisy = y * level.scales(2)[0]
            return read_answer(noisy, self.net(noisy, level.position, told[:, 0]), level, "noise")

        draw = SAMPLERS[self.config.sampler.name]
        drawn = draw(denoise, lambda: noise((self.config.modes,)), self.sigmas, self.config.sampler)
        frame = self.kept(self.reconstruct(drawn[:, None]), state.given)
        recent = torch.cat([state.recent[:, 1:], drawn[:, None].to(state.recent.dtype)], 1)
        return frame, TimeGradState(memory, recent, state.given)

    def _exactly(self, frames: Tensor) -> Tensor:
        """`project` outside autocast: the sum over a frame is too long for half precision."""
        with torch.autocast(frames.device.type, enabled=False):
            return self.project(frames)

    def _told(self, past: Tensor, given: Given, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Conditions (b, t - context + 1, k) of frames `context` .. t, from coefficients (b, t, mode) before them."""
        longest, count = self.context, past.shape[1] - self.context + 1
        inputs = [past[:, longest - lag : longest - lag + count] for lag in self.config.lags]
        if self.config.conditions:
            inputs.append(given.conditions[:, None].expand(-1, count, -1))
        state = None
        if memory is not None:  # the batch comes first in ours, second in torch's
            state = tuple(m.transpose(0, 1).contiguous() for m in memory.unbind(1))
        hidden, (h, c) = self.lstm(torch.cat(inputs, 2), state)
        return self.tell(hidden), torch.stack([h.transpose(0, 1), c.transpose(0, 1)], 1)


def linear_schedule(steps: int, first: float, last: float) -> Schedule:
    """abar_n = prod (1 - beta), beta growing linearly from `first` to `last` (Ho et al. 2020, arXiv:2006.11239)."""
    beta = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")
    return Schedule(torch.cat([torch.ones_like(beta[:1]), torch.cumprod(1 - beta, 0)]))
