"""The presets called paper and released hold the values of the paper and of its released code, each a named setting."""

import pytest
import torch

from rvdflow.config import PRESETS, ModelConfig
from rvdflow.diffusion import Schedule
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.samplers import sigmas
from rvdflow.train_config import RunConfig

# Where paper and released code agree: arXiv:2203.09481, sections 3.2 and 4, and Algorithm 1.
COMMON = {
    "objective": "diffusion",
    "architecture": "published",
    "mean": "network",
    "mean_gradient": True,  # Eq. 9 reaches phi through y_n
    "mean_loss": 0.0,
    "mean_first": 0.0,
    "unroll": 1,
    "normalisation": "minmax",
    "clamp": True,  # frames fed back and means, in [-1, 1]
    "masked_loss": False,
    "residual_scale": "fixed",
    "levels": "discrete",
    "diffusion_steps": 1600,
    "prediction": "noise",
    "noise_level_per": "clip",  # Algorithm 1 draws n before its loop over frames
    "context_noise": 0.0,
    "context_frames": 2,
    "clip_frames": 8,  # 2 + 6
    "conditions": (),
    "obstacle_mask": False,
}
DIFFERENT = {
    "paper": {"sigma": 2.0, "clip_residual": 1.0, "loss": "l2"},
    "released": {"sigma": 1.0, "clip_residual": 2.0, "loss": "l1"},
}
SIZES = {
    64: {"width": 48, "multipliers": (1, 2, 4, 8), "mean_multipliers": (1, 2, 2, 4)},
    128: {"width": 64, "multipliers": (1, 1, 2, 2, 4, 4), "mean_multipliers": (1, 2, 3, 4)},
}
NAMES = [f"{kind}-{size}" for kind in DIFFERENT for size in SIZES]
# Parameters of the released modules for 3 and 1 channels; of the former denoiser, context and mean, in millions.
TOTALS = {
    64: {3: 37_611_414, 1: 37_607_570, "shares": [18.744, 13.750, 5.117]},
    128: {3: 43_613_702, 1: 43_608_578, "shares": [18.952, 12.991, 11.671]},
}


def _model(name, channels, size):
    with torch.device("meta"):
        return ResidualVideoDiffusion(ModelConfig(**PRESETS[name]), channels=channels, height=size, width=size)


def _count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_holds_the_published_settings(name):
    kind, size = name.split("-")
    config = ModelConfig(**PRESETS[name])
    expected = {**COMMON, **DIFFERENT[kind], **SIZES[int(size)]}
    assert {key: getattr(config, key) for key in expected} == expected
    # In units of frames, which lie in [-1, 1], a residual is bounded by 2.
    assert config.clip_residual * config.sigma == 2.0


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_samples_by_algorithm_1_mended(name):
    config = ModelConfig(**PRESETS[name])
    sampler = config.sampler
    assert (sampler.name, sampler.steps, sampler.noise_term) == ("ancestral", 1600, "deviation")
    tiny = config.model_copy(update={"width": 8, "multipliers": (1, 2), "mean_multipliers": (1, 2)})
    levels = ResidualVideoDiffusion(tiny, channels=1, height=8, width=8).levels
    assert isinstance(levels, Schedule)
    assert sigmas(levels, sampler) == levels.sigma.flip(0).tolist()  # n from N down to 1, each once


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_published_number_of_parameters(name, channels):
    size = int(name.split("-")[1])
    networks = _model(name, channels, size).networks
    parts = [_count(networks.denoiser), _count(networks.context), _count(networks.predictor)]
    assert _count(networks) == sum(parts) == TOTALS[size][channels]
    if channels == 3:
        assert [round(p / 1e6, 3) for p in parts] == TOTALS[size]["shares"]


@pytest.mark.parametrize("name", NAMES)
def test_the_ablation_VD_is_a_matter_of_settings(name):
    config = RunConfig(
        preset=name, model={"mean": "zero", "mean_loss": 0.0, "residual_scale": "fixed", "sigma": 1.0}
    ).model
    assert (config.mean, config.sigma, config.residual_scale) == ("zero", 1.0, "fixed")
    assert config.loss == DIFFERENT[name.split("-")[0]]["loss"]  # and nothing else changes


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_by_itself_and_in_a_run(name):
    assert RunConfig(preset=name).model == ModelConfig(**PRESETS[name])


# Section 4 of the paper; the released training script. One rate falls linearly over a million steps, the other at once.
RATES = {
    "paper": {0: 5e-5, 500_000: 3.5e-5, 1_000_000: 2e-5},
    "released": {0: 5e-5, 99_999: 5e-5, 100_008: 1e-5, 999_999: 1e-5},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_trained_as_published(name):
    kind, size = name.split("-")
    train = RunConfig(preset=name).train
    assert (train.optimiser, train.weight_decay, train.gradient_clip) == ("adam", 0.0, None)
    assert (train.steps, train.batch_size, train.warmup_steps) == (1_000_000, {"64": 8, "128": 4}[size], 0)
    for step, rate in RATES[kind].items():
        assert train.learning_rate_at(step / train.steps, step) == pytest.approx(rate)
    averaged = train.ema_decay, train.ema_start, train.ema_every, train.forecast_weights
    if kind == "released":  # 0.99 every 5 steps from 2000 on; the raw weights are tested
        assert averaged == (0.99, 2000, 5, "last")
    else:
        assert (train.ema_decay, train.forecast_weights) == (0.0, "last")
