"""The shedding frequency of signals whose frequency is known, and the honesty of its uncertainty."""

import numpy as np
import pytest
from scipy.signal import lfilter

from lbm.strouhal import mean_period, shedding_frequency, strouhal_number

T = np.arange(20_000)
PERIOD = 857.3  # samples: no whole number of them, and no whole number in the record
WAVE = np.sin(2 * np.pi * T / PERIOD + 0.3)


def test_an_exact_sine_is_measured_far_below_a_bin_of_the_spectrum():
    """A bin is 1/20000; crossings interpolated linearly err by about (2 pi / 857)^2 / 24 of a sample."""
    frequency, error = shedding_frequency(WAVE)
    assert frequency == pytest.approx(1 / PERIOD, rel=1e-6)
    assert error < 1e-6 * frequency


@pytest.mark.parametrize("interval", [1, 128])
def test_frequency_is_per_tick_not_per_sample(interval):
    frequency, error = shedding_frequency(WAVE[::50], 50 * interval)
    assert frequency == pytest.approx(1 / (PERIOD * interval), rel=1e-4)
    assert 0 < error < 1e-3 * frequency


def test_strouhal_number_is_f_l_over_u():
    number, error = strouhal_number(0.3 * WAVE, 1.0, length=16.0, velocity=0.1)
    assert number == pytest.approx(16.0 / (PERIOD * 0.1), rel=1e-6)
    assert error == pytest.approx(shedding_frequency(WAVE)[1] * 160, rel=0.1)


def test_a_drifting_mean_does_not_matter():
    """What a running mean over a period leaves of a curve, (2 pi P / 30000)^2 / 12 of 3, shifts the crossings."""
    frequency, error = shedding_frequency(WAVE + T / 2000)
    assert frequency == pytest.approx(1 / PERIOD, rel=1e-6)
    frequency, error = shedding_frequency(WAVE + 3 * np.sin(2 * np.pi * T / 30_000))
    assert frequency == pytest.approx(1 / PERIOD, rel=2e-4)
    assert abs(frequency - 1 / PERIOD) < 3 * error


def test_missing_samples_at_the_ends_are_left_out():
    signal = np.concatenate([np.full(500, np.nan), WAVE, np.full(40, np.nan)])
    assert shedding_frequency(signal) == pytest.approx(shedding_frequency(WAVE))


def test_harmonics_are_not_mistaken_for_the_wave():
    """The drag of a wake has twice the frequency of its lift; some of it leaks into an asymmetric lift."""
    signal = WAVE + 0.4 * np.sin(4 * np.pi * T / PERIOD + 1) + 0.2 * np.sin(6 * np.pi * T / PERIOD)
    assert shedding_frequency(signal)[0] == pytest.approx(1 / PERIOD, rel=1e-5)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "signal",
    [
        pytest.param(WAVE * np.exp(-T / 8000), id="decaying"),
        pytest.param(WAVE[:3000], id="three periods"),
        pytest.param(WAVE[:20], id="twenty samples"),
        pytest.param(RNG.standard_normal(20_000), id="white noise"),
        pytest.param(np.cumsum(RNG.standard_normal(20_000)), id="random walk"),
        pytest.param(np.full(20_000, 2.0), id="constant"),
        pytest.param(np.full(20_000, np.nan), id="nothing"),
        pytest.param(np.where(T == 9000, np.nan, WAVE), id="hole"),
        pytest.param(T / 100.0, id="trend"),
        pytest.param(np.sin(2 * np.pi * T / 2.5), id="under six samples a period"),
    ],
)
def test_what_does_not_shed_has_no_number(signal):
    assert np.isnan(shedding_frequency(signal)).all()
    assert np.isnan(strouhal_number(signal, 1.0, length=1.0, velocity=1.0)).all()


def test_a_lift_of_rounding_errors_does_not_shed():
    assert np.isnan(strouhal_number(1e-5 * WAVE, 1.0, length=16.0, velocity=0.1)).all()


def test_of_several_obstacles_the_strongest_decides():
    other = 0.1 * np.sin(2 * np.pi * T / 300)
    both = strouhal_number(np.stack([other, WAVE]), 1.0, length=1.0, velocity=1.0)
    assert both == strouhal_number(WAVE, 1.0, length=1.0, velocity=1.0)


def jittered(rng, noise):
    return np.sin(2 * np.pi * (np.arange(6000) / 300.7 + rng.random())) + noise * rng.standard_normal(6000)


def wandering(rng, memory):
    kicks = lfilter([np.sqrt(1 - memory**2)], [1, -memory], rng.standard_normal(20_500))[500:]
    strength = 0.5 if memory == 0 else 0.1
    return np.sin(2 * np.pi * np.cumsum((1 + strength * kicks) / 300.7)) + 0.1 * rng.standard_normal(20_000)


@pytest.mark.parametrize(
    ("signal", "least", "most"),
    [
        # Measurement noise is overestimated: the wander of the phase cannot be told to be exactly zero.
        pytest.param(lambda rng: jittered(rng, 0.1), 0.62, 0.95, id="noise"),
        pytest.param(lambda rng: jittered(rng, 0.5), 0.62, 0.95, id="strong noise"),
        pytest.param(lambda rng: wandering(rng, 0.0), 0.60, 0.78, id="wandering phase"),
        pytest.param(lambda rng: wandering(rng, 0.99), 0.60, 0.80, id="phase that wanders with memory"),
    ],
)
def test_one_standard_error_covers_the_truth_in_about_two_thirds_of_trials(signal, least, most):
    """68 % of 200 trials, whose own scatter is 3.3 %; two standard errors: 95 %, at least 90."""
    results = np.array([shedding_frequency(signal(np.random.default_rng(seed))) for seed in range(200)])
    off = np.abs(results[:, 0] - 1 / 300.7) / results[:, 1]
    assert least <= (off < 1).mean() <= most
    assert (off < 2).mean() >= 0.9


def test_independent_periods_have_the_standard_error_of_a_mean():
    """sigma / sqrt(n), and a jitter alone that of two crossings, sqrt(2) sigma / n; estimates scatter by 1/sqrt(2n)."""
    rng = np.random.default_rng(4)
    n, sigma = 4000, 3.0
    _, error = mean_period(np.cumsum(100 + sigma * rng.standard_normal(n + 1)))
    assert error == pytest.approx(sigma / np.sqrt(n), rel=0.1)
    errors = [mean_period(100 * np.arange(31) + sigma * rng.standard_normal(31))[1] for _ in range(200)]
    assert np.sqrt(2) * sigma / 30 * 0.8 < np.median(errors) < sigma * np.sqrt(2) / np.sqrt(30) * 0.5
