"""Calibration finds the scale and the memory of the noise that theory asks for, on processes whose law is known."""

import pytest
import torch

from rvdflow.calibrate import calibrate
from rvdflow.config import CalibrationConfig, ModelConfig, SamplerConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given, Outlook
from rvdflow.validate import roll_outs

STEP = 0.3  # the truth: x^{t+1} = x^t + STEP z^t, each z standard normal
CASES, LEADS = 40, 6


class _Walker(ResidualVideoDiffusion):
    """Knows that the mean is persistence and the residual normal, but believes in steps of `belief` instead of STEP."""

    def __init__(self, belief):
        settings = {"width": 4, "multipliers": (1,), "patch": 1, "residual_scale": "fixed", "sigma": belief}
        super().__init__(ModelConfig(**settings), channels=1, height=8, width=8)

    def look(self, frames, previous, level, given, state, *, skip):
        return Outlook(frames[:, skip:].flatten(0, 1), ()), None

    def draw(self, outlook, start, noise, sampler):
        return start


def _walks(memory=0.0):
    """Steps z with correlation `memory` from frame to frame."""
    g = torch.Generator().manual_seed(0)
    fresh = torch.randn(CASES, 2 + LEADS, 1, 8, 8, generator=g)
    z = [fresh[:, 0]]
    for k in range(1, fresh.shape[1]):
        z.append(memory * z[-1] + (1 - memory**2) ** 0.5 * fresh[:, k])
    return STEP * torch.stack(z, 1).cumsum(1), Given(torch.ones(CASES, 1, 8, 8), torch.zeros(CASES, 0))


def _config(*memories):
    return CalibrationConfig(members=8, context=2, lead=LEADS, memories=memories, rounds=2)


def test_a_forecaster_that_knows_the_law_has_ratio_one():
    scores = roll_outs(_Walker(STEP), *_walks(), members=8, context=2, seed=1)
    assert scores.spread_skill.tolist() == pytest.approx([1.0] * LEADS, abs=0.06)  # 40 cases of 64 independent pixels


@pytest.mark.parametrize("belief", [0.15, 0.2, 0.5])
def test_inflation_mends_a_wrong_scale(belief):
    model = _Walker(belief)
    found = calibrate(model, *_walks(), _config(0.0), seed=1)
    assert found.inflation == pytest.approx(STEP / belief, rel=0.05)
    assert found.spread_skill == pytest.approx([1.0] * LEADS, abs=0.07)
    assert float(model.inflation) == pytest.approx(found.inflation)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_the_memory_chosen_is_that_of_the_errors(memory):
    model, truth = _Walker(0.2), _walks(memory)
    found = calibrate(model, *truth, _config(0.0, 0.5, 0.8), seed=1)
    assert found.memory == pytest.approx(memory)
    assert float(model.memory) == pytest.approx(memory)
    assert found.inflation == pytest.approx(STEP / 0.2, rel=0.06)
    assert found.departure < 0.1


def test_noise_with_a_memory_keeps_its_variance_and_has_the_correlation_asked_for():
    model, (frames, given) = _Walker(1.0), _walks()
    model.memory.fill_(0.8)
    g = torch.Generator().manual_seed(3)
    state, last, steps = model.repeat(model.encode(frames[:, :2], given), 20), None, []
    for _ in range(12):
        frame, state = model.step(state, lambda: torch.randn(CASES * 20, 1, 8, 8, generator=g), SamplerConfig())
        steps.append(frame - (frames[:, 1].repeat_interleave(20, 0) if last is None else last))
        last = frame
    z = torch.stack(steps)  # 51,200 independent series
    assert z.std((1, 2, 3, 4)).tolist() == pytest.approx([1.0] * 12, abs=4 / (2 * 51_200) ** 0.5)
    for lag in (1, 3):
        correlation = (z[lag:] * z[:-lag]).mean((1, 2, 3, 4))
        assert correlation.tolist() == pytest.approx([0.8**lag] * (12 - lag), abs=4 * (2 / 51_200) ** 0.5)
