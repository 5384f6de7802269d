"""Calibration finds the inflation that theory asks for, on a process whose law is known."""

import pytest
import torch

from rvdflow.calibrate import calibrate, spread_skill_by_lead
from rvdflow.config import CalibrationConfig, ModelConfig, SamplerConfig
from rvdflow.model import ResidualVideoDiffusion

STEP = 0.3  # the truth is a random walk: x^{t+1} = x^t + STEP * normal


class _Walker(ResidualVideoDiffusion):
    """Knows that the mean is persistence, but believes in steps of `belief` instead of STEP."""

    def __init__(self, belief):
        super().__init__(
            ModelConfig(width=4, multipliers=(1,), patch=1, recurrent_from=1, residual_scale="fixed", sigma=belief),
            channels=1,
            height=8,
            width=8,
        )

    def step(self, state, noise, sampler):
        last = state.last if state.outlook is None else state.outlook[0]  # an untrained mean is persistence
        frame = last + self.inflation * self.sigma * noise()
        return frame, state._replace(last=frame, outlook=None)


def _walks(cases=40, time=8):
    g = torch.Generator().manual_seed(0)
    return (STEP * torch.randn(cases, time, 1, 8, 8, generator=g)).cumsum(1)


def test_a_forecaster_that_knows_the_law_has_ratio_one():
    ratios = spread_skill_by_lead(_Walker(STEP), _walks(), 8, 2, SamplerConfig(), seed=1)
    assert ratios.tolist() == pytest.approx([1.0] * 6, abs=0.06)  # 40 cases of 64 independent pixels


@pytest.mark.parametrize("belief", [0.15, 0.2, 0.5])
def test_inflation_mends_a_wrong_scale(belief):
    model = _Walker(belief)
    inflation, ratios = calibrate(model, _walks(), CalibrationConfig(members=8, context=2, lead=6), seed=1)
    assert inflation == pytest.approx(STEP / belief, rel=0.05)
    assert ratios == pytest.approx([1.0] * 6, abs=0.07)
    assert float(model.inflation) == pytest.approx(inflation)
