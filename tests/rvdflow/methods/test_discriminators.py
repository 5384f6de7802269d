"""Discriminators: shapes and sizes, values from plain formulas, and that they tell two kinds of clips apart."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rvdflow.methods.discriminators import (
    GrowingCritic,
    PatchGan,
    Residual,
    ResNetDiscriminator,
    SelfAttention,
    doubled,
    halved,
    instance_norm,
    minibatch_deviation,
)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rough(module):
    g = torch.Generator().manual_seed(5)
    for p in module.parameters():
        std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.5
        p.data = std * torch.randn(p.shape, generator=g)
    return module.double()


# ---------------------------------------------------------------- patches


def test_the_patch_discriminator_has_the_published_layers():
    net = PatchGan(3, (64, 128, 256, 512))
    counted = 3 * 64 * 16 + 64 + 16 * (64 * 128 + 128 * 256 + 256 * 512) + 512 * 16 + 1
    assert sum(p.numel() for p in net.parameters()) == counted
    assert PatchGan(1, (2, 3, 4, 5))(torch.zeros(2, 1, 64, 32)).shape == (2, 1, 4, 2)


def test_instance_norm_equals_torchs():
    x = _normal(2, 3, 4, 5)
    torch.testing.assert_close(instance_norm(3)(x), nn.InstanceNorm2d(3)(x))


def test_the_patch_discriminator_is_its_plain_formula():
    net, x = _rough(PatchGan(2, (3, 4, 5, 6))), _normal(2, 2, 32, 48)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    h = F.leaky_relu(F.conv2d(x, convs[0].weight, convs[0].bias, 2, 1), 0.2)
    for conv in convs[1:4]:
        h = F.leaky_relu(F.instance_norm(F.conv2d(h, conv.weight, None, 2, 1)), 0.2)
    h = F.conv2d(F.pad(h, (2, 1, 2, 1)), convs[4].weight, convs[4].bias)
    torch.testing.assert_close(net(x), h)


# ---------------------------------------------------------------- residual networks


def test_attention_weighs_a_quarter_of_the_positions_for_every_one():
    net, x = _rough(SelfAttention(8)), _normal(2, 8, 4, 6)
    q, k, v, o = (m.normalised()[:, :, 0, 0] for m in (net.query, net.key, net.value, net.out))
    for row in range(2):
        pooled = [F.max_pool2d(torch.einsum("dc,cyx->dyx", w, x[row])[None], 2)[0].flatten(1) for w in (k, v)]
        for y, z in ((0, 0), (3, 5), (1, 2)):
            weights = torch.softmax(pooled[0].T @ (q @ x[row, :, y, z]), 0)
            expected = x[row, :, y, z] + net.gamma * (o @ (pooled[1] @ weights))
            torch.testing.assert_close(net(x)[row, :, y, z], expected)
    assert torch.equal(SelfAttention(8)(x.float()), x.float())  # nothing, to begin with


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_a_residual_block_is_its_plain_formula(dims, first, down):
    net = _rough(Residual(3, 5, first=first, down=down, dims=dims))
    x = _normal(2, 3, *(4, 4, 6)[-dims:])
    conv, pool = ((F.conv2d, F.avg_pool2d), (F.conv3d, F.avg_pool3d))[dims - 2]
    h = conv(x if first else x.relu(), net.first.normalised(), net.first.bias, padding=1).relu()
    h = conv(h, net.second.normalised(), net.second.bias, padding=1) + conv(x, net.skip.normalised())
    torch.testing.assert_close(net(x), pool(h, 2) if down else h)


def test_the_spatial_discriminator_scores_each_frame_by_itself():
    net, frames = _rough(ResNetDiscriminator(2, 2, temporal=False)), _normal(2, 3, 2, 32, 64)
    scores = net(frames)
    assert scores.shape == (2, 3)
    torch.testing.assert_close(net(frames[1:, 2:]), scores[1:, 2:])


def test_the_temporal_discriminator_sees_the_order_of_frames():
    net, clips = _rough(ResNetDiscriminator(2, 2, temporal=True)), _normal(2, 8, 2, 32, 64)
    assert net(clips).shape == (2, 1)
    assert not torch.allclose(net(clips), net(clips.flip(1)))
    torch.testing.assert_close(net(clips[1:]), net(clips)[1:])


@pytest.mark.parametrize("temporal", [False, True])
def test_weights_of_the_residual_discriminator_are_those_of_its_table(temporal):
    c, k, one = 32, 27 if temporal else 9, 1

    def block(c_in, c_out, k):
        return (c_in + c_out) * c_out * k + 2 * c_out + c_in * c_out * one

    expected = block(3, 2 * c, k) + block(2 * c, 4 * c, k)  # one or three dimensions more
    expected += 2 * (4 * c * (4 * c // 8)) + 2 * (4 * c * 2 * c) + 1  # attention
    expected += block(4 * c, 8 * c, 9) + block(8 * c, 16 * c, 9) + block(16 * c, 16 * c, 9) + 16 * c
    with torch.device("meta"):
        net = ResNetDiscriminator(3, c, temporal=temporal)
    assert sum(p.numel() for p in net.parameters()) == expected


# ---------------------------------------------------------------- one that grows


@pytest.mark.parametrize("how", ["nearest", "area"])
def test_halving_undoes_doubling(how):
    x = _normal(2, 3, 4, 6, 8)
    assert torch.equal(halved(doubled(x), how), x)
    expected = F.interpolate(x.flatten(0, 1), scale_factor=0.5, mode=how)
    torch.testing.assert_close(halved(x, how).flatten(0, 1), expected)
    assert torch.equal(doubled(x).flatten(0, 1), F.interpolate(x.flatten(0, 1), scale_factor=2.0, mode="nearest"))


def test_the_deviation_is_that_among_the_clips_of_a_group():
    h = _normal(6, 2, 1, 2, 3)
    found = minibatch_deviation(h, 3)
    assert torch.equal(found[:, :2], h)
    for group in (slice(0, 3), slice(3, 6)):
        expected = h[group].numpy().std(0).mean()
        torch.testing.assert_close(
            found[group, 2], torch.full((3, 1, 2, 3), float(expected), dtype=torch.float64), atol=1e-7, rtol=0
        )
    torch.testing.assert_close(minibatch_deviation(h[:3], 3), found[:3])  # a part that is a whole group
    torch.testing.assert_close(minibatch_deviation(h, 4), found)  # 4 does not divide 6: groups of 3
    assert minibatch_deviation(h[:1], 4)[:, 2].abs().max() < 1e-3


def _critic(stages=3, resize="nearest"):
    return _rough(GrowingCritic(2, [6, 4, 4][:stages], 4, (4, 6), group=2, resize=resize))


@pytest.mark.parametrize("resize", ["nearest", "area"])
def test_a_critic_grows_without_a_jump(resize):
    critic, small = _critic(resize=resize), _normal(4, 2, 4, 4, 6)
    for stage in range(2):
        before = critic(small, stage)
        small = doubled(small)
        torch.testing.assert_close(critic(small, stage + 1, 0.0), before)
        assert not torch.allclose(critic(small, stage + 1, 1.0), before)


def test_the_critic_of_the_published_size_has_the_weights_of_its_table():
    with torch.device("meta"):
        critic = GrowingCritic(3, [512, 512, 512, 512, 256], 12, (4, 4), group=4, resize="nearest")

    def block(fine, coarse):
        return fine * fine * 27 + fine + fine * coarse * 4 + coarse

    expected = 4 * (3 * 512 + 512) + (3 * 256 + 256)  # from frames
    expected += 3 * block(512, 512) + block(256, 512)
    expected += 513 * 512 * 27 + 512 + 512 * 512 * 12 * 16 + 512 + 513
    assert sum(p.numel() for p in critic.parameters()) == expected


# ---------------------------------------------------------------- they learn


@pytest.mark.parametrize("kind", ["patch", "spatial", "temporal", "growing"])
def test_a_discriminator_learns_to_tell_smooth_from_rough(kind):
    """A few steps on waves against noise of the same variance; then on new ones of either kind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = {
            "patch": lambda: PatchGan(1, (4, 8, 8, 8)),
            "spatial": lambda: ResNetDiscriminator(1, 2, temporal=False),
            "temporal": lambda: ResNetDiscriminator(1, 2, temporal=True),
            "growing": lambda: GrowingCritic(1, [8, 8, 8, 8], 4, (4, 4), group=1, resize="nearest"),
        }[kind]()
    g = torch.Generator().manual_seed(1)

    def clips():
        phase = 6.3 * torch.rand(8, 1, 1, 1, 1, generator=g)
        t, x = torch.arange(4.0)[:, None, None, None], torch.arange(32.0)
        real = (0.4 * x + t + phase).sin().expand(8, 4, 1, 32, 32)
        return real, torch.randn(real.shape, generator=g) * 0.7

    def score(frames):
        if kind == "patch":
            return net(frames.flatten(0, 1)).mean((1, 2, 3))
        if kind == "growing":
            return net(frames.transpose(1, 2), 3)
        return net(frames).mean(1)

    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(15):
        real, fake = clips()
        loss = (1 - score(real)).relu().mean() + (1 + score(fake)).relu().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    real, fake = clips()
    with torch.no_grad():
        assert score(real).min() > score(fake).max()
