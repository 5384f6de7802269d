"""What a network is trained for: scores and losses re-derived, obstacles left out, known laws recovered."""

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr

import evaluation
from rvdflow.config import ModelConfig, SamplerConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.objectives import almost_fair_crps

CRPS = {"objective": "crps", "members": 3, "almost_fair": 0.9}
OBJECTIVES = {
    "diffusion": {},
    "continuous levels": {"levels": "continuous", "noise_level_per": "clip", "loss": "l1"},
    "unrolled mean": {"unroll": 3},
    "one-step members": {**CRPS, "rollout": 1},
    "members' roll-outs": {**CRPS, "rollout": 2},
}


def _model(**changes):
    settings = {"width": 8, "multipliers": (1, 2), "clip_frames": 6, "residual_scale": "channel", **changes}
    model = ResidualVideoDiffusion(ModelConfig(**settings), channels=2, height=8, width=8)
    g = torch.Generator().manual_seed(5)
    for p in model.parameters():  # heads start at zero: give every path something to say
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2) * torch.randn(p.shape, generator=g)
    model.residual_variance[:] = torch.tensor([0.5, 0.8])[:, None, None]
    return model


def _given(rows, solid=None):
    fluid = torch.ones(rows, 1, 8, 8)
    if solid is not None:
        fluid[0, :, solid, solid] = 0  # an obstacle in the first run alone
    return Given(fluid, torch.zeros(rows, 0))


def _clips(rows=4, frames=6, seed=3):
    return torch.randn(rows, frames, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def _draws(total, first=0, count=None, seed=11):
    return Draws(torch.Generator().manual_seed(seed), total, first, count)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- the score of few members


@pytest.mark.parametrize("alpha", [0.0, 0.95, 1.0])
def test_almost_fair_crps_equals_the_double_sum(alpha):
    # Lang et al. (2024), Eq. 3-4: alpha times the fair score plus 1 - alpha times that of the ensemble as it is.
    members, truth = _normal(4, 5, 6), _normal(5, 6, seed=1)
    skill = sum((members[i] - truth).abs() for i in range(4)) / 4
    pairs = sum((members[i] - members[j]).abs() for i in range(4) for j in range(4))
    expected = alpha * (skill - pairs / (2 * 4 * 3)) + (1 - alpha) * (skill - pairs / (2 * 4 * 4))
    torch.testing.assert_close(almost_fair_crps(members, truth, alpha), expected)


@pytest.mark.parametrize(("alpha", "estimator"), [(1.0, "fair"), (0.0, "classical")])
def test_almost_fair_crps_is_the_score_of_the_evaluation_at_both_ends(alpha, estimator):
    members, truth = _normal(5, 8), _normal(8, seed=1)
    found = almost_fair_crps(members, truth, alpha).numpy()
    score = evaluation.crps(
        xr.DataArray(members.numpy(), dims=("member", "x")),
        xr.DataArray(truth.numpy(), dims="x"),
        estimator=estimator,
        dim=(),
    )
    np.testing.assert_allclose(found, score.values, rtol=1e-12)


def test_members_are_exchangeable():
    members, truth = _normal(3, 7), _normal(7, seed=1)
    scores = [almost_fair_crps(members[list(p)], truth, 0.95) for p in itertools.permutations(range(3))]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0])


# ---------------------------------------------------------------- members drawn in one step


