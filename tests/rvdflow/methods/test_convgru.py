"""The deterministic network: losses from plain formulas, and nothing but its networks' own forecasts."""

import pytest
import torch

from rvdflow.methods.convgru import ConvGruConfig, ConvGruForecaster
from rvdflow.networks import Given
from rvdflow.noise import Draws

PUBLISHED = {"base": 8, "multipliers": (1, 2), "clip_frames": 6}
COMPACT = {**PUBLISHED, "architecture": "compact", "normalisation": "standard"}
INFORMED = {**COMPACT, "conditions": ("reynolds",), "obstacle_mask": True}
KINDS = pytest.mark.parametrize("settings", [PUBLISHED, COMPACT, INFORMED], ids=["published", "compact", "informed"])


def _model(settings, *, rough=True, **changes):
    model = ConvGruForecaster(ConvGruConfig(**{**settings, **changes}), channels=2, height=8, width=16)
    g = torch.Generator().manual_seed(5)
    for p in model.parameters() if rough else ():
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2) * torch.randn(p.shape, generator=g)
    return model.double()


def _given(model, seed=4):
    fluid = torch.ones(2, 1, 8, 16, dtype=torch.float64)
    fluid[:, :, 3:5, 4:7] = 0
    numbers = torch.randn(2, len(model.config.conditions), generator=torch.Generator().manual_seed(seed))
    return Given(fluid, numbers.double())


def _clips(frames=6):
    g = torch.Generator().manual_seed(3)
    return torch.rand(2, frames, 2, 8, 16, generator=g, dtype=torch.float64) * 1.6 - 0.8


def _losses(model, clips, progress=1.0):
    draws = Draws(torch.Generator().manual_seed(0), 2)
    return model.losses("model", clips, _given(model), progress=progress, draws=draws)


def _average(values, fluid):
    """Over fluid cells of values (b, t, c, y, x)."""
    weights = fluid[:, None].expand_as(values)
    return (values * weights).sum() / weights.sum()


@KINDS
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_loss_is_the_error_of_one_step_forecasts(settings, norm):
    model, clips = _model(settings, loss=norm), _clips()
    given = _given(model)
    forecasts = [model.forecast(clips[:, :t], given, 1, None)[:, 0] for t in range(2, 6)]  # each from its own start
    error = torch.stack(forecasts, 1) - clips[:, 2:]
    found = _losses(model, clips)
    torch.testing.assert_close(found["mean_rmse"], _average(error.square(), given.fluid).sqrt())
    torch.testing.assert_close(found["loss"], _average(error.square() if norm == "l2" else error.abs(), given.fluid))


@KINDS
def test_the_last_frames_are_forecast_from_forecasts_in_later_training(settings):
    model, clips = _model(settings, unroll=3, unroll_from=0.5), _clips()
    given = _given(model)
    late, early = (_losses(model, clips, progress)["loss"] for progress in (0.5, 0.49))
    teacher = torch.cat([model.forecast(clips[:, :t], given, 1, None) for t in range(2, 6)], 1)
    torch.testing.assert_close(early, _average((teacher - clips[:, 2:]).square(), given.fluid))
    rolled = torch.cat([model.forecast(clips[:, :2], given, 1, None), model.forecast(clips[:, :3], given, 3, None)], 1)
    torch.testing.assert_close(late, _average((rolled - clips[:, 2:]).square(), given.fluid))


def test_an_unrolled_loss_teaches_through_its_own_forecasts():
    """Of a later frame only the forecast before it is seen: without a gradient through it, the loss is another's."""
    model, clips = _model(PUBLISHED, unroll=2, context_frames=4), _clips()
    _losses(model, clips)["loss"].backward()
    through = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    kept, model.kept = model.kept, lambda frames, given: kept(frames, given).detach()
    _losses(model, clips)["loss"].backward()
    assert any((a - p.grad).abs().max() > 1e-6 for a, p in zip(through, model.parameters(), strict=True))


def test_an_untrained_compact_network_is_persistence():
    model, clips = _model(COMPACT, rough=False), _clips(3)
    found = model.forecast(clips, _given(model), 2, None)
    torch.testing.assert_close(found, (clips[:, -1:] * _given(model).fluid[:, None]).expand(-1, 2, -1, -1, -1))


def test_the_published_network_is_the_mean_of_residual_video_diffusion():
    from rvdflow.config import PRESETS as RVD
    from rvdflow.config import ModelConfig
    from rvdflow.methods.convgru import PRESETS
    from rvdflow.model import ResidualVideoDiffusion

    for size in (64, 128):
        with torch.device("meta"):
            shape = {"channels": 3, "height": size, "width": size}
            whole = ResidualVideoDiffusion(ModelConfig(**RVD[f"paper-{size}"]), **shape)
            alone = ConvGruForecaster(ConvGruConfig(**PRESETS[f"convgru-{size}"]), **shape)
        expected = {name: p.shape for name, p in whole.networks.predictor.named_parameters()}
        assert {name: p.shape for name, p in alone.network.named_parameters()} == expected


def test_numbers_of_the_run_and_its_obstacle_reach_the_informed_network():
    model, clips = _model(INFORMED), _clips(3)
    given = _given(model)
    others = (_given(model, seed=9), Given(torch.ones_like(given.fluid), given.conditions))
    first = model.forecast(clips, given, 1, None)
    for other in others:
        fluid = given.fluid[:, None]
        assert ((model.forecast(clips, other, 1, None) - first) * fluid).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_frames": 4, "unroll": 3}, "at least context_frames"),
        ({"conditions": ("reynolds",)}, "architecture = compact"),
        ({"obstacle_mask": True}, "architecture = compact"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvGruConfig(**settings)
