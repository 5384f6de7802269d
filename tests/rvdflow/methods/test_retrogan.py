"""Retrospective cycle GAN: which frames are forecast from which, and the sums of losses, with toys for networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rvdflow.methods.filters import laplacian_of_gaussian
from rvdflow.methods.retrogan import RetroGan, RetroGanConfig, RetroGenerator
from rvdflow.networks import Given
from rvdflow.noise import Draws

WEIGHTS = (0.1, -0.2, 0.3, 0.5)  # of the four frames, in the order G is shown them


class _Blend(nn.Module):
    """A generator of two channels whose answer is known."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(WEIGHTS, dtype=torch.float64))

    def forward(self, stacked):
        return torch.einsum("t,btcyx->bcyx", self.weights, stacked.unflatten(1, (4, 2)))


class _Score(nn.Module):
    """A discriminator that sees where in a sequence a frame stands."""

    def __init__(self, channels):
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1, 2, channels, dtype=torch.float64))

    def forward(self, frames):
        return torch.einsum("c,bcyx->byx", self.weights, frames)[:, None]


def _toy(**changes):
    config = RetroGanConfig(normalisation="standard", width=0.0625, residual_blocks=1, **changes)
    model = RetroGan(config, channels=2, height=32, width=32)
    model.generator, model.discriminator.frame, model.discriminator.sequence = _Blend(), _Score(2), _Score(10)
    return model.double().train()


