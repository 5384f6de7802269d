"""What every video model of `rvdflow.methods` offers to the training and to the forecasts.

Frames are `(batch, channel, y, x)`, clips `(batch, time, channel, y, x)`, normalised to [-1, 1] ("minmax") or to
standard scores ("standard"), 0 inside obstacles. A model is told nothing but clips, what is known of their runs
(`Given`), how far the training has come (`progress`, from 0 to 1) and random numbers; it keeps nothing from call to
call:

    losses(player, frames, given, progress=, draws=) -> scalars by name    "loss" is what that player minimises
    begin(context, given) -> state                                         after the context frames
    advance(state, noise) -> next frames (b, block, c, y, x), state        the model is fed its own frames

and so a member of a forecast does not depend on what else is drawn with it (see rvdflow.trainable).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rvdflow.config import SamplerConfig, Settings
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.trainable import Losses, Noise, State, Trainable

__all__ = ["Adam", "MethodConfig", "Noise", "State", "VideoModel", "Window", "WindowModel", "channels_of"]
ValueRange = Literal["minmax", "standard"]


class MethodConfig(Settings):
    """Settings that every method has; a method sets its own defaults for the numbers of frames."""

    width: float = Field(1.0, gt=0, le=16, description="factor of every number of channels; 1: as published")
    normalisation: ValueRange = Field(
        "minmax", description="frames in [-1, 1], or of zero mean and unit standard deviation (no bound on the output)"
    )
    masked_loss: bool = Field(True, description="leave obstacles out of losses of pixels, and keep forecasts 0 there")


class Adam(NamedTuple):
    """How a player was trained where the method was published; steps are ours where epochs of some dataset were."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_size: int = 16
    schedule: Literal["constant", "linear"] = "constant"
    ema_decay: float = 0.0
    steps: int = 200_000


class Rolling(NamedTuple):
    """A forecast under way: the model's state, and frames (b, t, c, y, x) of the last block that are still to come."""

    state: State
    waiting: Tensor | None


class VideoModel(Trainable):
    """A network that forecasts frames; see the module's text for the calls.

    None but the parameters of a player get a gradient from its loss. Of a longer context the last `context` frames are
    used where `fixed_context`, and all of them where not. `block` are the frames that one `advance` makes. Height and
    width must divide by `coarsening`.
    """

    published: ClassVar[dict[str, Adam]] = {"model": Adam()}
    fixed_context: bool = False

    def __init__(
        self, config: MethodConfig, *, channels: int, height: int, width: int, coarsening: int, smallest: int = 1
    ) -> None:
        """ValueError unless height and width divide by `coarsening`, and are at least `smallest` times as large."""
        super().__init__()
        if height % coarsening or width % coarsening or min(height, width) < smallest * coarsening:
            raise ValueError(
                f"frames of {height} x {width} pixels: {type(self).__name__} needs heights and widths that divide by "
                f"{coarsening} and are {smallest * coarsening} or more"
            )
        self.config = config
        self.frame_shape = channels, height, width
        self.coarsening = coarsening

    @property
    def value_range(self) -> ValueRange:
        """How frames must be normalised."""
        return self.config.normalisation

    def rate_factor(self, player: str, progress: float) -> float:
        """Published rates of the other players are multiples of that of the one that forecasts."""
        return self.published[player].learning_rate / self.published[self.forecasting()].learning_rate

    @abstractmethod
    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        """Scalars by name for clips (b, clip_frames, c, y, x), means over the batch; `player` minimises `loss`."""

    @abstractmethod
    def begin(self, context: Tensor, given: Given) -> State:
        """The state after context frames (b, t, c, y, x). ValueError when there are fewer than `context`."""

    @abstractmethod
    def advance(self, state: State, noise: Noise) -> tuple[Tensor, State]:
        """The next frames (b, block, c, y, x), and the state after them."""

    # what training and forecasting ask for

    def loss(self, frames: Tensor, given: Given, *, player: str = "model", progress: float, draws: Draws) -> Losses:
        return Losses(self.losses(player, frames, given, progress=progress, draws=draws), frames.new_zeros(0))

    def calls(self, sampler: SamplerConfig | None = None) -> float:
        return 1 / self.block

    @torch.no_grad()
    def encode(self, context: Tensor, given: Given) -> Rolling:
        return Rolling(self.begin(context, given), None)

    @torch.no_grad()
    def step(self, state: Rolling, noise: Noise, sampler: SamplerConfig | None = None) -> tuple[Tensor, Rolling]:
        inner, waiting = state
        if waiting is None or not waiting.shape[1]:
            waiting, inner = self.advance(inner, noise)
        return waiting[:, 0], Rolling(inner, waiting[:, 1:])

    # what models share

    def usable(self, context: Tensor) -> Tensor:
        """The context frames that the model takes. ValueError when there are too few."""
        if context.shape[1] < self.context:
            raise ValueError(f"{type(self).__name__} needs {self.context} frames of context, got {context.shape[1]}")
        return context[:, -self.context :] if self.fixed_context else context

    def bounded(self, raw: Tensor) -> Tensor:
        """Frames from the last layer of a network: tanh where they lie in [-1, 1], as they are where unbounded."""
        return torch.tanh(raw) if self.value_range == "minmax" else raw

    def kept(self, frames: Tensor, given: Given) -> Tensor:
        """Frames (b, c, y, x) or (b, t, c, y, x) as they are fed back and returned: 0 inside obstacles."""
        if not self.config.masked_loss:
            return frames
        fluid = given.fluid if frames.ndim == 4 else given.fluid[:, None]
        return frames * fluid.to(frames.dtype)

    def pixel_mean(self, values: Tensor, given: Given) -> Tensor:
        """Mean of values (b, t, c, y, x) over channels and fluid cells, then over frames and clips."""
        if not self.config.masked_loss:
            return values.mean()
        fluid = given.fluid[:, None]
        return ((values * fluid).sum((2, 3, 4)) / (values.shape[2] * fluid.sum((2, 3, 4)))).mean()

    @torch.no_grad()
    def forecast(self, context: Tensor, given: Given, lead: int, noise: Noise) -> Tensor:
        """Frames (b, lead, c, y, x) after the context, one member for each row."""
        state, frames = self.encode(context, given), []
        for _ in range(lead):
            frame, state = self.step(state, noise)
            frames.append(frame)
        return torch.stack(frames, 1)


class Window(NamedTuple):
    """The last frames (b, t, c, y, x), and what is known of their runs."""

    frames: Tensor
    given: Given


class WindowModel(VideoModel):
    """A model whose state is the last `context` frames, and nothing else."""

    fixed_context = True

    def begin(self, context: Tensor, given: Given) -> Window:
        return Window(self.usable(context), given)

    def moved(self, state: Window, frames: Tensor) -> Window:
        """The window after further frames (b, t, c, y, x)."""
        return Window(torch.cat([state.frames, frames], 1)[:, -self.context :], state.given)


def channels_of(published: int, width: float, multiple: int = 1) -> int:
    """`published` channels times `width`. ValueError unless that is a positive multiple of `multiple`."""
    found = round(published * width)
    if abs(found - published * width) > 1e-6 * found or found < 1 or found % multiple:
        raise ValueError(
            f"width {width:g} makes {published * width:g} channels of {published}, which must be a multiple of "
            f"{multiple}: choose another width"
        )
    return found
