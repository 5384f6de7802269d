"""What holds for every method: the laws of `rvdflow.methods.base.VideoModel`, on tiny networks with drawn weights.

A new method is tested by an entry in METHODS and one here, in TINY.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from rvdflow.methods import METHODS, method, presets
from rvdflow.methods.base import VideoModel, channels_of
from rvdflow.networks import Given
from rvdflow.noise import Draws, MemberNoise
from rvdflow.trainable import mapped


class Tiny(NamedTuple):
    """Settings of a tiny network, the frames (y, x) it is tested on, and what must be done before it is trained.

    `adversarial`: its losses fall against each other. `stages`: parts of the training that together reach every
    parameter. `bounded`: its frames are where they are normalised to [-1, 1].
    """

    settings: dict[str, Any]
    size: tuple[int, int] = (16, 32)
    prepare: Callable[[VideoModel], None] = lambda model: None
    adversarial: bool = False
    stages: tuple[float, ...] = (1.0,)
    bounded: bool = True


def _set_modes(model):
    g = torch.Generator().manual_seed(8)
    numbers = model.mean.numel()
    modes = torch.linalg.qr(torch.randn(numbers, len(model.modes), generator=g, dtype=torch.float64))[0].T
    deviation = torch.linspace(0.5, 0.1, len(modes))
    mean = 0.1 * torch.randn(model.mean.shape, generator=g)
    model.set_modes(mean, (modes * numbers**0.5).reshape(model.modes.shape), deviation)


def _unit_weights(model):
    """Layers with an equalised learning rate scale weights of N(0, 1) themselves."""
    for p in model.parameters():
        if p.ndim > 1:
            p.data *= p[0].numel() ** 0.5


CLIP = {"context_frames": 2, "clip_frames": 5}
TINY: dict[str, Tiny] = {
    "svg-lp": Tiny({**CLIP, "width": 0.125, "units": 64, "z_channels": 3, "beta": 1e-2}),
    "ivrnn": Tiny(
        {**CLIP, "width": 0.25, "latent_stages": (0, 2), "z_channels": (12, 16), "kl_warmup": 0.0, "beta": 0.1}
    ),
    "convgru": Tiny({**CLIP, "base": 8, "multipliers": (1, 2), "unroll": 2}),
    "retrogan": Tiny({"width": 0.0625, "residual_blocks": 1}, size=(16, 48), adversarial=True),
    "futuregan": Tiny(
        {"levels": 2, "width": 0.03125, "context_frames": 3, "future_frames": 2, "deviation_group": 2},
        prepare=_unit_weights,
        adversarial=True,
        stages=(0.0, 0.5, 1.0),
    ),
    "dvd-gan": Tiny(
        {
            "width": 0.0625, "latent": 12, "norm": "group",
            "context_frames": 1, "future_frames": 7, "scored_frames": 2,
        },
        size=(32, 64),
        adversarial=True,
    ),
    "timegrad": Tiny(
        {
            **CLIP, "modes": 6, "lags": (1, 2), "units": 16, "condition": 12, "net_layers": 3, "diffusion_steps": 20,
            "sampler": {"name": "ancestral", "steps": 20, "spacing": "even"},
        },
        prepare=_set_modes,
        bounded=False,
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", METHODS)


def _model(name, channels=1, *, rough=True, dtype=torch.float32, **changes):
    """In `rough`, no weight has a special value: some networks start at zero somewhere, on purpose."""
    tiny = TINY[name]
    config, model_class = method(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        height, width = tiny.size
        model = model_class(config(**{**tiny.settings, **changes}), channels=channels, height=height, width=width)
    if rough:
        g = torch.Generator().manual_seed(5)
        for p in model.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
            p.data = (p.ndim < 2) * p.data + scale * torch.randn(p.shape, generator=g)
    tiny.prepare(model)
    return model.to(dtype).eval()


def _given(model, rows=2, dtype=torch.float32, obstacle=True):
    _, ny, nx = model.frame_shape
    fluid = torch.ones(rows, 1, ny, nx, dtype=dtype)
    if obstacle:
        fluid[:, :, 4:8, 6:9] = 0
    return Given(fluid, torch.zeros(rows, 0, dtype=dtype))


def _clips(model, frames, rows=2, dtype=torch.float32, seed=3):
    g = torch.Generator().manual_seed(seed)
    clips = torch.rand(rows, frames, *model.frame_shape, generator=g, dtype=torch.float64) * 1.6 - 0.8
    return (clips * _given(model, rows, torch.float64).fluid[:, None]).to(dtype)


def _draws(total, first=0, count=None, seed=7):
    return Draws(torch.Generator().manual_seed(seed), total, first, count)


def _noise(model, rows=2, members=1, seed=0, dtype=torch.float32):
    source = MemberNoise(seed, [(r, 0) for r in range(rows)], range(members), model.frame_shape)
    return lambda *shape: source(*shape).to(dtype)


def _losses(model, player, clips, *, progress=1.0, draws=None, given=None):
    given = _given(model, len(clips), clips.dtype) if given is None else given
    return model.losses(player, clips, given, progress=progress, draws=_draws(len(clips)) if draws is None else draws)


def _forecast(model, context, lead, noise, given=None):
    given = _given(model, len(context), context.dtype) if given is None else given
    return model.forecast(context, given, lead, noise)


def test_every_method_is_tested_here():
    assert set(TINY) == set(METHODS)


# ---------------------------------------------------------------- forecasts


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_a_forecast_has_the_frames_asked_for_and_nothing_inside_obstacles(name, channels):
    model = _model(name, channels)
    lead = model.clip_frames + 3  # beyond what it is trained on
    context = _clips(model, model.context + 1)
    found = _forecast(model, context, lead, _noise(model))
    assert found.shape == (2, lead, *model.frame_shape)
    assert found.isfinite().all()
    assert not found[..., 4:8, 6:9].any()
    assert found[..., 10:, :].abs().amax((0, 2, 3, 4)).min() > 1e-4
    if TINY[name].bounded and model.value_range == "minmax":
        assert found.abs().max() <= 1


@EVERY
def test_steps_make_the_forecast_one_after_another(name):
    model, state, steps = _model(name), None, []
    context, noise = _clips(model, model.context + 1), _noise(model)
    whole = _forecast(model, context, 3 * model.block, _noise(model))
    with torch.no_grad():
        state = model.begin(context, _given(model))
        for _ in range(3):
            frames, state = model.advance(state, noise)
            assert frames.shape == (2, model.block, *model.frame_shape)
            mapped(state, lambda x: x.unflatten(0, (2, -1)))  # every tensor has the batch first
            steps.append(frames)
    assert torch.equal(torch.cat(steps, 1), whole)
    shorter = _forecast(model, context, 3 * model.block - 1, _noise(model)) if model.block > 1 else whole
    assert torch.equal(shorter, whole[:, : shorter.shape[1]])


@EVERY
def test_noise_and_it_alone_makes_members_differ(name):
    model = _model(name)
    context = _clips(model, model.context)
    first, again, other = (_forecast(model, context, model.block + 1, _noise(model, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert ((first - other).abs().amax((0, 2, 3, 4)) > 1e-5).all() == model.stochastic
    assert torch.equal(first, other) != model.stochastic


@EVERY
def test_a_member_does_not_depend_on_its_batch(name):
    model = _model(name, dtype=torch.float64)
    clips, lead = _clips(model, model.context + 1, rows=3, dtype=torch.float64), 2 * model.block
    together = _forecast(model, clips, lead, _noise(model, 3, dtype=torch.float64))
    for row in range(3):
        source = MemberNoise(0, [(row, 0)], [0], model.frame_shape)
        alone = _forecast(model, clips[row : row + 1], lead, lambda *shape, s=source: s(*shape).double())
        torch.testing.assert_close(alone[0], together[row], atol=1e-8, rtol=0)


@EVERY
def test_members_share_the_state_after_the_context(name):
    model, members = _model(name, dtype=torch.float64), 2
    context = _clips(model, model.context + 1, dtype=torch.float64)
    noise = [_noise(model, 2, members, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad():
        shared, _ = model.advance(
            model.repeat(model.begin(context, _given(model, 2, torch.float64)), members), noise[0]
        )
        apart = model.begin(context.repeat_interleave(members, 0), _given(model, 2 * members, torch.float64))
        expected, _ = model.advance(apart, noise[1])
    torch.testing.assert_close(shared, expected, atol=1e-8, rtol=0)


@EVERY
def test_context_before_what_is_used_does_not_matter_and_too_little_is_refused(name):
    model = _model(name)
    context = _clips(model, model.context + 2)
    changed = context.clone()
    changed[:, :2, :, 10:] *= -0.5
    same = torch.equal(*(_forecast(model, c, 1, _noise(model)) for c in (context, changed)))
    assert same == model.fixed_context
    short = context[:, : model.context - 1]
    with pytest.raises(ValueError, match=f"{model.context} frames of context, got {model.context - 1}"):
        model.begin(short, _given(model))


@EVERY
def test_single_precision_gives_what_double_does(name):
    found = []
    for dtype in (torch.float32, torch.float64):
        model = _model(name, dtype=dtype)
        context = _clips(model, model.context, dtype=dtype)
        found.append(_forecast(model, context, model.block, _noise(model, dtype=dtype)).double())
    torch.testing.assert_close(*found, atol=2e-3, rtol=0)


@EVERY
def test_a_state_dict_carries_the_model(name):
    model, copy = _model(name), _model(name, rough=False)
    copy.load_state_dict(model.state_dict())
    context = _clips(model, model.context)
    forecasts = [_forecast(m, context, model.block, _noise(model)) for m in (model, copy)]
    assert torch.equal(*forecasts)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for player in model.players:  # buffers may change, their shapes may not
        _losses(model.train(), player, _clips(model, model.clip_frames), progress=0.3)
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes


# ---------------------------------------------------------------- training


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_of_a_player_learns_from_its_loss_and_no_other_does(name, channels):
    model = _model(name, channels).train()
    everything = dict(model.named_parameters())
    owned = [key for player in model.players for key, _ in model.player(player)]
    assert sorted(owned) == sorted(everything)
    clips = _clips(model, model.clip_frames)
    for player in model.players:
        mine = dict(model.player(player))
        assert all(mine[key] is everything[key] for key in mine)
        model.zero_grad(set_to_none=True)
        for progress in TINY[name].stages:
            found = _losses(model, player, clips, progress=progress)
            assert all(value.ndim == 0 and value.isfinite() for value in found.values())
            assert [key for key, value in found.items() if value.requires_grad] == ["loss"]
            found["loss"].backward()
        for key, p in everything.items():
            if key not in mine:
                assert p.grad is None or not p.grad.any(), f"{player} moves {key}"
                continue
            assert p.grad is not None, f"{player} does not reach {key}"
            assert p.grad.isfinite().all(), key
            assert p.grad.any(), f"{player} does not reach {key}"


@EVERY
def test_an_unknown_player_is_refused(name):
    with pytest.raises(ValueError, match="no player"):
        _model(name).player("nobody")


@EVERY
def test_losses_take_all_their_randomness_from_draws_and_all_schedules_from_progress(name):
    model = _model(name).train()
    clips = _clips(model, model.clip_frames)
    for player in model.players:
        for progress in (0.0, 0.5, 1.0):
            found = []
            for global_seed in (0, 1):
                with torch.random.fork_rng():
                    torch.manual_seed(global_seed)
                    found.append(_losses(model, player, clips.clone(), progress=progress))
            assert found[0].keys() == found[1].keys()
            for key, value in found[0].items():
                assert torch.equal(value, found[1][key]), (player, progress, key)


@EVERY
def test_losses_are_means_over_the_batch(name):
    model = _model(name, dtype=torch.float64).train()
    clips = _clips(model, model.clip_frames, rows=4, dtype=torch.float64)
    clips[1] *= 0.3
    for player in model.players:
        whole = _losses(model, player, clips, draws=_draws(4))["loss"]
        parts = [
            _losses(model, player, clips[i : i + 2], draws=_draws(4, i, 2))["loss"] for i in (0, 2)
        ]  # as a step is divided
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-9, atol=1e-12)


@EVERY
def test_losses_are_near_in_bfloat16(name):
    model = _model(name).train()
    clips = _clips(model, model.clip_frames)
    for player in model.players:
        exact = _losses(model, player, clips)["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            found = _losses(model, player, clips)["loss"]
        found.backward()
        gradients = [p.grad for _, p in model.player(player) if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients)
        assert found.isfinite()
        # Three digits, and errors of many layers add up.
        torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.1)
        model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert _forecast(model.eval(), clips[:, : model.context], 2, _noise(model)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in METHODS if not TINY[name].adversarial])
def test_the_loss_falls_on_one_clip(name):
    model = _model(name, rough=False).train()
    clips = _clips(model, model.clip_frames, rows=1)
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        found = _losses(model, "model", clips)["loss"]  # the same random numbers each time
        adam.zero_grad()
        found.backward()
        adam.step()
        losses.append(found.detach())
    assert losses[-1] < 0.8 * losses[0]


@EVERY
def test_standard_scores_have_no_bound(name):
    model = _model(name, normalisation="standard")
    assert model.value_range == "standard"
    with torch.no_grad():
        for p in model.parameters():
            p *= 3
    context = 30 * _clips(model, model.context)
    assert _forecast(model, context, model.block, _noise(model)).abs().max() > 1


# ---------------------------------------------------------------- configurations


@EVERY
def test_presets_are_configurations_and_their_networks_can_be_described(name):
    config, model_class = method(name)
    assert {f"{name}-64", f"{name}-128", f"{name}-small"} <= presets(name).keys()
    for preset, settings in presets(name).items():
        size = {"64": (64, 64), "128": (128, 128)}.get(preset.rsplit("-", 1)[1], (32, 64))
        with torch.device("meta"):  # shapes without numbers
            model = model_class(config(**settings), channels=1, height=size[0], width=size[1])
        assert model.clip_frames >= model.context + model.block
        assert set(model.published) == set(model.players)


@EVERY
def test_settings_are_described_and_unknown_ones_refused(name):
    config, _ = method(name)
    assert all(field.description for field in config.model_fields.values())
    with pytest.raises(ValueError, match="unknown_setting"):
        config(unknown_setting=1)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"timegrad"}))  # which takes any frames
def test_frames_that_do_not_fit_are_refused(name):
    model = _model(name)
    config, model_class = method(name)
    height, width = TINY[name].size
    assert model.coarsening > 1
    with pytest.raises(ValueError, match=f"{height} x {width + 1} pixels"):
        model_class(config(**TINY[name].settings), channels=1, height=height, width=width + 1)


def test_widths_must_make_whole_numbers_of_channels():
    assert channels_of(64, 0.25, 16) == 16
    for width in (0.3, 0.125):
        with pytest.raises(ValueError, match="multiple of 16"):
            channels_of(64, width, 16)


def test_a_method_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no method 'nothing'; there are svg-lp"):
        method("nothing")
