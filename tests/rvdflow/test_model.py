"""Residual video diffusion as a whole: what it is trained on when, and forecasts that depend on the past alone."""

import pytest
import torch

from rvdflow.config import PRESETS, ModelConfig, SamplerConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.noise import Draws, MemberNoise

TINY = {"width": 8, "multipliers": (1, 2), "mean_multipliers": (1, 2), "diffusion_steps": 50}
SMALL = {**PRESETS["small"], **TINY}
PAPER = {**PRESETS["paper-64"], **TINY, "sampler": {"name": "ancestral", "steps": 50, "spacing": "even"}}
ONE_STEP = {**SMALL, "objective": "crps"}
INFORMED = {**SMALL, "conditions": ("reynolds", "inflow"), "obstacle_mask": True}
KINDS = pytest.mark.parametrize(
    "settings", [SMALL, PAPER, ONE_STEP, INFORMED], ids=["small", "paper", "one step", "informed"]
)


def _model(settings, channels=2, **changes):
    config = ModelConfig(**{**settings, **changes})
    model = ResidualVideoDiffusion(config, channels=channels, height=8, width=16)
    g = torch.Generator().manual_seed(5)
    for p in model.parameters():  # heads start at zero: give every path something to say
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2) * torch.randn(p.shape, generator=g)
    return model


def _given(model, rows=2, seed=4):
    """An obstacle at the same place in every run, and numbers that differ."""
    fluid = torch.ones(rows, 1, 8, 16)
    fluid[:, :, 3:5, 4:7] = 0
    return Given(fluid, torch.randn(rows, len(model.config.conditions), generator=torch.Generator().manual_seed(seed)))


def _clip(rows=2, time=5, channels=2):
    return torch.rand(rows, time, channels, 8, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def _noise(rows, channels=2, seed=0):
    return MemberNoise(seed, [(r, 0) for r in range(rows)], [0], (channels, 8, 16))


def _loss(model, progress=0.0, clip=None, seed=7):
    clip = _clip(time=model.config.clip_frames) if clip is None else clip
    draws = Draws(torch.Generator().manual_seed(seed), len(clip))
    return model.loss(clip, _given(model, len(clip)), progress=progress, draws=draws)


def _reached(module):
    """Whether a gradient has come to any weight; then none is left."""
    found = any(p.grad is not None and p.grad.any() for p in module.parameters())
    module.zero_grad()
    return found


# ---------------------------------------------------------------- what is trained when


@pytest.mark.parametrize("architecture", ["compact", "published"])
@pytest.mark.parametrize("objective", ["diffusion", "crps"])
def test_the_mean_is_trained_first_and_frozen_afterwards(architecture, objective):
    model = _model(SMALL, mean_first=0.4, architecture=architecture, objective=objective)
    rest = [m for name, m in model.networks.named_children() if name != "predictor"]
    for progress, mean_learns in ((0.0, True), (0.39, True), (0.4, False), (1.0, False)):
        found = _loss(model, progress)
        found.values["loss"].backward()
        assert _reached(model.networks.predictor) == mean_learns
        assert [_reached(m) for m in rest] == [not mean_learns] * len(rest)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    _loss(model, 0.5).values["loss"].backward()
    adam.step()
    kept = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in before if "predictor" in name} <= kept
    assert any("denoiser" in name for name in before.keys() - kept)


def test_the_first_stage_is_the_mean_square_error_of_the_mean():
    model, clip = _model(SMALL, mean_first=0.5, mean_loss=0.0, context_noise=0.0, masked_loss=False), _clip(time=7)
    previous = torch.cat([clip[:, :1], clip[:, :-1]], 1)
    outlook, _ = model.look(clip[:, :-1], previous[:, :-1], torch.zeros(2), _given(model), None, skip=1)
    expected = (clip[:, 2:] - outlook.mean.unflatten(0, (2, 5))).square().mean()
    found = _loss(model, clip=clip)
    assert found.values.keys() == {"loss", "mean_rmse"}
    torch.testing.assert_close(found.values["loss"], expected)
    torch.testing.assert_close(found.values["mean_rmse"], expected.sqrt())


