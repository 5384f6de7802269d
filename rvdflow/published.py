"""The three networks of the paper behind the two calls that the model makes: `look` and `denoise`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from rvdflow.config import ModelConfig
from rvdflow.context import ContextEncoder
from rvdflow.denoiser import Denoiser
from rvdflow.networks import Given, Outlook
from rvdflow.predictor import MeanPredictor


class Memory(NamedTuple):
    """Recurrent state: one map (batch, channel, y, x) per level of the mean predictor and of the context encoder."""

    mean: tuple[Tensor, ...]
    context: tuple[Tensor, ...]


class PublishedNetworks(nn.Module):
    """Mean predictor, context encoder and denoiser, none sharing weights with another."""

    noise_width = 0

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.clamp = config.clamp
        self.predictor = MeanPredictor(channels, [config.width * m for m in config.mean_multipliers])
        self.context = ContextEncoder(channels, widths)
        self.denoiser = Denoiser(channels, config.width, widths)
        self.coarsening = 2 ** (max(len(widths), len(config.mean_multipliers)) - 1)

    def look(
        self, frames: Tensor, previous: Tensor, level: Tensor, given: Given, state: Memory | None, *, skip: int
    ) -> tuple[Outlook, Memory]:
        """See `Networks.look`; `previous`, `level` and `given` are not inputs of the published networks."""
        b, t = frames.shape[:2]
        mean, mean_state = self.predictor(frames, None if state is None else state.mean)
        maps = self.context(frames, None if state is None else state.context)
        mean = mean.unflatten(0, (b, t))[:, skip:].flatten(0, 1)
        if self.clamp:
            mean = mean.clamp(-1, 1)
        outlook = Outlook(mean, tuple(m[:, skip:].flatten(0, 1) for m in maps))
        return outlook, Memory(mean_state, tuple(m[:, -1] for m in maps))

    def denoise(self, noisy: Tensor, position: Tensor, outlook: Outlook, vector: Tensor | None = None) -> Tensor:
        """See `Networks.denoise`; neither the mean nor a vector is an input of the published denoiser."""
        return self.denoiser(noisy, position, outlook.conditioning)
