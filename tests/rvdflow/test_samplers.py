"""Samplers on laws for which the exact denoiser is known."""

import math

import pytest
import torch

from rvdflow.diffusion import cosine_schedule
from rvdflow.samplers import SAMPLERS, levels

MEAN, STD = 0.7, 0.4
SCHEDULE = cosine_schedule(1000)


def _gaussian(y, n):
    """Posterior mean of y_0 ~ N(MEAN, STD^2) given y_n, and the noise it implies."""
    abar = SCHEDULE.alpha_bar[n].reshape(-1, 1, 1, 1)
    gain = STD**2 * abar.sqrt() / (STD**2 * abar + 1 - abar)
    clean = MEAN + gain * (y - abar.sqrt() * MEAN)
    return clean, (y - abar.sqrt() * clean) / (1 - abar).sqrt()


def _mixture(y, n):
    """Posterior mean of y_0 = +-1 with equal chance."""
    abar = SCHEDULE.alpha_bar[n].reshape(-1, 1, 1, 1)
    clean = torch.tanh(abar.sqrt() * y / (1 - abar))
    return clean, (y - abar.sqrt() * clean) / (1 - abar).sqrt()


def _source(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, 1, 1, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(("name", "steps"), [("ancestral", 1000), ("ddim", 200), ("dpmpp", 50)])
def test_samplers_recover_a_gaussian(name, steps):
    count = 20_000
    x = SAMPLERS[name](_gaussian, _source(count), SCHEDULE, steps)
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(count))  # four standard errors
    assert x.std().item() == pytest.approx(STD, rel=4 / math.sqrt(2 * count) + 0.01)  # and 1 % of discretisation
    quantiles = torch.quantile(x.flatten(), torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64))
    normal = torch.distributions.Normal(MEAN, STD * 1.0)
    expected = normal.icdf(torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64))
    torch.testing.assert_close(quantiles, expected.double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp"])
def test_samplers_find_both_modes_of_a_mixture(name):
    x = SAMPLERS[name](_mixture, _source(4000), SCHEDULE, 100)
    assert (x.abs() - 1).abs().mean() < 0.02
    assert (x > 0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp", 2)])
def test_deterministic_samplers_converge_at_their_order(name, order):
    # The probability-flow ODE carries y_N affinely onto N(MEAN, STD^2): the exact answer is a formula. Errors change
    # sign on the way, so the slope is taken over a factor of 16 in steps.
    abar, start = SCHEDULE.alpha_bar[-1], _source(64)()
    exact = MEAN + STD * (start - abar.sqrt() * MEAN) / (STD**2 * abar + 1 - abar).sqrt()
    error = {k: (SAMPLERS[name](_gaussian, _source(64), SCHEDULE, k) - exact).abs().mean().item() for k in (5, 80)}
    assert math.log(error[5] / error[80], 16) > order - 0.1, error


def test_levels_are_distinct_from_all_noise_to_none():
    for steps in (1, 3, 7, 1000):
        grid = levels(SCHEDULE, steps)
        assert (grid[0], grid[-1], len(set(grid))) == (1000, 0, steps + 1)
    with pytest.raises(ValueError, match=r"outside 1\.\.1000"):
        levels(SCHEDULE, 1001)
