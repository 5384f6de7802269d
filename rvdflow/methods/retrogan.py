"""Retrospective cycle GAN: one network forecasts the next frame, and, shown frames in reverse, the one before.

Of frames x_m .. x_n, one more than the context, the generator G makes

    x'_n = G(x_m .. x_{n-1})           x'_m = G(x_n .. x_{m+1})
    x''_n = G(x'_m, x_{m+1} .. x_{n-1})    x''_m = G(x'_n, x_{n-1} .. x_{m+1})

    loss of G = L_image + 0.005 L_LoG + 0.003 L_frame + 0.003 L_sequence
    L_image     mean |difference| of the three pairs among x, x', x'' at n, and of those at m
    L_LoG       the same after a Laplacian of Gaussian (rvdflow.methods.filters)
    L_frame     E (D_f - 1)^2 over x'_n, x'_m, x''_n, x''_m;  D_f learns 0 for them and 1 for x_n, x_m (mean of six)
    L_sequence  likewise over the clip with (x'_m .. x_n), (x''_m .. x'_n), (x_m .. x'_n), (x'_m .. x''_n) at its ends;
                D_s learns 0 for these four and 1 for the real clip (mean of five)

The forecast is deterministic: frame by frame, the last four frames in, the next one out.

Published: Kwon & Park (2019), CVPR, doi:10.1109/CVPR.2019.00191; the layers are those of the third-party port that
arXiv:2203.09481 compared with, 4 context frames, Adam 3e-4 with betas (0.5, 0.999), batch 20, 1000 epochs, rate falling
linearly to 0, clips mirrored with probability 0.3, weights N(0, 0.02), frames in [-1, 1]. A mirror is the training's.

Unknown: the scale of the published LoG kernel. Ours is the analytic one, of sigma 1.4 (`edge_gain` multiplies what it
gives; the integer kernel common in textbooks, -40 at its centre, is about 480 times as large). The kernel of the port
is not symmetric. Decided: both discriminators are one player, their losses added, which is what two optimisers of
equal settings do; the discriminator's loss makes its own forecasts with the generator's weights of that moment.

Deviations: no bias before an instance norm, where it has no effect; inside obstacles all frames are 0, real and
forecast, and differences are averaged over fluid cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from rvdflow.methods.adversarial import frozen, least_squares
from rvdflow.methods.base import Adam, MethodConfig, Noise, Window, WindowModel, channels_of
from rvdflow.methods.discriminators import PatchGan, instance_norm
from rvdflow.methods.filters import filtered, laplacian_of_gaussian
from rvdflow.networks import Given
from rvdflow.noise import Draws


class RetroGanConfig(MethodConfig):
    context_frames: int = Field(4, ge=2, description="frames that G is shown")
    residual_blocks: int = Field(9, ge=0, description="residual blocks in the middle of G")
    edges: float = Field(0.005, ge=0, description="weight of the differences between filtered frames")
    edge_gain: float = Field(1.0, gt=0, description="factor of the filter's kernel")
    frame_game: float = Field(0.003, ge=0, description="weight of the frame discriminator in the generator's loss")
    sequence_game: float = Field(0.003, ge=0, description="weight of the sequence discriminator there")


PRESETS: dict[str, dict[str, Any]] = {
    "retrogan-64": {},
    "retrogan-128": {},  # fully convolutional: the same network
    "retrogan-small": {"width": 0.25, "residual_blocks": 4, "normalisation": "standard"},
}
SMALL: dict[str, Any] = {  # how the small preset is trained
    "optimiser": "adam",
    "learning_rate": 3e-4,
    "betas": (0.5, 0.999),
    "weight_decay": 0.0,
    "gradient_clip": None,
}


class _Mirrored(nn.Sequential):
    """A convolution of the same size, mirrored at the borders."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, bias: bool) -> None:
        super().__init__(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(c_in, c_out, kernel, bias=bias))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (_Mirrored(channels, channels, 3, bias=False) for _ in range(2))
        self.norm = instance_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(torch.relu(self.norm(self.first(x)))))