def _member_losses(model, clips, lead, fluid):
    """CRPS of members of clips (b, t, c, y, x), each rolled out on its own with plain loops; and the mean's MSE."""
    c, b = model.config, len(clips)
    g = torch.Generator().manual_seed(11)
    starts = range(c.context_frames, 6) if lead == 1 else [6 - lead]
    given, quiet = Given(fluid[None], torch.zeros(1, 0)), torch.zeros(1)

    def average(values):
        return (values * fluid).sum() / (2 * fluid.sum())

    noise = []
    for _ in range(lead):
        pixels = torch.randn(b, len(starts), c.members, 2, 8, 8, generator=g)
        noise.append((pixels, torch.randn(b, len(starts), c.members, model.networks.noise_width, generator=g)))
    scores, errors = [], []
    for row in range(b):
        for s, start in enumerate(starts):
            drawn = torch.empty(c.members, lead, 2, 8, 8)
            for m in range(c.members):
                past = clips[row : row + 1, :start]
                for k in range(lead):
                    before = torch.cat([past[:, :1], past[:, :-1]], 1)  # the first frame has none: itself
                    outlook, _ = model.look(past, before, quiet, given, None, skip=past.shape[1] - 1)
                    pixels, vector = (x[row, s, m][None] for x in noise[k])
                    residual = model.networks.denoise(pixels, torch.tensor([1000.0]), outlook, vector)
                    frame = (outlook.mean + model.sigma * residual) * fluid
                    drawn[m, k] = frame[0]
                    past = torch.cat([past, frame[None]], 1)
                    if k == m == 0:
                        errors.append(average((clips[row, start] - outlook.mean[0]).square()))
            for k in range(lead):
                scores.append(average(almost_fair_crps(drawn[:, k], clips[row, start + k], c.almost_fair)))
    return torch.stack(scores).mean(), torch.stack(errors).mean()


@pytest.mark.parametrize("lead", [1, 2, 3])
@pytest.mark.parametrize("obstacle", [False, True])
def test_the_loss_of_members_is_the_crps_of_roll_outs_made_one_by_one(lead, obstacle):
    model, clips, fluid = _model(**CRPS, rollout=lead, context_noise=0.0), _clips(2), torch.ones(1, 8, 8)
    if obstacle:
        fluid[:, 2:5, 3:6] = 0
    crps, square = _member_losses(model, clips, lead, fluid)
    given = Given(fluid.expand(2, 1, 8, 8), torch.zeros(2, 0))
    found = model.loss(clips, given, progress=1.0, draws=_draws(2)).values
    torch.testing.assert_close(found["crps"], crps, rtol=2e-5, atol=0)
    # In units of the residual, whose mean variance is (0.5 + 0.8) / 2, and with the mean's own loss.
    torch.testing.assert_close(found["loss"], crps / 0.65**0.5 + 0.3 * square / 0.65, rtol=2e-5, atol=0)


def test_members_run_on_their_own_only_in_the_later_training():
    model, clips = _model(**CRPS, rollout=2, rollout_from=0.5, context_noise=0.0), _clips(2)
    for progress, lead in ((0.0, 1), (0.49, 1), (0.5, 2)):
        found = model.loss(clips, _given(2), progress=progress, draws=_draws(2)).values["crps"]
        torch.testing.assert_close(found, _member_losses(model, clips, lead, torch.ones(1, 8, 8))[0], rtol=2e-5, atol=0)


