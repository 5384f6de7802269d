"""Nobody gains by forecasting other than what they believe: exact expectations over a small world.

The truth takes one of three states with probabilities F; an ensemble of M members is drawn from a forecast G. All 3^M
ensembles and 3 truths are scored once, S[ensemble, truth], and the expected score is an exact sum,

    E(G, F) = sum_{ensembles e} sum_{truths y} G(e_1) ... G(e_M) F(y) S[e, y]

so that propriety (E is smallest at G = F) and fairness (E does not depend on M) need no sampling and no margin.
"""

import itertools

import numpy as np
import pytest
import xarray as xr

from evaluation import crps
from evaluation.crps_variants import threshold_weighted_crps
from evaluation.events import brier_score
from evaluation.multivariate import energy_score, variogram_score
from evaluation.neighbourhood import crps_pooled, fractions_skill_score

TRUE = np.array([0.2, 0.5, 0.3])
FAMILY = [np.array([a, b, 10 - a - b]) / 10 for a in range(11) for b in range(11 - a)]
STATES = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.5]])  # three fields of two cells
ROUNDING = 1e-12


def at_first_cell(score, **options):
    def wrapped(forecast, truth, estimator):
        return score(forecast.isel(x=1, y=0), truth.isel(x=1, y=0), estimator=estimator, dim=(), **options)

    return wrapped


def of_field(score, **options):
    def wrapped(forecast, truth, estimator):
        return score(forecast, truth, estimator=estimator, dim=(), **options)

    return wrapped


STRICTLY = {
    "crps, three values": lambda f, y, estimator: crps(f.sum("x"), y.sum("x"), estimator=estimator, dim=["y"]),
    "tail": lambda f, y, estimator: threshold_weighted_crps(
        f.sum("x"), y.sum("x"), threshold=0.5, estimator=estimator, dim=["y"]
    ),
    "energy": of_field(energy_score),
    "pooled mean": of_field(crps_pooled, scale=2),
}
"""Scores that tell all three states apart."""

PROPER = STRICTLY | {
    "brier": at_first_cell(brier_score, threshold=2.0),
    "brier of |x|": at_first_cell(brier_score, threshold=2.0, tail="both"),
    "tail below": at_first_cell(threshold_weighted_crps, threshold=1.0, tail="below"),
    "variogram": of_field(variogram_score, lags=[(0, 1)]),
    "pooled maximum": of_field(crps_pooled, scale=2, how="max"),
}


def expected(score, members, estimator="fair"):
    """A function (G, F) -> exact expected score of ensembles of that size."""
    draws = np.array(list(itertools.product(range(3), repeat=members)))
    forecast = xr.DataArray(STATES[draws][:, None, :, None], dims=("ensemble", "state", "member", "y", "x"))
    forecast = xr.concat([forecast] * 3, "state")
    truth = xr.DataArray(STATES[:, None], dims=("state", "y", "x")).expand_dims(ensemble=len(draws))
    table = score(forecast, truth, estimator).transpose("ensemble", "state").values
    return lambda g, f: np.prod(g[draws], axis=1) @ table @ f


@pytest.mark.parametrize("name", PROPER)
def test_no_forecast_is_expected_to_beat_the_honest_one(name):
    for members in (2, 3):
        mean = expected(PROPER[name], members)
        honest = mean(TRUE, TRUE)
        for g in FAMILY:
            assert mean(g, TRUE) >= honest - ROUNDING


@pytest.mark.parametrize("name", STRICTLY)
def test_every_other_forecast_is_expected_to_lose(name):
    mean = expected(STRICTLY[name], 3)
    honest = mean(TRUE, TRUE)
    losses = [mean(g, TRUE) - honest for g in FAMILY if not np.allclose(g, TRUE)]
    assert len(losses) == len(FAMILY) - 1
    assert min(losses) > 1e-4


@pytest.mark.parametrize("name", PROPER)
def test_the_fair_score_is_that_of_the_distribution_for_any_number_of_members(name):
    want = [expected(PROPER[name], 2)(g, TRUE) for g in FAMILY]
    for members in (3, 4):
        mean = expected(PROPER[name], members)
        np.testing.assert_allclose([mean(g, TRUE) for g in FAMILY], want, atol=ROUNDING)


@pytest.mark.parametrize("name", PROPER)
def test_the_classical_score_favours_large_ensembles_and_tends_to_the_fair_one(name):
    fair = expected(PROPER[name], 2)(TRUE, TRUE)
    excess = [members * (expected(PROPER[name], members, "classical")(TRUE, TRUE) - fair) for members in (1, 2, 3, 4)]
    assert excess[0] > 0
    np.testing.assert_allclose(excess, excess[0], atol=ROUNDING)  # a constant over M


def test_the_classical_score_of_a_small_ensemble_rewards_dishonesty():
    """Of two members, drawn from a forecast that is too sharp: why `fair` is the default."""
    mean = expected(STRICTLY["crps, three values"], 2, "classical")
    assert min(mean(g, TRUE) for g in FAMILY) < mean(TRUE, TRUE) - 0.01


def test_energy_score_of_the_distribution_is_its_definition():
    """E|X - y| - E|X - X'| / 2, with the distance of fields divided by the root of their cells."""
    distance = np.sqrt(((STATES[:, None] - STATES) ** 2).mean(-1))
    for g in FAMILY:
        want = g @ distance @ TRUE - g @ distance @ g / 2
        assert expected(PROPER["energy"], 2)(g, TRUE) == pytest.approx(want, abs=ROUNDING)


def test_the_fractions_skill_score_is_not_proper():
    """An event of probability q in one cell: 2 p q / (p^2 + q), largest at p = sqrt(q) instead of q."""
    truth = xr.DataArray([1.0, 0, 0, 0], dims="case").expand_dims(y=1, x=1)  # q = 1 / 4
    scores = []
    for k in range(9):
        forecast = xr.DataArray((np.arange(8) < k).astype(float), dims="member").expand_dims(case=4, y=1, x=1)
        scores.append(float(fractions_skill_score(forecast, truth, threshold=0.5, window=1)))
    p = np.arange(9) / 8
    np.testing.assert_allclose(scores, 2 * p * 0.25 / (p**2 + 0.25), atol=ROUNDING)
    assert np.argmax(scores) == 4  # p = 1 / 2
