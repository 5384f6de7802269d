"""What training and forecasting ask of a network, whatever its method.

Training goes in steps. In each, every *player* (one, or generator and discriminator) takes its turns in order: it
minimises its own loss, moves its own parameters, and is then told that it did. All schedules are functions of
`progress`, the part of the training done, and all randomness comes from `draws`, so that a stopped training goes on to
the same bits. A forecast encodes its context once, and then goes on frame by frame from a state that is handed round:
nested tuples of tensors whose first dimension is the batch, with None where there is nothing yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rvdflow.networks import Given
from rvdflow.noise import Draws

if TYPE_CHECKING:
    from rvdflow.config import SamplerConfig
    from rvdflow.windows import Windows

Noise = Callable[..., Tensor]  # noise((c, y, x)) -> (b, c, y, x) standard normal numbers, each row from its own stream
State = Any


class Losses(NamedTuple):
    """`values`: scalars by name, of which "loss" is minimised. `statistic`: what running averages are to take in."""

    values: dict[str, Tensor]
    statistic: Tensor


class Trainable(nn.Module, ABC):
    """See the module's text. Frames are (b, c, y, x), clips (b, t, c, y, x), normalised.

    `context` frames are needed to begin a forecast, `block` are computed at one go, `clip_frames` are those of a
    training clip, `sampler` is how frames are drawn where there is a choice. `recomputed` names the blocks whose
    insides may be computed again for the gradient (`train.checkpoint_activations`).
    """

    players: ClassVar[tuple[str, ...]] = ("model",)
    turns: ClassVar[dict[str, int]] = {}  # of each player in one step, where more than one
    recomputed: ClassVar[tuple[type[nn.Module], ...]] = ()
    stochastic: bool = True
    average_buffers: ClassVar[bool] = False  # by the decay of the weights' average; else they are averages already
    context: int = 1
    block: int = 1
    clip_frames: int
    frame_shape: tuple[int, int, int]
    config: Any

    @property
    def sampler(self) -> SamplerConfig | None:
        return None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def forecasting(cls) -> str:
        """The player whose forecasts these are; numbers in the log without a player's name are its."""
        return "generator" if "generator" in cls.players else cls.players[0]

    def player(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that `name` trains: of one player all, of several those of the module of that name."""
        if name not in self.players:
            raise ValueError(f"{type(self).__name__} has no player {name!r}; it has {', '.join(self.players)}")
        if len(self.players) == 1:
            return list(self.named_parameters())
        return [(full, p) for full, p in self.named_parameters() if full.split(".")[0] == name]

    def compilable(self) -> list[nn.Module]:
        """The networks that torch may compile."""
        parts = [list(child) if isinstance(child, nn.ModuleList) else [child] for child in self.children()]
        return [network for part in parts for network in part]

    def rate_factor(self, player: str, progress: float) -> float:
        """What the learning rate of `player` is multiplied with after that part of the training."""
        return 1.0

    @abstractmethod
    def loss(self, frames: Tensor, given: Given, *, player: str = ..., progress: float, draws: Draws) -> Losses:
        """What `player` minimises for clips (b, clip_frames, c, y, x): means over the batch."""

    def settled(self, progress: float) -> bool:
        """Whether weights of that part of the training may be kept as the best ones."""
        return True

    def prepare(self, windows: Windows) -> None:
        """Before the first step: take from the training runs what is not trained."""

    def follow(self, statistic: Tensor, step: int, player: str = "model") -> None:
        """After each turn of `player` in step number `step`."""

    def calls(self, sampler: SamplerConfig | None = None) -> float:
        """Network calls for one frame of one member."""
        return 1.0

    @abstractmethod
    def encode(self, context: Tensor, given: Given) -> State:
        """The state after context frames (b, t, c, y, x)."""

    @abstractmethod
    def step(self, state: State, noise: Noise, sampler: SamplerConfig | None = None) -> tuple[Tensor, State]:
        """The next frame (b, c, y, x), and the state after it."""

    def repeat(self, tree: State, times: int) -> State:
        """A state with each row `times` times side by side: members share what was encoded once."""
        return mapped(tree, lambda x: x.repeat_interleave(times, 0))


def mapped(tree: State, change: Callable[[Tensor], Tensor]) -> State:
    """A state with `change` applied to each of its tensors."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return change(tree)
    items = [mapped(item, change) for item in tree]
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
