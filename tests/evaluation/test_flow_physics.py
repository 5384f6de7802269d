"""Tones, divergence, distributions and stability times that are known beforehand are found."""

import numpy as np
import pytest
import xarray as xr
from scipy import signal, stats

from evaluation import temporal
from evaluation.distributions import (
    value_histogram,
    wasserstein,
    wasserstein_distance,
    wasserstein_from_histograms,
)
from evaluation.errors import DimensionError, EvaluationError, MissingValueError
from evaluation.flow_physics import divergence, first_departure, rms_divergence, stability_time
from evaluation.temporal import peak_frequency, strouhal_number, temporal_power, temporal_spectrum


def tone(frequency, length, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (frequency * np.arange(length) + rng.random())
    return 3.0 + np.sin(phase) + noise * rng.normal(size=length)


@pytest.mark.parametrize("length", [16, 33, 64])
def test_power_by_frequency_adds_up_to_the_variance(length):
    series = np.random.default_rng(0).normal(size=(3, length)) + 7
    np.testing.assert_allclose(temporal_power(series, window="none").sum(-1), series.var(-1), rtol=1e-12)
    weight = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    mean = (series * weight).sum(-1) / weight.sum()
    variance = ((weight * (series - mean[:, None])) ** 2).sum(-1) / (weight**2).sum()
    np.testing.assert_allclose(temporal_power(series).sum(-1), variance, rtol=1e-12)
    assert temporal_power(series).shape[-1] == temporal.frequencies(length).size


def test_a_tone_of_whole_cycles_lands_in_its_bin_with_its_variance():
    series = tone(5 / 40, 40)
    power = temporal_power(series, window="none")
    assert temporal.frequencies(40)[4] == 5 / 40
    assert power[4] == pytest.approx(0.5, rel=1e-12)
    assert np.delete(power, 4).max() < 1e-20


def test_averages_over_segments_are_those_of_scipy():
    series = np.random.default_rng(1).normal(size=400)
    weight = np.sin(np.pi * (np.arange(64) + 0.5) / 64) ** 2
    pieces = [series[i : i + 64] for i in range(0, 400 - 63, 32)]
    centred = [p - (p * weight).sum() / weight.sum() for p in pieces]
    want = np.mean([signal.periodogram(p, window=weight, detrend=False)[1] for p in centred], axis=0)[1:] / 64
    np.testing.assert_allclose(temporal_power(series, segment=64), want, rtol=1e-10)
    for wrong in (3, 401):
        with pytest.raises(EvaluationError, match="segment"):
            temporal_power(series, segment=wrong)
    with pytest.raises(EvaluationError, match="window"):
        temporal_power(series, window="kaiser")


@pytest.mark.parametrize("frequency", [0.12, 0.1337, 0.2])
@pytest.mark.parametrize("length", [128, 401])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_a_tone_in_noise_is_found_within_its_stated_error(frequency, length, noise):
    found = np.array([peak_frequency(tone(frequency, length, noise, seed)) for seed in range(60)])
    distance = np.abs(found[:, 0] - frequency) / found[:, 1]
    assert (distance < 2).mean() > 0.9  # 95 % if errors are Gaussian; it is a little cautious
    assert found[:, 1].mean() < 0.3 / length  # far better than the spacing of the spectrum


def test_a_tone_without_noise_is_exact_to_a_thousandth_of_a_cycle():
    for frequency in (0.1, 0.12345, 0.24):
        value, error = peak_frequency(tone(frequency, 200))
        assert abs(value - frequency) < error < 3e-3 / 200


def test_a_wandering_phase_widens_the_error():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(80):
        phase = 2 * np.pi * 0.1 * np.arange(600) + np.cumsum(0.05 * rng.normal(size=600))
        found.append(peak_frequency(np.sin(phase)))
    found = np.array(found)
    distance = (found[:, 0] - 0.1) / found[:, 1]
    assert 0.7 < np.sqrt((distance**2).mean()) < 1.5
    assert found[:, 1].mean() == pytest.approx(0.05 / (2 * np.pi * np.sqrt(600)), rel=0.35)  # of a random walk


def test_noise_and_constants_have_no_frequency():
    found = [peak_frequency(np.random.default_rng(s).normal(size=256))[0] for s in range(40)]
    assert np.isnan(found).mean() > 0.9
    assert np.isnan(peak_frequency(np.full(100, 2.5))).all()
    assert np.isnan(peak_frequency(tone(0.01, 200))).all()  # two periods
    broken = tone(0.1, 200)
    broken[7] = np.nan
    assert np.isnan(peak_frequency(broken)).all()


def test_a_record_that_is_too_short_is_refused():
    with pytest.raises(EvaluationError, match=r"16 frames tell frequencies apart to 0\.0625"):
        peak_frequency(tone(0.12, 16))
    with pytest.raises(EvaluationError, match="at least 200"):
        peak_frequency(tone(0.12, 100), resolution=0.005)
    peak_frequency(tone(0.12, 200), resolution=0.005)
    with pytest.raises(EvaluationError, match="16 frames"):
        strouhal_number(xr.DataArray(tone(0.12, 16), dims="time").chunk(), length=10, velocity=0.1)


def test_strouhal_number_is_f_l_over_u():
    series = xr.DataArray([tone(0.12, 300, 0.1, s) for s in range(3)], dims=("probe", "time"))
    found = strouhal_number(series, length=12, velocity=0.1, interval=64)
    scale = 12 / (0.1 * 64)
    want = np.array([peak_frequency(row) for row in series.values]) * scale
    np.testing.assert_array_equal(found.strouhal, want[:, 0])
    np.testing.assert_array_equal(found.standard_error, want[:, 1])
    lazy = strouhal_number(series.chunk(time=50, probe=1), length=12, velocity=0.1, interval=64)
    xr.testing.assert_identical(lazy.compute(), found)
    with pytest.raises(DimensionError):
        strouhal_number(series, length=12, velocity=0.1, time_dim="frame")
    with pytest.raises(EvaluationError, match="above 0"):
        strouhal_number(series, length=12, velocity=0)


def test_temporal_spectrum_keeps_other_dimensions_and_is_lazy():
    series = xr.DataArray(np.random.default_rng(3).normal(size=(4, 32, 2)), dims=("member", "time", "y"))
    series.attrs["units"] = "m"
    found = temporal_spectrum(series)
    assert found.dims == ("member", "y", "frequency")
    assert found.attrs["units"] == "(m)^2"
    np.testing.assert_allclose(found, temporal_power(np.moveaxis(series.values, 1, -1)))
    xr.testing.assert_allclose(temporal_spectrum(series.chunk(time=8)).compute(), found)
    with pytest.raises(EvaluationError, match="4 frames"):
        temporal_spectrum(series.isel(time=slice(3)))


def stream_function(shape=(24, 32)):
    return np.cumsum(np.cumsum(np.random.default_rng(4).normal(size=shape), 0), 1)


def test_velocity_of_a_stream_function_has_no_divergence():
    psi = stream_function()
    u, v = np.zeros_like(psi), np.zeros_like(psi)
    u[1:-1] = (psi[2:] - psi[:-2]) / 2
    v[:, 1:-1] = -(psi[:, 2:] - psi[:, :-2]) / 2
    inner = np.zeros(psi.shape, bool)
    inner[1:-1, 1:-1] = True
    assert rms_divergence(u, v, inner) < 1e-12 * u.std()
    assert rms_divergence(u, u, inner) > 0.1 * u.std()


def test_divergence_of_a_linear_field_is_its_trace():
    y, x = np.meshgrid(np.arange(9.0), np.arange(12.0), indexing="ij")
    u, v = np.stack([2 * x - y, 0 * x]), np.stack([x + 3 * y, -y])
    fluid = np.ones((9, 12), bool)
    np.testing.assert_allclose(rms_divergence(u, v, fluid), [5, 1])
    fluid[4, 4] = False
    u[:, 4, 4] = v[:, 4, 4] = 1e9
    np.testing.assert_allclose(rms_divergence(u, v, fluid), [5, 1])
    assert np.isnan(rms_divergence(u, v, np.zeros((9, 12), bool))).all()
    velocities = [xr.DataArray(a, dims=("time", "y", "x"), attrs={"units": "m/s"}) for a in (u, v)]
    walled = [a.where(xr.DataArray(fluid, dims=("y", "x"))) for a in velocities]
    found = divergence(*walled, dim=(), nan_policy="omit")
    np.testing.assert_allclose(found, [5, 1])
    assert float(divergence(*walled, nan_policy="omit")) == pytest.approx(np.sqrt(13))  # mean square first, root last
    assert found.attrs["units"] == "m/s per cell"
    lazy = divergence(*(a.chunk(time=1, x=4) for a in walled), dim=(), nan_policy="omit")
    xr.testing.assert_identical(lazy.compute(), found)
    assert divergence(*walled, dim=()).isnull().all()
    with pytest.raises(MissingValueError):
        divergence(*walled, nan_policy="raise")
    with pytest.raises(DimensionError):
        divergence(velocities[0], velocities[1].isel(time=0))
    with pytest.raises(DimensionError):
        divergence(velocities[0], velocities[1].isel(x=slice(3)))


def test_wasserstein_distance_is_that_of_scipy():
    rng = np.random.default_rng(5)
    for n, m in ((50, 50), (7, 400), (1, 1)):
        a, b = rng.normal(size=n), 0.5 + 2 * rng.normal(size=m)
        assert wasserstein_distance(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)
        wa, wb = rng.random(n), rng.random(m)
        want = stats.wasserstein_distance(a, b, wa, wb)
        assert wasserstein_distance(a, b, wa, wb) == pytest.approx(want, rel=1e-12)
    assert wasserstein_distance(a, a + 3) == pytest.approx(3)
    assert np.isnan(wasserstein_distance(a, b, np.zeros(1), wb))


def test_wasserstein_of_histograms_is_near_that_of_samples():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(40, 50)), 0.3 + 1.2 * rng.normal(size=(40, 50))
    fluid = rng.random((40, 50)) < 0.8
    edges = np.linspace(-6, 7, 131)
    pdfs = [value_histogram(v, fluid, edges) for v in (a, b)]
    assert [p.sum() for p in pdfs] == pytest.approx([1, 1])
    got = wasserstein_from_histograms(*pdfs, 0.1)
    assert got == pytest.approx(stats.wasserstein_distance(a[fluid], b[fluid]), abs=0.01)
    other = np.where(fluid, a, -3)
    np.testing.assert_array_equal(value_histogram(other, fluid, edges), pdfs[0])
    narrow = value_histogram(a, fluid, np.linspace(-0.5, 0.5, 5))
    assert narrow[0] == pytest.approx((a[fluid] < -0.25).mean())  # what is beyond counts at the ends
    many = value_histogram(np.stack([a, b]), fluid, edges)
    np.testing.assert_array_equal(many, pdfs)
    with pytest.raises(EvaluationError, match="one width"):
        value_histogram(a, fluid, np.array([0, 1, 3]))


