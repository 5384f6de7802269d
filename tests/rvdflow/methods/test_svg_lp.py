"""SVG-LP: its sizes from the published tables, and loss and roll-out frame by frame from its equations."""

import itertools

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rvdflow.methods.svg_lp import SvgLp, SvgLpConfig
from rvdflow.networks import Given
from rvdflow.noise import Draws

TINY = {"width": 0.125, "units": 64, "z_channels": 3, "beta": 0.5, "context_frames": 2, "clip_frames": 5}


def _model(size=(16, 32), channels=1, **changes):
    model = SvgLp(SvgLpConfig(**{**TINY, **changes}), channels=channels, height=size[0], width=size[1])
    g = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3) * torch.randn(p.shape, generator=g)
    return model.double()


def _given(model, rows=2):
    fluid = torch.ones(rows, 1, *model.frame_shape[1:], dtype=torch.float64)
    fluid[:, :, 4:8, 6:9] = 0
    return Given(fluid, torch.zeros(rows, 0, dtype=torch.float64))


def _clips(model, frames=5, seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, frames, *model.frame_shape, generator=g, dtype=torch.float64) - 0.5


def _noise(model, steps, seed=7):
    """z noise as a training step of two clips draws it."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, steps, *model.z_shape, generator=g).double()


def _losses(model, clips, progress=1.0, seed=7):
    draws = Draws(torch.Generator().manual_seed(seed), 2)
    return model.losses("model", clips, _given(model), progress=progress, draws=draws)


# ---------------------------------------------------------------- sizes


def _conv(c_in, c_out, kernel=3, bias=True):
    return c_in * c_out * kernel**2 + bias * c_out


def _blocks(*widths):
    """Weights of conv3x3 with a norm, one after another."""
    return sum(_conv(a, b) + 2 * b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize("size", [64, 128])
def test_the_published_networks_have_the_weights_of_their_tables(size):
    with torch.device("meta"):
        model = SvgLp(SvgLpConfig(), channels=3, height=size, width=size)
    encoder = _blocks(3, 64, 64) + _blocks(64, 128, 128) + _blocks(128, 256, 256, 256)
    decoder = _blocks(512, 256, 256, 128) + _blocks(256, 128, 64) + _blocks(128, 64) + _conv(64, 3)
    top = 256
    if size == 128:
        encoder += _blocks(256, 512, 512, 512)
        decoder += _blocks(1024, 512, 512, 256)
        top = 512
    encoder += _blocks(top, 128)
    decoder += _blocks(128, top)
    lstm = 4 * 256 * (2 * 256 * 9 + 1)
    law = _conv(128, 256, 1) + lstm + _conv(256, 16)
    predictor = _conv(136, 256, 1) + 2 * lstm + _conv(256, 128)
    expected = {"encoder": encoder, "decoder": decoder, "posterior": law, "prior": law, "predictor": predictor}
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert found == expected
    assert model.z_shape == (8, 8, 8)


def test_the_code_is_where_the_shorter_side_has_8_to_15_pixels():
    for size, code in (((64, 64), (8, 8)), ((32, 64), (8, 16)), ((24, 40), (12, 20)), ((16, 48), (8, 24))):
        model = _model(size)
        codes, skips = model._encoded(_clips(model, 1))
        assert codes.shape[3:] == code
        assert skips[0].shape[3:] == size
    with pytest.raises(ValueError, match="too large"):
        SvgLp(SvgLpConfig(), channels=1, height=256, width=256)
    with pytest.raises(ValueError, match="16 or more"):
        SvgLp(SvgLpConfig(), channels=1, height=8, width=64)


# ---------------------------------------------------------------- a training step, frame by frame


@pytest.mark.parametrize("last_frame_skip", [False, True])
@pytest.mark.parametrize("spatial", [True, False])
def test_the_loss_is_that_of_the_published_procedure(last_frame_skip, spatial):
    model = _model(last_frame_skip=last_frame_skip, z_spatial=spatial)
    clips, given, noise = _clips(model), _given(model), _noise(model, 4)
    fluid = given.fluid[0, 0].bool()
    posterior = prior = skips = None
    predictor = (None, None)
    errors, nats = [], []
    for t in range(1, 5):
        code, seen = model.encoder(clips[:, t - 1])
        following, _ = model.encoder(clips[:, t])
        if last_frame_skip or t <= 2:
            skips = seen
        q, posterior = model.posterior(following[:, None], posterior)
        p, prior = model.prior(code[:, None], prior)
        z = q.mean[:, 0] + q.variance[:, 0].sqrt() * noise[:, t - 1]
        predicted, predictor = model.predictor(code[:, None], z[:, None], predictor)
        frame = model.decoder(predicted[:, 0], skips).tanh()
        errors.append(((frame - clips[:, t]) / 2)[..., fluid].square().mean())  # frames in [0, 1], as published
        laws = [Normal(g.mean[:, 0], g.variance[:, 0].sqrt()) for g in (q, p)]
        nats.append(kl_divergence(*laws).sum((1, 2, 3)).mean())
    numbers = 3 * 8 * 16 if spatial else 3
    found = _losses(model, clips)
    expected = torch.stack(errors).mean() + 0.5 * 64 / numbers * torch.stack(nats).mean()
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["kl"], torch.stack(nats).mean())
    torch.testing.assert_close(found["reconstruction_rmse"], 2 * torch.stack(errors).mean().sqrt())


def test_a_vector_of_64_numbers_has_beta_as_published():
    model = _model(z_spatial=False, z_channels=64)
    found = _losses(model, _clips(model))
    torch.testing.assert_close(found["loss"] - found["reconstruction_rmse"] ** 2 / 4, 0.5 * found["kl"])


def test_the_divergence_is_warmed_up_and_has_free_nats():
    model = _model(kl_warmup=0.4)
    clips = _clips(model)
    none, half, whole = (_losses(model, clips, progress)["loss"] for progress in (0.0, 0.2, 0.4))
    torch.testing.assert_close(half - none, (whole - none) / 2)
    model = _model(free_bits=1e6)
    scale = 0.5 * 64 / (3 * 8 * 16)
    found = _losses(model, clips)
    torch.testing.assert_close(found["loss"], found["reconstruction_rmse"] ** 2 / 4 + scale * 1e6)


# ---------------------------------------------------------------- a forecast


@pytest.mark.parametrize("last_frame_skip", [False, True])
def test_a_forecast_is_the_prior_s_after_the_posterior_s_mean(last_frame_skip):
    model = _model(last_frame_skip=last_frame_skip)
    context, given, noise = _clips(model, 3), _given(model), _noise(model, 2)
    posterior = prior = skips = None
    predictor = (None, None)
    with torch.no_grad():
        for t in (1, 2):
            code, skips = model.encoder(context[:, t - 1])
            q, posterior = model.posterior(model.encoder(context[:, t])[0][:, None], posterior)
            _, prior = model.prior(code[:, None], prior)
            _, predictor = model.predictor(code[:, None], q.mean, predictor)
        last, expected = context[:, 2], []
        for t in range(2):
            code, seen = model.encoder(last)
            skips = seen if last_frame_skip or t == 0 else skips
            p, prior = model.prior(code[:, None], prior)
            z = p.mean + p.variance.sqrt() * noise[:, t : t + 1]
            predicted, predictor = model.predictor(code[:, None], z, predictor)
            last = model.decoder(predicted[:, 0], skips).tanh() * given.fluid
            expected.append(last)
    drawn = iter(noise.unbind(1))
    found = model.forecast(context, given, 2, lambda shape: next(drawn))
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_the_posterior_is_not_asked_about_what_is_to_come():
    model = _model()
    context, given = _clips(model, 1), _given(model)
    found = []
    for _ in range(2):
        drawn = iter(_noise(model, 3).unbind(1))
        found.append(model.forecast(context, given, 3, lambda shape, d=drawn: next(d)))
        for p in model.posterior.parameters():
            p.data *= 2
    assert torch.equal(*found)


def test_clips_must_reach_beyond_the_context():
    with pytest.raises(ValueError, match="clip_frames 2 must exceed context_frames 2"):
        SvgLpConfig(clip_frames=2)
