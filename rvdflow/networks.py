"""What every set of networks offers to the model: the same two calls, whatever is inside."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Given(NamedTuple):
    """What is known of a run besides its frames.

    `fluid` (batch, 1, y, x) is 1 in the fluid and 0 inside obstacles, `conditions` (batch, k) are numbers such as the
    Reynolds number, standardised.
    """

    fluid: Tensor
    conditions: Tensor

    def repeat(self, times: int) -> Given:
        """For batches in which each row of this one stands `times` times, side by side."""
        return Given(*(x.repeat_interleave(times, 0) for x in self))


class Batch(NamedTuple):
    """Clips to train on: frames (batch, time, channel, y, x), normalised, and what is known of their runs."""

    frames: Tensor
    given: Given

    def to(self, device: torch.device) -> Batch:
        return Batch(self.frames.to(device), Given(*(x.to(device) for x in self.given)))

    def rows(self, first: int, stop: int) -> Batch:
        return Batch(self.frames[first:stop], Given(*(x[first:stop] for x in self.given)))


class Outlook(NamedTuple):
    """What the networks say about the next frame: its `mean` (b, c, y, x), and maps that condition the denoiser."""

    mean: Tensor
    conditioning: tuple[Tensor, ...]


class Networks(Protocol):
    """A mean predictor, a context encoder and a denoiser, shared or apart.

    Frames must divide by `coarsening`; a one-step member takes a vector of `noise_width` numbers; all that the mean
    depends on is in `predictor`.
    """

    coarsening: int
    noise_width: int

    @property
    def predictor(self) -> nn.Module: ...

    def look(
        self, frames: Tensor, previous: Tensor, level: Tensor, given: Given, state: Any, *, skip: int
    ) -> tuple[Outlook, Any]:
        """Show frames (b, t, c, y, x), the frame before each, and the level (b,) of the noise that was put on them.

        Returns the outlook after each frame but the first `skip`, flattened over (b, t - skip), and the recurrent
        state, which starts as None.
        """

    def denoise(self, noisy: Tensor, position: Tensor, outlook: Outlook, vector: Tensor | None = None) -> Tensor:
        """Answer (b, c, y, x) for y_n at positions (b,); `vector` (b, noise_width) is noise for a one-step member."""