def values(seed=0):
    rng = np.random.default_rng(seed)
    truth = xr.DataArray(rng.normal(size=(2, 3, 8, 9)), dims=("run", "lead_time", "y", "x"), attrs={"units": "m"})
    noise = xr.DataArray(rng.normal(size=(5, 2, 3, 8, 9)), dims=("member", *truth.dims))
    return 1 + 2 * noise, truth


def test_wasserstein_score_pools_members_and_dims():
    forecast, truth = values()
    got = wasserstein(forecast, truth, dim=["run", "y", "x"])
    for k in range(3):
        want = stats.wasserstein_distance(forecast[:, :, k].values.ravel(), truth[:, k].values.ravel())
        assert float(got[k]) == pytest.approx(want, rel=1e-12)
    assert got.attrs["units"] == "m"
    lazy = wasserstein(forecast.chunk(y=2, member=1), truth.chunk(x=3), dim=["run", "y", "x"])
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(), got)
    single = wasserstein(forecast.isel(member=0, drop=True), truth, member_dim=None)
    want = stats.wasserstein_distance(forecast[0].values.ravel(), truth.values.ravel())
    assert float(single) == pytest.approx(want, rel=1e-12)


def test_wasserstein_score_with_walls_weights_and_missing_members():
    forecast, truth = values()
    walls = truth.where(truth.x > 3)
    want = wasserstein(forecast.isel(x=slice(4, None)), truth.isel(x=slice(4, None)))
    xr.testing.assert_allclose(wasserstein(forecast.where(truth.x > 3, 1e9), walls, nan_policy="omit"), want)
    weights = (truth.x > 3).astype(float) * xr.ones_like(truth.isel(run=0, lead_time=0, y=0))
    xr.testing.assert_allclose(wasserstein(forecast, truth, weights=weights), want)
    assert np.isnan(wasserstein(forecast, walls))
    lost = forecast.where(forecast < 4)
    got = wasserstein(lost, truth, nan_policy="omit")
    kept = lost.values.ravel()
    expected = stats.wasserstein_distance(kept[~np.isnan(kept)], truth.values.ravel())
    assert float(got) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(MissingValueError):
        wasserstein(forecast, walls, nan_policy="raise")
    with pytest.raises(DimensionError):
        wasserstein(forecast, truth.isel(run=0))
    with pytest.raises(EvaluationError, match="samples"):
        wasserstein(forecast, truth, dim=())
    eight = xr.DataArray(np.arange(60, dtype=np.uint8).reshape(2, 30), dims=("member", "x"))
    assert float(wasserstein(eight, eight[1])) == pytest.approx(15)