@pytest.mark.parametrize("reaches", [True, False])
def test_the_mean_learns_from_the_diffusion_only_where_the_setting_says_so(reaches):
    model = _model(PAPER, mean_gradient=reaches)
    _loss(model).values["loss"].backward()
    assert _reached(model.networks.predictor) == reaches
    assert _reached(model.networks.denoiser)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", [SMALL, {**PAPER, "mean_loss": 0.3, "clip_frames": 7}], ids=["small", "paper"])
def test_the_unrolled_mean_is_a_roll_out_of_its_own_frames(settings, masked):
    model = _model(settings, unroll=3, unroll_from=0.5, context_noise=0.0, masked_loss=masked)
    clip, given = _clip(time=7), _given(model)
    fluid = given.fluid if masked else torch.ones_like(given.fluid)

    def average(error):
        return (error.square() * fluid).sum() / (error.shape[1] * fluid.sum())

    def mean(frames):
        previous = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        skip = frames.shape[1] - 1
        return model.look(frames, previous, torch.zeros(2), given, None, skip=skip)[0].mean

    forced = [average(clip[:, t] - mean(clip[:, :t])) for t in range(2, 5)]
    frames, errors = clip[:, :4], []
    for t in range(4, 7):  # one step ahead of true frames, then of its own
        frames = torch.cat([frames, (mean(frames) * fluid)[:, None]], 1)
        errors.append(average((clip[:, t] - frames[:, t]) * fluid))
    found = _loss(model, 0.5, clip).values
    torch.testing.assert_close(found["unrolled_rmse"], torch.stack(errors[1:]).mean().sqrt(), rtol=1e-5, atol=0)
    total = torch.stack([*forced, *errors[1:]]).mean() / model.residual_variance.mean()
    torch.testing.assert_close(found["loss"] - found["diffusion"], 0.3 * total, rtol=1e-4, atol=0)
    assert "unrolled_rmse" not in _loss(model, 0.49, clip).values


# ---------------------------------------------------------------- what the networks are told


def test_the_level_of_noise_on_the_context_is_told_and_changes_the_outlook():
    model, clip = _model(SMALL, context_noise=0.5), _clip()
    seen, look = [], model.networks.look

    def spy(frames, previous, level, given, state, *, skip):
        seen.append((frames, previous, level))
        return look(frames, previous, level, given, state, skip=skip)

    model.networks.look = spy
    model.loss(clip, _given(model), progress=0.0, draws=Draws(torch.Generator().manual_seed(7), 2))
    ((frames, previous, level),) = seen
    noise = (frames - clip[:, :-1]) / level[:, None, None, None, None]
    assert ((level > 0) & (level < 0.5)).all()
    assert noise.std().item() == pytest.approx(1, abs=4 / (2 * noise.numel()) ** 0.5)  # four standard errors
    torch.testing.assert_close(previous[:, 1:], frames[:, :-1])

    given = _given(model)
    means = [look(clip, clip, torch.full((2,), v), given, None, skip=4)[0].mean for v in (0.0, 0.3)]
    assert (means[0] - means[1]).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["fluid", "conditions"])
def test_obstacles_and_numbers_of_a_run_change_its_outlook_and_no_other(part):
    model, clip = _model(INFORMED), _clip()
    given = _given(model)
    changed = getattr(given, part).clone()
    changed[0] = 1 - changed[0]
    first, second = (model.encode(clip, g).outlook for g in (given, given._replace(**{part: changed})))
    for a, b in zip((first.mean, *first.conditioning), (second.mean, *second.conditioning), strict=True):
        assert (a[0] - b[0]).abs().max() > 1e-3
        torch.testing.assert_close(a[1], b[1])