class RetroGenerator(nn.Module):
    """Frames stacked on channels (b, t c, y, x) -> one frame, before the bound."""

    def __init__(self, c_in: int, c_out: int, narrow: int, wide: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Mirrored(c_in, narrow, 7, bias=True)]  # neither norm nor rectifier here
        for width, before in ((narrow, narrow), (wide, narrow)):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), instance_norm(width), nn.ReLU()]
        layers += [_Residual(wide) for _ in range(blocks)]
        for width, before in ((narrow, wide), (wide, narrow)):  # wide again at full resolution, as in the port
            up = nn.ConvTranspose2d(before, width, 3, stride=2, padding=1, output_padding=1, bias=False)
            layers += [up, instance_norm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, _Mirrored(wide, c_out, 7, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class RetroDiscriminators(nn.Module):
    """D_f of frames and D_s of sequences."""

    def __init__(self, channels: int, frames: int, widths: list[int]) -> None:
        super().__init__()
        self.frame = PatchGan(channels, widths)
        self.sequence = PatchGan(frames * channels, widths)


class Forecasts(NamedTuple):
    """Both ends of a clip: once real, once forecast (x'), once forecast from a forecast (x''); each (b, c, y, x)."""

    last: tuple[Tensor, Tensor, Tensor]
    first: tuple[Tensor, Tensor, Tensor]


class RetroGan(WindowModel):
    stochastic = False
    players = ("generator", "discriminator")
    published = {  # noqa: RUF012
        name: Adam(3e-4, (0.5, 0.999), batch_size=20, schedule="linear") for name in ("generator", "discriminator")
    }
    kernel: Tensor

    def __init__(self, config: RetroGanConfig, *, channels: int, height: int, width: int) -> None:
        if max(height, width) < 32:
            raise ValueError(f"frames of {height} x {width} pixels: RetroGan needs 32 or more in one direction")
        super().__init__(config, channels=channels, height=height, width=width, coarsening=16)
        self.context, self.clip_frames = config.context_frames, config.context_frames + 1
        narrow, wide = (channels_of(c, config.width) for c in (128, 256))
        self.generator = RetroGenerator(self.context * channels, channels, narrow, wide, config.residual_blocks)
        widths = [channels_of(c, config.width) for c in (64, 128, 256, 512)]
        self.discriminator = RetroDiscriminators(channels, self.clip_frames, widths)
        self.register_buffer("kernel", (config.edge_gain * laplacian_of_gaussian()).float(), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def compilable(self) -> list[nn.Module]:
        return [self.generator, self.discriminator.frame, self.discriminator.sequence]

    def losses(self, player: str, frames: Tensor, given: Given, *, progress: float, draws: Draws) -> dict[str, Tensor]:
        if player == "generator":
            return self._generator_losses(frames, given)
        if player == "discriminator":
            return self._discriminator_losses(frames, given)
        raise ValueError(f"RetroGan has no player {player!r}")

    def _generator_losses(self, frames: Tensor, given: Given) -> dict[str, Tensor]:
        c, ends = self.config, self.ends(frames, given)
        differences = torch.stack(
            [end[i] - end[j] for end in (ends.last, ends.first) for i, j in ((0, 1), (0, 2), (1, 2))], 1
        )
        image = self.pixel_mean(differences.abs(), given)
        edges = self.pixel_mean(filtered(differences, self.kernel).abs(), given)
        with frozen(self.discriminator):
            frame = least_squares(self.discriminator.frame(torch.cat([*ends.last[1:], *ends.first[1:]])), 1)
            sequence = least_squares(self.discriminator.sequence(_sequences(frames, ends)), 1)
        return {
            "loss": image + c.edges * edges + c.frame_game * frame + c.sequence_game * sequence,
            "image": image.detach(),
            "edges": edges.detach(),
            "frame_game": frame.detach(),
            "sequence_game": sequence.detach(),
        }

    def _discriminator_losses(self, frames: Tensor, given: Given) -> dict[str, Tensor]:
        with torch.no_grad():
            ends = self.ends(frames, given)
            fakes = torch.cat([*ends.last[1:], *ends.first[1:]])
            false_clips = _sequences(frames, ends)
        frame, sequence = self.discriminator.frame, self.discriminator.sequence
        real = frame(torch.cat([ends.last[0], ends.first[0]]))
        of_frames = (2 * least_squares(real, 1) + 4 * least_squares(frame(fakes), 0)) / 6
        whole = sequence(frames.flatten(1, 2))
        of_clips = (least_squares(whole, 1) + 4 * least_squares(sequence(false_clips), 0)) / 5
        return {"loss": of_frames + of_clips, "frame": of_frames.detach(), "sequence": of_clips.detach()}

    def next_frame(self, window: Tensor, given: Given) -> Tensor:
        """The frame (b, c, y, x) after frames (b, t, c, y, x); before them, where they are in reverse."""
        return self.kept(self.bounded(self.generator(window.flatten(1, 2))), given)

    def ends(self, frames: Tensor, given: Given) -> Forecasts:
        """x, x' and x'' at the ends of clips. Norms are of single frames, so two calls of G do for four."""
        rows, twice = len(frames), Given(*(torch.cat([x, x]) for x in given))
        middle = frames[:, 1:-1]
        pair = torch.cat([frames[:, :-1], frames[:, 1:].flip(1)])
        last, first = self.next_frame(pair, twice).split(rows)
        onwards, backwards = [first[:, None], middle], [last[:, None], middle.flip(1)]
        pair = torch.cat([torch.cat(onwards, 1), torch.cat(backwards, 1)])
        last_again, first_again = self.next_frame(pair, twice).split(rows)
        return Forecasts((frames[:, -1], last, last_again), (frames[:, 0], first, first_again))

    def advance(self, state: Window, noise: Noise) -> tuple[Tensor, Window]:
        frame = self.next_frame(state.frames, state.given)[:, None]
        return frame, self.moved(state, frame)


def _sequences(frames: Tensor, ends: Forecasts) -> Tensor:
    """The four false clips (4 b, t c, y, x), oldest frame first."""
    (last, last1, last2), (first, first1, first2), middle = ends.last, ends.first, frames[:, 1:-1]
    pairs = ((first1, last), (first2, last1), (first, last1), (first1, last2))
    return torch.cat([torch.cat([m[:, None], middle, n[:, None]], 1).flatten(1, 2) for m, n in pairs])
