"""DVD-GAN: conditional norms from their formula, who sees which frames, and what moves when."""

import pytest
import torch
from torch import nn

from rvdflow.methods.dvd_gan import ConditionalNorm, DvdGan, DvdGanConfig
from rvdflow.networks import Given
from rvdflow.noise import Draws


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _model(**changes):
    config = DvdGanConfig(**{"width": 0.0625, "latent": 6, "context_frames": 2, "future_frames": 6, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DvdGan(config, channels=1, height=32, width=32).double()


def _given(rows=2):
    return Given(torch.ones(rows, 1, 32, 32, dtype=torch.float64), torch.zeros(rows, 0))


def _draws(rows=2, seed=0):
    return Draws(torch.Generator().manual_seed(seed), rows)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_norm_is_conditioned_on_the_sample_its_frame_belongs_to(kind):
    norm, z, h = ConditionalNorm(6, 3, kind).double().train(), _normal(2, 3), _normal(2, 4, 6, 5, 5, seed=1)
    found = norm(h.flatten(0, 1), z, track=None).unflatten(0, (2, 4))
    if kind == "batch":
        plain = nn.BatchNorm2d(6, affine=False).double()(h.flatten(0, 1))
    else:
        plain = nn.GroupNorm(2, 6, affine=False)(h.flatten(0, 1))
    plain = plain.unflatten(0, (2, 4))
    for row in range(2):
        scale, shift = norm.scale(z[row]), norm.shift(z[row])
        for t in range(4):
            expected = plain[row, t] * (1 + scale[:, None, None]) + shift[:, None, None]
            torch.testing.assert_close(found[row, t], expected)


def test_running_statistics_are_torchs_and_make_a_forecast_independent_of_its_batch():
    norm, twin = ConditionalNorm(6, 3, "batch").double().train(), nn.BatchNorm2d(6, affine=False).double()
    z, h = _normal(4, 3), 3 + _normal(4, 6, 5, 5, seed=1)
    for _ in range(2):
        moments = []
        norm(h, z, track=moments)
        norm.follow(*moments)
        twin(h)
    torch.testing.assert_close(norm.mean, twin.running_mean)
    torch.testing.assert_close(norm.variance, twin.running_var)
    norm.eval()
    torch.testing.assert_close(norm(h, z, track=None)[1:2], norm(h[1:2], z[1:2], track=None))


# ---------------------------------------------------------------- the game


def test_each_discriminator_is_shown_what_it_should_see():
    model = _model(scored_frames=3).train()
    clips, seen = _normal(2, 8, 1, 32, 32).tanh(), {"spatial": [], "temporal": []}
    for name, frames in seen.items():
        getattr(model.discriminator, name).register_forward_pre_hook(lambda _, x, to=frames: to.append(x[0].detach()))
    model.losses("discriminator", clips, _given(), progress=0.0, draws=_draws())
    (real_s, fake_s), (real_t, fake_t) = seen["spatial"], seen["temporal"]
    assert torch.equal(real_t, clips)
    assert torch.equal(fake_t[:, :2], clips[:, :2])
    assert not torch.equal(fake_t[:, 2:], clips[:, 2:])
    for row in range(2):
        numbers = [[k for k in range(8) if torch.equal(f, clips[row, k])] for f in real_s[row]]
        chosen = [n for (n,) in numbers]
        assert len(set(chosen)) == 3
        assert min(chosen) >= 2  # frames of the future, each once
        torch.testing.assert_close(fake_s[row], fake_t[row, chosen])


def test_losses_are_hinges_of_mean_scores():
    model = _model(scored_frames=20, norm="group").train()
    clips = _normal(2, 8, 1, 32, 32).tanh()
    found = model.losses("discriminator", clips, _given(), progress=0.0, draws=_draws(seed=4))
    g = torch.Generator().manual_seed(4)
    torch.rand(2, 6, generator=g)
    z = torch.randn(2, 6, generator=g).double()
    fake = torch.cat([clips[:, :2], model.generator(clips[:, :2], z).tanh()], 1)
    d_s, d_t = model.discriminator.spatial, model.discriminator.temporal
    scores = [(d_s(c[:, 2:]).mean(1), d_t(c)[:, 0]) for c in (clips, fake)]
    expected = sum((1 - real).relu().mean() + (1 + false).relu().mean() for real, false in zip(*scores, strict=True))
    torch.testing.assert_close(found["loss"], expected)
    found = model.losses("generator", clips, _given(), progress=0.0, draws=_draws(seed=4))
    torch.testing.assert_close(found["loss"], -scores[1][0].mean() - scores[1][1].mean())


def test_only_the_generators_loss_moves_statistics_and_only_settling_moves_vectors():
    model = _model(norm="batch").train()
    clips = _normal(2, 8, 1, 32, 32).tanh()

    def moved(action):
        before = {key: value.clone() for key, value in model.named_buffers()}
        action()
        return {key for key, value in model.named_buffers() if not torch.equal(value, before[key])}

    buffers = {key for key, _ in model.named_buffers()}
    statistics = {key for key in buffers if key.endswith(("mean", "variance"))}
    found = {}
    for player in model.players:

        def take(player=player):
            found[player] = model.loss(clips, _given(), player=player, progress=0.0, draws=_draws())

        assert moved(take) == set()  # a loss moves nothing: its step may come to nothing
    assert not len(found["discriminator"].statistic)
    assert moved(lambda: model.follow(found["generator"].statistic, 0, "generator")) >= statistics
    for p in model.parameters():
        p.data.mul_(torch.rand_like(p))  # orthogonal weights stretch all vectors alike
    for player in model.players:
        vectors = {key for key in buffers if key.endswith(".u") and key.startswith(player)}
        assert moved(lambda p=player: model.follow(torch.zeros(0), 0, p)) <= vectors
        settled = moved(lambda p=player: model.follow(torch.zeros(0), 0, p))
        assert len(settled) > len(vectors) / 2  # a vector of one number stays


def test_the_error_of_the_mean_of_draws_is_added_where_asked_for():
    clips = _normal(2, 8, 1, 32, 32).tanh()
    plain, more = (_model(norm="group", grid=g, grid_members=3).train() for g in (0.0, 2.0))
    without, found = (m.losses("generator", clips, _given(), progress=0.0, draws=_draws()) for m in (plain, more))
    assert "grid" not in without
    g = torch.Generator().manual_seed(0)
    torch.rand(2, 6, generator=g)
    z = [torch.randn(2, 6, generator=g).double()]
    z += list(torch.randn(2, 2, 6, generator=g).double().unbind(1))
    mean = sum(more.generator(clips[:, :2], one).tanh() for one in z) / 3
    error = (mean - clips[:, 2:]).abs().mean()
    torch.testing.assert_close(found["grid"], error.detach())
    torch.testing.assert_close(found["loss"], without["loss"] + 2 * error)


@pytest.mark.parametrize("recurrence", ["single", "stack"])
def test_clips_are_chained_each_with_a_noise_of_its_own(recurrence):
    model = _model(recurrence=recurrence).eval()
    context, z = _normal(2, 2, 1, 32, 32).tanh(), [_normal(2, 6, seed=s) for s in (1, 2)]
    source = iter(z)
    found = model.forecast(context, _given(), 10, lambda shape: next(source))
    with torch.no_grad():
        first = model.generator(context, z[0]).tanh()
        second = model.generator(first[:, -2:], z[1]).tanh()
    torch.testing.assert_close(found, torch.cat([first, second], 1)[:, :10])


def test_frames_of_the_context_reach_every_resolution():
    model = _model().eval()
    context = _normal(1, 2, 1, 32, 32).tanh().requires_grad_()
    for state, size in zip(model.generator.context(context), (2, 4, 8, 16), strict=True):
        assert state.shape[-2:] == (size, size)
        (gradient,) = torch.autograd.grad(state.sum(), context, retain_graph=True)
        assert gradient[:, 0].any()
        assert gradient[:, 1].any()


def test_the_sizes_of_the_generator_are_those_of_its_table():
    with torch.device("meta"):
        nets = {r: DvdGan(DvdGanConfig(recurrence=r), channels=3, height=64, width=64) for r in ("single", "stack")}
    found = {r: sum(p.numel() for key, p in net.named_parameters() if ".memory." in key) for r, net in nets.items()}

    def gru(c_in, c, k):
        return 3 * ((c_in + c) * c * k * k + c)

    assert found["single"] == 3 * gru(256, 256, 3) + gru(128, 128, 3)
    coarse = gru(256, 256, 3) + gru(256, 512, 5) + gru(512, 256, 3)
    assert found["stack"] == 3 * coarse + gru(128, 128, 3) + gru(128, 256, 5) + gru(256, 128, 5)


def test_clips_that_time_cannot_be_halved_in_twice_are_refused():
    with pytest.raises(ValueError, match="divide by 4"):
        DvdGanConfig(context_frames=2, future_frames=3)