def test_networks_that_are_told_nothing_of_a_run_ignore_it():
    model, clip = _model(SMALL), _clip()
    given = _given(model)
    outlooks = [model.encode(clip, given._replace(fluid=f)).outlook.mean for f in (given.fluid, 1 - given.fluid)]
    torch.testing.assert_close(*outlooks)


# ---------------------------------------------------------------- forecasts


@KINDS
def test_a_member_is_the_same_in_any_batch(settings):
    model, clip = _model(settings).eval(), _clip()
    given, sampler = _given(model), SamplerConfig(name="ancestral", steps=5)

    def roll(rows):
        picked = [r for r in range(2) if r in rows]
        noise = MemberNoise(0, [(r, 0) for r in picked], [0], (2, 8, 16))
        state, frames = model.encode(clip[picked], Given(*(x[picked] for x in given))), []
        for _ in range(2):
            frame, state = model.step(state, noise, sampler)
            frames.append(frame)
        return torch.stack(frames)

    torch.testing.assert_close(roll({0, 1})[:, 1:], roll({1}), atol=1e-4, rtol=1e-4)


@KINDS
def test_members_share_the_encoded_context_and_are_exchangeable(settings):
    model, clip = _model(settings).eval(), _clip(rows=1)
    given, sampler = _given(model, 1), SamplerConfig(name="ddim", steps=3)

    def draw(state, members):
        return model.step(state, MemberNoise(0, [(0, 0)], members, (2, 8, 16)), sampler)[0]

    shared = draw(model.repeat(model.encode(clip, given), 3), (0, 1, 2))
    apart = draw(model.encode(clip.repeat_interleave(3, 0), given.repeat(3)), (0, 1, 2))
    torch.testing.assert_close(shared, apart, atol=1e-4, rtol=1e-4)
    swapped = draw(model.repeat(model.encode(clip, given), 3), (2, 0, 1))
    torch.testing.assert_close(swapped[[1, 2, 0]], shared, atol=1e-4, rtol=1e-4)
    assert (shared[0] - shared[1]).abs().max() > 1e-3


