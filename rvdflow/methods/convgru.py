"""ConvGRU: the mean of the next frame alone, drawn from nothing: what a deterministic network makes of the same data.

    x^_t = mu(x_1 .. x_{t-1});    loss = mean |x^_t - x_t|^2 or |x^_t - x_t|

Published is mu itself, the mean predictor of residual video diffusion (Yang, Srivastava & Mandt 2023,
arXiv:2203.09481; ConvGRU: Ballas et al. 2016, arXiv:1511.06432), which was never trained without the residual; the
`compact` network is this package's own. Both are those that `rvdflow.model` uses, so that the difference between this
and residual video diffusion is the residual.

Decided here: trained on teacher-forced frames at first, and after a part `unroll_from` of the training the last
`unroll` - 1 frames of a clip are forecast from its own forecasts (scheduled as the unrolled mean of
`rvdflow.objectives`). Where frames lie in [-1, 1] means are clamped to it, as there. A network of small square error
forecasts the mean of what may come, and blurs as that spreads; L1 gives the median.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rvdflow.compact import RecurrentPyramid
from rvdflow.config import ModelConfig, Widths
from rvdflow.methods.base import Adam, MethodConfig, Noise, VideoModel, channels_of
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.predictor import MeanPredictor


class ConvGruConfig(MethodConfig):
    architecture: Literal["published", "compact"] = Field("published", description="mean predictor, or our pyramid")
    base: int = Field(48, ge=1, le=512, description="channels d that multipliers count")
    multipliers: Widths = Field((1, 2, 2, 4), description="channels of each resolution, in units of d")
    patch: int = Field(2, ge=1, le=8, description="pixels folded into channels at the input (compact)")
    recurrent_from: int = Field(1, ge=0, description="first resolution with a ConvGRU (compact)")
    conditions: tuple[str, ...] = Field((), description="numbers of each run given to the network (compact)")
    obstacle_mask: bool = Field(False, description="give the obstacle mask to the network (compact)")
    loss: Literal["l2", "l1"] = Field("l2", description="norm of the error")
    unroll: int = Field(1, ge=1, le=64, description="frames that are forecast from each other in later training")
    unroll_from: float = Field(0.5, ge=0, le=1, description="part of the training after which they are")
    context_frames: int = Field(2, ge=1, description="frames at the start of a training clip that carry no loss")
    clip_frames: int = Field(8, ge=2, description="frames of a training clip")

    @model_validator(mode="after")
    def _consistent(self) -> ConvGruConfig:
        if self.clip_frames < self.context_frames + self.unroll:
            raise ValueError(
                f"clip_frames {self.clip_frames} must be at least context_frames + unroll, "
                f"{self.context_frames + self.unroll}"
            )
        if self.architecture == "published" and (self.conditions or self.obstacle_mask):
            raise ValueError("conditions and obstacle_mask need architecture = compact")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "convgru-64": {},
    "convgru-128": {"base": 64, "multipliers": (1, 2, 3, 4)},
    "convgru-small": {
        "architecture": "compact",
        "normalisation": "standard",
        "base": 32,
        "multipliers": (1, 2, 4),
        "unroll": 4,
    },
}
SMALL: dict[str, Any] = {}  # its training


class ConvGruState(NamedTuple):
    """What the network remembers (None: nothing yet), the last frame, which it has not seen, and the one before."""

    memory: tuple[Tensor, ...] | None
    last: Tensor
    previous: Tensor
    given: Given


class ConvGruForecaster(VideoModel):
    stochastic = False
    published = {"model": Adam(5e-5, batch_size=8)}  # noqa: RUF012

    def __init__(self, config: ConvGruConfig, *, channels: int, height: int, width: int) -> None:
        compact = config.architecture == "compact"
        depth = 2 ** (len(config.multipliers) - 1)
        super().__init__(
            config, channels=channels, height=height, width=width, coarsening=depth * (config.patch if compact else 1)
        )
        self.context, self.clip_frames = 1, config.clip_frames
        base = channels_of(config.base, config.width)
        widths = [base * m for m in config.multipliers]
        self.compact = compact
        if compact:
            taken = config.model_dump(include={"patch", "recurrent_from", "obstacle_mask", "conditions"})
            self.network: Any = RecurrentPyramid(ModelConfig(**taken), channels, widths, 2 * base)
        else:
            self.network = MeanPredictor(channels, widths)

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        """Error of teacher-forced frames, and of those that are forecast from each other."""
        c = self.config
        ahead = c.unroll - 1 if progress >= c.unroll_from else 0
        stop = frames.shape[1] - ahead
        forecasts, memory = self._forecasts(frames[:, : stop - 1], None, None, given)
        found = [forecasts[:, c.context_frames - 1 :]]
        previous = frames[:, stop - 2]
        for _ in range(ahead):
            last = self.kept(found[-1][:, -1], given)
            forecasts, memory = self._forecasts(last[:, None], previous, memory, given)
            found.append(forecasts)
            previous = last
        error = torch.cat(found, 1) - frames[:, c.context_frames :]
        square = self.pixel_mean(error.square(), given)
        return {
            "loss": square if c.loss == "l2" else self.pixel_mean(error.abs(), given),
            "mean_rmse": square.detach().sqrt(),
        }

    def begin(self, context: Tensor, given: Given) -> ConvGruState:
        context = self.usable(context)
        memory = None
        if context.shape[1] > 1:
            _, memory = self._forecasts(context[:, :-1], None, None, given)
        return ConvGruState(memory, context[:, -1], context[:, -2:][:, 0], given)

    def advance(self, state: ConvGruState, noise: Noise) -> tuple[Tensor, ConvGruState]:
        forecast, memory = self._forecasts(state.last[:, None], state.previous, state.memory, state.given)
        frame = self.kept(forecast, state.given)
        return frame, ConvGruState(memory, frame[:, 0], state.last, state.given)

    def _forecasts(
        self, frames: Tensor, previous: Tensor | None, memory: Any, given: Given
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The frame after each of frames (b, t, c, y, x), and the memory; `previous` (b, c, y, x) lies before them."""
        shape = frames.shape[:2]
        if self.compact:
            first = frames[:, :1] if previous is None else previous[:, None]
            before = torch.cat([first, frames[:, :-1]], 1)
            quiet = frames.new_zeros(shape[0])
            mean, _, memory = self.network(frames, before, quiet, given, memory)
        else:
            mean, memory = self.network(frames, memory)
        if self.value_range == "minmax":
            mean = mean.clamp(-1, 1)
        return mean.unflatten(0, shape), memory
