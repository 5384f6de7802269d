"""Roll-outs on validation runs: scores of known ensembles, and independence of how the work is divided."""

import math

import pytest
import torch

from rvdflow import validate
from rvdflow.build import build_model
from rvdflow.networks import Given
from rvdflow.ranks import Ranks
from rvdflow.train_config import RunConfig
from rvdflow.validate import roll_outs


class Weather:
    """Forecasts normal numbers of deviation `spread`, whatever was seen, in frames of 1 x 8 x 8."""

    frame_shape = (1, 8, 8)

    def __init__(self, spread):
        self.spread = spread

    def encode(self, context, given):
        return given.fluid

    def repeat(self, state, members):
        return state.repeat_interleave(members, 0)

    def step(self, state, noise):
        return self.spread * noise() * state, state


def truth(cases, frames):
    """Standard normal frames around an obstacle, inside which there are absurd numbers."""
    numbers = torch.randn(cases, frames, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fluid = torch.ones(cases, 1, 8, 8)
    fluid[:, :, 2:5, 3:5] = 0
    return torch.where(fluid[:, None] == 1, numbers, 1e3), Given(fluid, torch.zeros(cases, 0))


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_scores_of_a_normal_ensemble_are_those_of_theory(spread):
    members = 3
    scores = roll_outs(Weather(spread), *truth(400, 5), members=members, context=2, seed=1)
    # Fair CRPS, expected: E|X - Y| - E|X - X'| / 2 for X ~ N(0, s^2), Y ~ N(0, 1); E|N(0, v)| = sqrt(2 v / pi).
    crps = math.sqrt(2 * (1 + spread**2) / math.pi) - spread / math.sqrt(math.pi)
    assert scores.crps.shape == scores.spread_skill.shape == scores.rmse.shape == (3,)
    # 400 cases of 58 fluid cells: a mean of about 23,000 numbers of deviation 1 is right within 0.7 %.
    assert scores.crps.tolist() == pytest.approx([crps] * 3, abs=0.03)
    assert scores.rmse.tolist() == pytest.approx([math.sqrt(1 + spread**2 / members)] * 3, rel=0.02)
    ratio = math.sqrt((members + 1) / members * spread**2 / (1 + spread**2 / members))
    assert scores.spread_skill.tolist() == pytest.approx([ratio] * 3, rel=0.02)


def test_one_member_is_scored_by_its_absolute_error_and_has_no_spread():
    scores = roll_outs(Weather(1.0), *truth(400, 4), members=1, context=2, seed=1)
    assert scores.crps.tolist() == pytest.approx([2 / math.sqrt(math.pi)] * 2, abs=0.03)  # E|N(0, 2)|
    assert not scores.variance.any()


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_diversity_is_the_deviation_of_forecasts_from_case_to_case_in_that_of_the_truth(spread):
    scores = roll_outs(Weather(spread), *truth(400, 4), members=2, context=2, seed=1)
    assert scores.diversity == pytest.approx(spread, abs=0.02)


def test_the_standard_error_of_the_crps_is_that_of_its_cases():
    model = Weather(1.0)
    means = []
    for seed in range(30):
        frames, given = truth(12, 3)
        scores = roll_outs(model, frames, given, members=2, context=1, seed=seed)
        means.append((float(scores.crps.mean()), scores.crps_error))
    assert all(error > 0 for _, error in means)
    scatter = torch.tensor([mean for mean, _ in means]).std()
    typical = sum(error for _, error in means) / len(means)
    # Over seeds only the members change, over cases the truth as well: the error is the larger, not by much.
    assert 0.5 * typical < scatter < 1.3 * typical


@pytest.fixture
def model():
    model = build_model(
        RunConfig.model_validate({"preset": "small", "model": {"width": 8, "multipliers": (1, 2)}}), (1, 8, 8)
    )
    torch.manual_seed(0)
    for parameter in model.parameters():  # an untrained network's head is zero, and so is what it draws
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_scores_do_not_depend_on_how_cases_are_put_into_batches(model, monkeypatch):
    frames, given = truth(5, 6)
    frames = frames * given.fluid[:, None]
    found = []
    for cells in (1, 2 * 3 * 64, 2**18):  # one case at a time, two, all
        monkeypatch.setattr(validate, "CELLS", cells)
        found.append(roll_outs(model, frames, given, members=3, context=2, seed=4))
    for other in found[1:]:
        torch.testing.assert_close(found[0].case_crps, other.case_crps, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[0].variance, other.variance, rtol=1e-4, atol=1e-6)


def test_ranks_divide_the_cases_among_them(model, monkeypatch):
    class Other(Ranks):
        """A rank whose fellows find nothing, so that what is left is its own share."""

        def mean_(self, tensor):
            return tensor.div_(self.size)

    monkeypatch.setattr(validate, "CELLS", 1)
    frames, given = truth(5, 5)
    frames = frames * given.fluid[:, None]
    settings = {"members": 2, "context": 2, "seed": 4}
    whole = roll_outs(model, frames, given, **settings).case_crps
    shares = [roll_outs(model, frames, given, ranks=Other(k, 2, k), **settings).case_crps for k in range(2)]
    assert (shares[0] == 0).tolist() == [[k % 2 == 1] * 3 for k in range(5)]
    torch.testing.assert_close(shares[0] + shares[1], whole)
