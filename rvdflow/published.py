"""The three networks of the paper behind the two calls that the model makes: `look` and `denoise`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from rvdflow.config import ModelConfig
from rvdflow.context import ContextEncoder
from rvdflow.denoiser import Denoiser
from rvdflow.predictor import MeanPredictor


class Memory(NamedTuple):
    """Recurrent state: one map (batch, channel, y, x) per level of the mean predictor and of the context encoder."""

    mean: tuple[Tensor, ...]
    context: tuple[Tensor, ...]


class PublishedNetworks(nn.Module):
    """Mean predictor, context encoder and denoiser, none sharing weights with another."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.clamp = config.clamp
        self.predictor = MeanPredictor(channels, [config.width * m for m in config.mean_multipliers])
        self.context = ContextEncoder(channels, widths)
        self.denoiser = Denoiser(channels, config.width, widths)
        self.coarsening = 2 ** (max(len(widths), len(config.mean_multipliers)) - 1)

    def look(
        self, frames: Tensor, previous: Tensor, level: Tensor, state: Memory | None, *, skip: int
    ) -> tuple[Tensor, tuple[Tensor, ...], Memory]:
        """Show frames (b, t, c, y, x); mean (b (t - skip), c, y, x) and context maps of the frames after `skip`.

        `previous` and `level` are not inputs of the published networks.
        """
        b, t = frames.shape[:2]
        mean, mean_state = self.predictor(frames, None if state is None else state.mean)
        maps = self.context(frames, None if state is None else state.context)
        mean = mean.unflatten(0, (b, t))[:, skip:].flatten(0, 1)
        if self.clamp:
            mean = mean.clamp(-1, 1)
        return (
            mean,
            tuple(m[:, skip:].flatten(0, 1) for m in maps),
            Memory(mean_state, tuple(m[:, -1] for m in maps)),
        )

    def denoise(self, noisy: Tensor, n: Tensor, mean: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        """Answer for y_n; the mean is not an input of the published denoiser."""
        return self.denoiser(noisy, n, conditioning)
