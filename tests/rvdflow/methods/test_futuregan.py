"""FutureGAN: the schedule of its growth, that nothing jumps, and that the state it saves keeps its shape."""

import pytest
import torch

from rvdflow.methods.discriminators import doubled, halved
from rvdflow.methods.futuregan import FutureGan, FutureGanConfig
from rvdflow.networks import Given
from rvdflow.noise import Draws


def _model(levels=2, channels=2, **changes):
    config = FutureGanConfig(**{"levels": levels, "width": 0.03125, "context_frames": 3, "future_frames": 2, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FutureGan(config, channels=channels, height=4 << levels, width=6 << levels).double()


def _clips(model, rows=2, frames=None):
    g = torch.Generator().manual_seed(3)
    return torch.rand(rows, frames or model.clip_frames, *model.frame_shape, generator=g, dtype=torch.float64) - 0.5


def _given(model, rows=2):
    fluid = torch.ones(rows, 1, *model.frame_shape[1:], dtype=torch.float64)
    fluid[:, :, 3:7, 5:9] = 0
    return Given(fluid, torch.zeros(rows, 0))


def test_stages_have_equal_shares_and_all_but_the_first_fade_in():
    model = _model(4)
    table = {0.0: (0, 1), 0.1: (0, 1), 0.25: (1, 0.5), 0.3: (1, 1), 0.45: (2, 0.5), 0.7: (3, 1), 0.85: (4, 0.5)}
    for progress, (stage, alpha) in {**table, 0.95: (4, 1), 1.0: (4, 1)}.items():
        assert model.growth(progress).stage == stage
        assert model.growth(progress).alpha == pytest.approx(alpha, abs=1e-9)
    assert model.growth(0.2).alpha == pytest.approx(0, abs=1e-9)
    assert model.rate_factor("generator", 0.5) == pytest.approx(0.87**2)
    early = _model(4, grown_by=0.5)
    assert early.growth(0.125) == pytest.approx((1, 0.5))
    assert early.growth(0.5) == early.growth(0.8) == (4, 1)


@pytest.mark.parametrize("resize", ["nearest", "area"])
def test_neither_forecasts_nor_scores_nor_real_frames_jump_where_a_stage_begins(resize):
    model = _model(resize=resize)
    given, clips = _given(model), _clips(model)
    for stage in range(2):
        old, new = (stage, 1.0), (stage + 1, 0.0)
        before, after = (model.shown(clips, type(model.growth(0))(*moment)) for moment in (old, new))
        torch.testing.assert_close(after, doubled(before))
        context = before[:, :3].transpose(1, 2)
        small = model._future(context, given, type(model.growth(0))(*old))
        large = model._future(doubled(context), given, type(model.growth(0))(*new))
        torch.testing.assert_close(large, doubled(small))
        torch.testing.assert_close(
            model.discriminator(torch.cat([doubled(context), large], 2), *new),
            model.discriminator(torch.cat([context, small], 2), *old),
        )
        # and the new block is not idle once it is there
        assert not torch.allclose(model.generator(doubled(context), stage + 1, 1.0), doubled(small))


def test_a_training_goes_through_all_stages_with_a_state_of_one_shape():
    model = _model().train()
    keys = {key: value.shape for key, value in model.state_dict().items()}
    seen = []
    original = model.discriminator.forward
    model.discriminator.forward = lambda clips, stage, alpha=1.0: (
        seen.append((stage, clips.shape[-2:])), original(clips, stage, alpha))[1]  # fmt: skip
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    reached = set()
    for step in range(12):
        for player in model.players:
            adam.zero_grad(set_to_none=True)
            draws = Draws(torch.Generator().manual_seed(step), 2)
            found = model.losses(player, _clips(model), _given(model), progress=step / 11, draws=draws)
            found["loss"].backward()
            reached |= {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
            adam.step()
        assert float(model.progress) == step / 11
    assert {key: value.shape for key, value in model.state_dict().items()} == keys
    assert set(seen) == {(k, (4 << k, 6 << k)) for k in range(3)}
    assert reached == {key for key, _ in model.named_parameters()}


def test_a_model_stopped_early_forecasts_at_its_stage():
    model, noise = _model(masked_loss=False), lambda *shape: None
    context, given = _clips(model, frames=3), _given(model)
    model.train().losses("generator", _clips(model), given, progress=0.5, draws=Draws(torch.Generator(), 2))
    model.eval()
    found = model.forecast(context, given, 2, noise)
    assert model.growth(0.5) == (1, 1)
    expected = model.generator(halved(context, "nearest").transpose(1, 2), 1).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(found, doubled(expected))
    again = _model(masked_loss=False).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.forecast(context, given, 2, noise), found)


def test_losses_are_their_formulas():
    model = _model(masked_loss=False, deviation_group=1).train()
    clips, given = _clips(model), _given(model)
    found = model.losses("discriminator", clips, given, progress=1.0, draws=Draws(torch.Generator().manual_seed(7), 2))
    share = torch.rand(2, generator=torch.Generator().manual_seed(7)).double()
    real = clips.transpose(1, 2)
    fake = torch.cat([real[:, :, :3], model.generator(real[:, :, :3], 2)], 2).detach()
    between = torch.stack([s * r + (1 - s) * f for s, r, f in zip(share, real, fake, strict=True)]).requires_grad_()
    critic = model.discriminator
    slopes = [torch.autograd.grad(critic(between, 2)[row], between)[0][row] for row in range(2)]
    penalty = sum((s.square().sum().sqrt() - 1) ** 2 for s in slopes) / 2
    a, b = critic(real, 2), critic(fake, 2)
    torch.testing.assert_close(found["loss"], b.mean() - a.mean() + 10 * penalty + 1e-3 * (a**2).mean())
    found = model.losses("generator", clips, given, progress=1.0, draws=Draws(torch.Generator(), 2))
    torch.testing.assert_close(found["loss"], -b.mean())


def test_the_generator_of_the_published_size_has_the_weights_of_its_table():
    def pair(fine, coarse):  # 3x3x3 at the finer resolution, 1x2x2 between the two
        return fine * fine * 27 + fine + fine * coarse * 4

    channels = [512, 512, 512, 512, 256, 128]
    expected = 0
    for fine, coarse in zip(channels[1:], channels, strict=False):
        expected += 2 * pair(fine, coarse) + coarse + fine  # down and up
    expected += 2 * (512 * 512 * 27 + 512) + 2 * (512 * 512 * 6 + 512)
    expected += sum(2 * 3 * w + w + 3 for w in channels)
    with torch.device("meta"):
        model = FutureGan(FutureGanConfig(levels=5), channels=3, height=128, width=128)
    assert sum(p.numel() for _, p in model.player("generator")) == expected
