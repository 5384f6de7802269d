"""The unsteady inflow: law of the noise, independence of how it is drawn, seeds."""

from dataclasses import replace

import numpy as np
import pytest

from lbm.flow import FlowParameters
from lbm.inflow import BLOCK, Inflow

NOISY = FlowParameters(noise_streamwise=0.06, noise_transverse=0.2, noise_time=50, ramp=0, obstacles=(), seed=7)


def test_noise_has_the_asked_strength_and_correlation_time():
    velocity = Inflow(NOISY).next(0, 200_000) / NOISY.inflow_velocity
    u, v = velocity[:, 0] - 1, velocity[:, 1]
    # 200,000 ticks hold 2000 independent values: standard error of a standard deviation 1.6 %
    assert u.std() == pytest.approx(0.06, rel=0.06)
    assert v.std() == pytest.approx(0.2, rel=0.06)
    assert u.mean() == pytest.approx(0, abs=4 * 0.06 / np.sqrt(2000))
    for lag in (1, 25, 50, 100):
        correlation = (v[:-lag] * v[lag:]).mean() / (v * v).mean()
        assert correlation == pytest.approx(np.exp(-lag / 50), abs=0.08)
    assert np.corrcoef(u, v)[0, 1] == pytest.approx(0, abs=0.1)


def test_noise_is_stationary_from_the_first_tick():
    first = [Inflow(replace(NOISY, trajectory=k)).next(0, 1)[0, 1] for k in range(2000)]
    assert np.std(first) / NOISY.inflow_velocity == pytest.approx(0.2, rel=0.06)


def test_velocities_do_not_depend_on_the_split_into_calls():
    p = replace(FlowParameters(), noise_streamwise=0.06, noise_transverse=0.2, ramp=700)
    whole, inflow, tick, pieces = Inflow(p).next(0, 2 * BLOCK + 5), Inflow(p), 0, []
    for ticks in (1, 63, BLOCK - 64, 1, BLOCK + 4):
        pieces.append(inflow.next(tick, ticks))
        tick += ticks
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_seeds_and_trajectories_give_independent_noise():
    base, seed, trajectory = (
        Inflow(p).next(0, 50_000)[:, 1] for p in (NOISY, replace(NOISY, seed=8), replace(NOISY, trajectory=1))
    )
    for other in (seed, trajectory):
        assert np.corrcoef(base, other)[0, 1] == pytest.approx(0, abs=0.15)


def test_steady_inflow_is_steady_but_for_the_pulse_that_breaks_the_symmetry():
    p = FlowParameters(ramp=1000)
    velocity = Inflow(p).next(0, 4000)
    np.testing.assert_array_equal(velocity[:, 0], p.inflow_velocity)
    assert 0.15 < np.abs(velocity[:, 1]).max() / p.inflow_velocity < 0.45
    assert np.abs(velocity[-500:, 1]).max() == 0
    heights = {np.abs(Inflow(replace(p, trajectory=k)).next(0, 4000)[:, 1]).max() for k in range(5)}
    assert len(heights) == 5


def test_noise_rises_smoothly():
    velocity = Inflow(replace(NOISY, ramp=1000)).next(0, 2000)
    full = Inflow(NOISY).next(0, 2000)
    assert np.abs(velocity[:10, 1]).max() < 1e-4 * NOISY.inflow_velocity
    np.testing.assert_array_equal(velocity[1000:], full[1000:])