@KINDS
def test_feeding_a_frame_back_equals_having_seen_it(settings):
    model, clip = _model(settings).eval(), _clip(time=4)
    given, sampler = _given(model), SamplerConfig(name="ddim", steps=2)
    frame, state = model.step(model.encode(clip, given), _noise(2), sampler)
    again, _ = model.step(state, _noise(2, seed=1), sampler)
    seen, _ = model.step(model.encode(torch.cat([clip, frame[:, None]], 1), given), _noise(2, seed=1), sampler)
    torch.testing.assert_close(again, seen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("look_back", [0, 1, 3])
def test_a_roll_out_looks_back_on_as_many_frames_as_the_settings_say(look_back):
    model = _model({**SMALL, "look_back": look_back}).eval()
    given, sampler = _given(model), SamplerConfig(steps=2)
    clip, other = _clip(time=5), _clip(time=5).roll(1, -1)
    other[:, -3:] = clip[:, -3:]  # another past, the same last three frames

    def roll(context):
        state, frames, noise = model.encode(context, given), [], _noise(2)
        for _ in range(4):
            frame, state = model.step(state, noise, sampler)
            frames.append(frame)
        return torch.stack(frames, 1)

    first, second = roll(clip), roll(other)
    assert torch.equal(first, second) == bool(look_back)
    if look_back:  # the fourth frame follows from the last ones before it, however they came about
        seen = torch.cat([clip, first[:, :3]], 1)[:, -look_back:]
        noise = _noise(2)
        for _ in range(3):
            noise()
        again, _ = model.step(model.encode(seen, given), noise, sampler)
        torch.testing.assert_close(again, first[:, 3], atol=1e-5, rtol=1e-5)


@KINDS
def test_frames_are_zero_inside_obstacles_and_clamped_where_the_settings_say_so(settings):
    model = _model(settings).eval()
    given = _given(model)
    frame, state = model.step(model.encode(5 * _clip(), given), _noise(2), SamplerConfig(name="ddim", steps=2))
    inside = frame[given.fluid.expand_as(frame) == 0]
    assert bool(inside.any()) != model.config.masked_loss
    assert (frame.abs().max() <= 1) == model.config.clamp
    assert torch.equal(state.seen[:, -1], frame)


def test_a_member_of_one_step_depends_on_its_map_and_on_its_vector_of_noise():
    model = _model(ONE_STEP).eval()
    outlook = model.encode(_clip(), _given(model)).outlook
    noise = _noise(2)
    pixels, vector, other = noise(), noise((16,)), noise((16,))
    first = model.one_step(pixels, vector, outlook)
    torch.testing.assert_close(model.draw(outlook, (same := _noise(2))(), same, model.config.sampler), first)
    for changed in (model.one_step(pixels, other, outlook), model.one_step(noise(), vector, outlook)):
        assert (changed - first).abs().amax((1, 2, 3)).min() > 1e-3


def test_noise_with_a_memory_keeps_its_law_and_is_correlated_from_frame_to_frame():
    model, clip = _model(SMALL).eval(), _clip(rows=40)
    model.memory.fill_(0.6)
    state, noise, starts = model.encode(clip, _given(model, 40)), _noise(40), []
    for _ in range(3):
        _, state = model.step(state, noise, SamplerConfig(steps=1))
        starts.append(state.noise.flatten())
    found, error = torch.corrcoef(torch.stack(starts)), 4 / len(starts[0]) ** 0.5  # four standard errors
    assert found[0, 1].item() == pytest.approx(0.6, abs=error)
    assert found[0, 2].item() == pytest.approx(0.36, abs=error)
    assert starts[2].std().item() == pytest.approx(1, abs=error / 2**0.5)


@pytest.mark.parametrize("channels", [1, 3])
@KINDS
def test_any_number_of_channels(settings, channels):
    model, clip = _model(settings, channels), _clip(time=8, channels=channels)
    loss = _loss(model, 1.0, clip).values["loss"]
    loss.backward()
    assert loss.isfinite()
    frame, _ = model.step(model.encode(clip, _given(model)), _noise(2, channels), SamplerConfig(steps=2))
    assert frame.shape == (2, channels, 8, 16)


# ---------------------------------------------------------------- the residual's scale


@pytest.mark.parametrize(("scale", "shape"), [("channel", (2, 1, 1)), ("pixel", (2, 8, 16))])
def test_the_running_scale_converges_to_the_residuals_standard_deviation(scale, shape):
    model, true = _model(SMALL, residual_scale=scale), torch.tensor([0.3, 0.6]).reshape(2, 1, 1)
    g = torch.Generator().manual_seed(1)
    for step in range(600):
        model.follow(model.mean_square(true * torch.randn(8, 2, 8, 16, generator=g)), step)
    assert model.residual_variance.shape == shape
    # A weight of 1/100 for the newest of steps of 8 values averages 200 of them: a standard error of 1 / sqrt(3200).
    pixels = 1 if scale == "channel" else 128
    error = 4.5 / (3200 * 128 / pixels) ** 0.5
    assert (model.residual_variance.sqrt() / true - 1).abs().max() < error


def test_the_scale_of_a_channel_is_that_of_the_fluid():
    model = _model(SMALL, residual_scale="channel")
    fluid = _given(model, 4).fluid
    square = model.mean_square(0.3 * fluid.expand(4, 2, 8, 16), fluid)
    torch.testing.assert_close(square, torch.full((2, 1, 1), 0.09))


def test_a_loss_changes_neither_the_running_scale_nor_a_fixed_one():
    for settings in (SMALL, PAPER):
        model = _model(settings)
        before = model.residual_variance.clone()
        found = _loss(model)
        assert torch.equal(model.residual_variance, before)
        model.follow(found.statistic, 0)
        assert torch.equal(model.residual_variance, before) == (settings is PAPER)
    assert (model.sigma == 2).all()


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide by 8"):
        ResidualVideoDiffusion(ModelConfig(), channels=1, height=30, width=64)