def test_first_departure_is_final():
    inside = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(first_departure(inside), [2, 3, 0, np.inf, np.inf])
    np.testing.assert_array_equal(first_departure(inside, patience=2), [2, np.inf, 0, np.inf, np.inf])


def test_stability_time_is_when_a_growing_statistic_leaves_the_range():
    rng = np.random.default_rng(7)
    climate = xr.DataArray(rng.uniform(0, 1, 4000), dims="sample")
    leads = np.arange(1, 101) * 2
    growing = xr.DataArray(0.5 + 0.01 * leads, dims="lead_time", coords={"lead_time": leads}).expand_dims(member=3)
    steady = 0.5 + 0 * growing
    statistic = xr.concat([growing, steady], "method")
    got = stability_time(statistic, climate, level=0.98, margin=0.0)
    assert got.dims == ("method", "member")
    assert (got[0] == 50).all()  # 0.99 is reached at lead 49; leads are even
    assert (got[1] == np.inf).all()
    xr.testing.assert_identical(
        stability_time(statistic.chunk(), climate.chunk(), level=0.98, margin=0.0).compute(), got
    )
    later = stability_time(statistic, climate, level=0.98, margin=0.5)
    assert (later[0] > 90).all()
    assert (stability_time(statistic.where(statistic.lead_time < 20), climate)[1] == 20).all()  # NaN is outside


def test_stability_time_compares_each_with_its_own_climate():
    climate = xr.DataArray([[0.0, 1.0], [10.0, 11.0]], dims=("run", "sample"))
    statistic = xr.DataArray([[0.5, 5.0], [10.5, 10.5]], dims=("run", "lead_time"), coords={"lead_time": [1, 2]})
    np.testing.assert_array_equal(stability_time(statistic, climate), [2, np.inf])
    np.testing.assert_array_equal(stability_time(statistic, climate, climate_dim=["run", "sample"]), [np.inf, np.inf])
    with pytest.raises(DimensionError):
        stability_time(statistic.isel(run=0), climate, climate_dim="sample")
    with pytest.raises(DimensionError):
        stability_time(statistic, climate, lead_dim="lead")
    with pytest.raises(DimensionError):
        stability_time(statistic, climate.isel(run=[0]))
    with pytest.raises(EvaluationError, match="several"):
        stability_time(statistic, climate.isel(sample=[0]))
    with pytest.raises(EvaluationError, match="level"):
        stability_time(statistic, climate, level=1.5)
