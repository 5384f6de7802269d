"""Residual video diffusion as a whole: its loss re-derived, its forecasts causal and independent of the batch."""

import pytest
import torch

from rvdflow.config import PRESETS, ModelConfig, SamplerConfig
from rvdflow.diffusion import cosine_schedule
from rvdflow.model import ResidualVideoDiffusion

SMALL = {"width": 8, "multipliers": (1, 2), "diffusion_steps": 50}
PAPER = {**PRESETS["paper-64"], "width": 8, "multipliers": (1, 2), "mean_multipliers": (1, 2), "diffusion_steps": 50}


def _model(settings, **changes):
    torch.manual_seed(0)
    model = ResidualVideoDiffusion(ModelConfig(**{**settings, **changes}), channels=1, height=8, width=16)
    for parameter in model.parameters():  # heads start at zero: give every path something to say
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def _clip(batch=2, time=5):
    return torch.rand(batch, time, 1, 8, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def _noise(batch, seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(batch, 1, 8, 16, generator=g)


def test_loss_of_the_paper_equals_a_plain_derivation_of_equation_9():
    model, clip = _model(PAPER), _clip()
    found = model.loss(clip, step=0, generator=torch.Generator().manual_seed(7))["loss"]

    g = torch.Generator().manual_seed(7)
    n = torch.randint(1, 51, (2,), generator=g)  # one level per clip
    eps = torch.randn(2 * 3, 1, 8, 16, generator=g)  # fresh noise per frame
    abar = cosine_schedule(50).alpha_bar
    terms = []
    for b in range(2):
        a = abar[n[b]].float()
        for k, t in enumerate(range(2, 5)):  # loss from the third frame on
            means, _ = model.networks.predictor(clip[b : b + 1, :t])
            mu = means[-1:].clamp(-1, 1)
            y0 = (clip[b : b + 1, t] - mu) / 2.0
            e = eps[3 * b + k : 3 * b + k + 1]
            maps = [m[:, -1] for m in model.networks.context(clip[b : b + 1, :t])]
            answer = model.networks.denoiser(a.sqrt() * y0 + (1 - a).sqrt() * e, n[b : b + 1], maps)
            terms.append((e - answer).square().mean())
    torch.testing.assert_close(found, torch.stack(terms).mean(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("settings", "reaches"), [(PAPER, True), ({**PAPER, "mean_gradient": False}, False)])
def test_the_mean_learns_from_the_diffusion_only_where_the_setting_says_so(settings, reaches):
    model = _model(settings)
    model.loss(_clip(), step=0, generator=torch.Generator().manual_seed(0))["loss"].backward()
    grads = [p.grad for p in model.networks.predictor.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in grads) == reaches


@pytest.mark.parametrize("settings", [SMALL, PAPER])
def test_a_member_is_the_same_in_any_batch(settings):
    model, clip = _model(settings).eval(), _clip()
    sampler = SamplerConfig(name="ancestral", steps=5)
    both = model.encode(clip)
    noise = [_noise(2)() for _ in range(20)]

    def roll(state, rows):
        source, frames = iter(noise), []
        for _ in range(2):
            frame, state = model.step(state, lambda: next(source)[rows], sampler)
            frames.append(frame)
        return torch.stack(frames)

    together = roll(both, slice(None))
    alone = roll(model.encode(clip[1:]), slice(1, 2))
    torch.testing.assert_close(together[:, 1:], alone, atol=2e-5, rtol=1e-4)


def test_members_share_the_encoded_context():
    model, clip = _model(SMALL).eval(), _clip()
    sampler = SamplerConfig(name="ddim", steps=3)
    start = _noise(6)()
    frame, _ = model.step(model.expand(model.encode(clip), 3), lambda: start, sampler)
    repeated, _ = model.step(model.encode(clip.repeat_interleave(3, 0)), lambda: start, sampler)
    torch.testing.assert_close(frame, repeated, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [SMALL, PAPER])
def test_feeding_a_frame_back_equals_having_seen_it(settings):
    model, clip = _model(settings).eval(), _clip(time=4)
    if settings is PAPER:
        clip = clip.clamp(-1, 1)
    sampler = SamplerConfig(name="ddim", steps=2)
    frame, state = model.step(model.encode(clip), _noise(2), sampler)
    again, _ = model.step(state, _noise(2, 1), sampler)
    seen, _ = model.step(model.encode(torch.cat([clip, frame[:, None]], 1)), _noise(2, 1), sampler)
    torch.testing.assert_close(again, seen, atol=1e-5, rtol=1e-4)


def test_running_scale_converges_to_the_residuals_standard_deviation():
    model = _model(SMALL, residual_scale="channel", context_noise=0.0)
    for step in range(400):
        model._follow(0.3 * torch.randn(4, 1, 8, 16, generator=torch.Generator().manual_seed(step)), step)
    assert model.residual_variance.sqrt().item() == pytest.approx(0.3, rel=0.02)


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide by 8"):
        ResidualVideoDiffusion(ModelConfig(), channels=1, height=30, width=64)