def _clip(seed=0, rows=3):
    clip = torch.randn(rows, 5, 2, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fluid = torch.ones(rows, 1, 32, 32, dtype=torch.float64)
    fluid[1, :, 8:20, 8:20] = 0
    return clip * fluid[:, None], Given(fluid, torch.zeros(rows, 0))


def _blend(*frames):
    return sum(w * x for w, x in zip(WEIGHTS, frames, strict=True))


def _expected(clip):
    x = list(clip.unbind(1))
    n1 = _blend(x[0], x[1], x[2], x[3])
    m1 = _blend(x[4], x[3], x[2], x[1])
    n2 = _blend(m1, x[1], x[2], x[3])
    m2 = _blend(n1, x[3], x[2], x[1])
    return x, n1, m1, n2, m2


def test_both_ends_are_forecast_and_forecast_again():
    clip, given = _clip()
    x, n1, m1, n2, m2 = _expected(clip)
    ends = _toy().ends(clip, given)
    for found, expected in zip((*ends.last, *ends.first), (x[4], n1, n2, x[0], m1, m2), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_generators_loss_is_the_sum_of_its_four():
    clip, given = _clip()
    x, n1, m1, n2, m2 = _expected(clip)
    model = _toy()
    pairs = [(x[4], n1), (x[4], n2), (n1, n2), (x[0], m1), (x[0], m2), (m1, m2)]
    kernel = laplacian_of_gaussian().float().double()[None, None].expand(2, 1, 9, 9)

    def mean(value):  # of each row over its fluid cells, then over rows
        inside = (value * given.fluid).sum((1, 2, 3)) / (2 * given.fluid.sum((1, 2, 3)))
        return inside.mean()

    image = sum(mean((a - b).abs()) for a, b in pairs) / 6
    edges = sum(
        mean(F.conv2d(F.pad(a - b, (4,) * 4, mode="reflect"), kernel, groups=2).abs()) for a, b in pairs
    ) / 6  # fmt: skip
    d_f, d_s = model.discriminator.frame, model.discriminator.sequence
    frame = sum((d_f(f) - 1).square().mean() for f in (n1, m1, n2, m2)) / 4
    ends = ((m1, x[4]), (m2, n1), (x[0], n1), (m1, n2))
    clips = [torch.cat([m, *x[1:4], n], 1) for m, n in ends]
    sequence = sum((d_s(c) - 1).square().mean() for c in clips) / 4
    found = model.losses("generator", clip, given, progress=0.5, draws=Draws(torch.Generator(), 3))
    torch.testing.assert_close(found["loss"], image + 0.005 * edges + 0.003 * frame + 0.003 * sequence)

    of_frames = [(d_f(f) - 1).square().mean() for f in (x[0], x[4])] + [
        d_f(f).square().mean() for f in (n1, m1, n2, m2)
    ]
    of_clips = [(d_s(clip.flatten(1, 2)) - 1).square().mean()] + [d_s(c).square().mean() for c in clips]
    found = model.losses("discriminator", clip, given, progress=0.5, draws=Draws(torch.Generator(), 3))
    torch.testing.assert_close(found["loss"], sum(of_frames) / 6 + sum(of_clips) / 5)


def test_a_forecast_slides_its_window():
    clip, given = _clip()
    model = _toy(masked_loss=False)
    found = model.forecast(clip, given, 3, lambda *shape: None)
    frames = list(clip.unbind(1))[1:]
    for _ in range(3):
        frames.append(_blend(*frames[-4:]))
    torch.testing.assert_close(found, torch.stack(frames[-3:], 1))


def test_the_generator_has_the_published_layers():
    with torch.device("meta"):
        model = RetroGan(RetroGanConfig(), channels=3, height=64, width=64)
    expected = 12 * 128 * 49 + 128 + 128 * 128 * 9 + 128 * 256 * 9 + 9 * 2 * 256 * 256 * 9
    expected += 256 * 128 * 9 + 128 * 256 * 9 + 256 * 3 * 49 + 3
    assert sum(p.numel() for _, p in model.player("generator")) == expected
    patches = 16 * (64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert sum(p.numel() for _, p in model.player("discriminator")) == 2 * patches + 16 * 64 * (3 + 15)


def test_the_generator_is_its_plain_formula():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = RetroGenerator(4, 1, 3, 5, 2).double()
        x = torch.randn(2, 4, 16, 24, dtype=torch.float64)
    w = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    first, last = (m[1].bias for m in (net.layers[0], net.layers[-1]))

    def mirrored(h, weight, bias=None):
        edge = weight.shape[-1] // 2
        return F.conv2d(F.pad(h, (edge,) * 4, mode="reflect"), weight, bias)

    h = mirrored(x, w[0], first)
    for k in (1, 2):
        h = F.instance_norm(F.conv2d(h, w[k], stride=2, padding=1)).relu()
    for k in (3, 5):
        h = h + F.instance_norm(mirrored(F.instance_norm(mirrored(h, w[k])).relu(), w[k + 1]))
    for k in (7, 8):
        h = F.instance_norm(F.conv_transpose2d(h, w[k], stride=2, padding=1, output_padding=1)).relu()
    assert h.shape == (2, 5, 16, 24)
    torch.testing.assert_close(net(x), mirrored(h, w[9], last))


def test_frames_too_small_for_the_patches_are_refused():
    with pytest.raises(ValueError, match="32 or more"):
        RetroGan(RetroGanConfig(), channels=1, height=16, width=16)


def test_forecasts_come_nearer_while_both_play():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RetroGan(RetroGanConfig(width=0.0625, residual_blocks=1), channels=1, height=16, width=32)
    t, x = torch.arange(5.0)[:, None, None, None], torch.arange(32.0)
    clip = 0.8 * torch.stack([(0.4 * x - t + p).sin().expand(5, 1, 16, 32) for p in (0.0, 2.0)])
    given = Given(torch.ones(2, 1, 16, 32), torch.zeros(2, 0))
    adams = {p: torch.optim.Adam([w for _, w in model.player(p)], lr=2e-3, betas=(0.5, 0.999)) for p in model.players}
    image = []
    for _ in range(25):
        for player, adam in adams.items():
            found = model.losses(player, clip, given, progress=0.0, draws=Draws(torch.Generator(), 2))
            adam.zero_grad(set_to_none=True)
            found["loss"].backward()
            adam.step()
            image += [float(found["image"])] if player == "generator" else []
    assert image[-1] < 0.7 * image[0]