# ---------------------------------------------------------------- laws of every loss


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("scale", ["channel", "pixel"])
def test_a_loss_does_not_depend_on_how_a_batch_is_divided(settings, scale):
    model, clips, given = _model(**settings, residual_scale=scale), _clips(), _given(4, slice(2, 5))
    whole = model.loss(clips, given, progress=1.0, draws=_draws(4))
    parts = []
    for first, count in ((0, 2), (2, 2)):
        rows = slice(first, first + count)
        part = Given(*(x[rows] for x in given))
        parts.append(model.loss(clips[rows], part, progress=1.0, draws=_draws(4, first, count)))
    loss = sum(p.values["loss"] for p in parts) / 2
    torch.testing.assert_close(loss, whole.values["loss"], rtol=1e-6, atol=1e-6)
    square = sum(p.statistic for p in parts) / 2
    torch.testing.assert_close(square, whole.statistic, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("masked", [True, False])
def test_what_is_inside_an_obstacle_is_part_of_a_loss_only_if_it_is_not_masked(settings, masked):
    # The last frame is a target and never shown to the networks.
    model, clips, given = _model(**settings, masked_loss=masked), _clips(), _given(4, slice(2, 5))
    changed = clips.clone()
    changed[0, -1, :, 2:5, 2:5] += 7
    first, second = (model.loss(c, given, progress=1.0, draws=_draws(4)) for c in (clips, changed))
    same = torch.isclose(first.values["loss"], second.values["loss"], rtol=1e-6)
    assert same == masked
    unseen = settings.get("unroll", 1) > 1 or settings.get("rollout", 1) > 1  # its residual is not taken one step ahead
    assert torch.allclose(first.statistic, second.statistic) == (masked or unseen)
    changed[0, -1, :, 6, 6] += 7  # in the fluid
    assert not torch.isclose(
        first.values["loss"], model.loss(changed, given, progress=1.0, draws=_draws(4)).values["loss"], rtol=1e-6
    )


# ---------------------------------------------------------------- known laws recovered

MEAN, STD, CORRELATION = 0.5, 0.8, 0.7
DRAWN = 8000


def _frames(rows, time, generator):
    """Independent 2x2 frames N(MEAN, STD^2), the two upper pixels correlated."""
    z = torch.randn(rows, time, 1, 2, 2, generator=generator)
    z[..., 0, 1] = CORRELATION * z[..., 0, 0] + math.sqrt(1 - CORRELATION**2) * z[..., 0, 1]
    return MEAN + STD * z


def _trained(steps, batch=64, rate=4e-3, **settings):
    torch.manual_seed(0)
    config = ModelConfig(width=16, multipliers=(1,), patch=1, clip_frames=4, context_noise=0.0, **settings)
    model = ResidualVideoDiffusion(config, channels=1, height=2, width=2)
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    given, g = Given(torch.ones(batch, 1, 2, 2), torch.zeros(batch, 0)), torch.Generator().manual_seed(1)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
        found = model.loss(_frames(batch, 4, g), given, progress=step / steps, draws=_draws(batch, seed=step))
        adam.zero_grad()
        found.values["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        model.follow(found.statistic, step)
    return model


def _drawn(model):
    """Frames (8000, 4) drawn one and two steps after the context."""
    g = torch.Generator().manual_seed(2)
    given = Given(torch.ones(DRAWN, 1, 2, 2), torch.zeros(DRAWN, 0))
    state = model.encode(_frames(DRAWN, 2, g), given)
    for _ in range(2):
        frame, state = model.step(
            state, lambda shape=(1, 2, 2): torch.randn(DRAWN, *shape, generator=g), model.config.sampler
        )
        yield frame.flatten(1)


@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (400, {"levels": "continuous", "sampler": SamplerConfig(name="heun", steps=15)}),
        (400, {"sampler": SamplerConfig(name="ddim", steps=20, spacing="even")}),
        (300, {"objective": "crps", "almost_fair": 1.0, "members": 4}),
    ],
    ids=["diffusion, continuous", "diffusion, discrete", "crps"],
)
def test_a_trained_model_draws_the_gaussian_that_it_was_shown(steps, settings):
    for frames in _drawn(_trained(steps, **settings)):
        # Four standard errors of 8000 draws (0.036 and 0.025), and the error of a short training.
        assert (frames.mean(0) - MEAN).abs().max() < 4 * STD / math.sqrt(DRAWN) + 0.07
        assert (frames.std(0) - STD).abs().max() < 4 * STD / math.sqrt(2 * DRAWN) + 0.07
        if "objective" in settings:
            continue  # a score of each pixel does not know how pixels go together
        found = torch.corrcoef(frames.T)
        assert found[0, 1].item() == pytest.approx(CORRELATION, abs=4 * (1 - CORRELATION**2) / math.sqrt(DRAWN) + 0.07)
        others = torch.stack([found[0, 2], found[0, 3], found[1, 2], found[1, 3], found[2, 3]])
        assert others.abs().max() < 4 / math.sqrt(DRAWN) + 0.07
