"""Central intervals: a reliable ensemble of any size covers as often as it says."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from evaluation import DimensionError, EvaluationError, MissingValueError
from evaluation.intervals import interval_coverage, interval_score, interval_width

DIMS = ("case", "member", "y", "x")


def case(members=9, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    forecast = xr.DataArray(rng.normal(size=(3, members, 6, 7)), dims=DIMS, attrs={"units": "1/s"})
    truth = xr.DataArray(rng.normal(size=(3, 6, 7)), dims=("case", "y", "x"), attrs={"units": "1/s"})
    if dtype == np.uint8:
        forecast, truth = (a * 30 + 128 for a in (forecast, truth))
    return forecast.astype(dtype), truth.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.77, 0.8])
def test_ends_are_numpys_weibull_quantiles(level, dtype):
    forecast, truth = case(dtype=dtype)
    low, high = np.quantile(forecast.values.astype(float), [(1 - level) / 2, (1 + level) / 2], axis=1, method="weibull")
    width = interval_width(forecast, level=level, dim=())
    np.testing.assert_allclose(width, high - low, rtol=1e-9)
    inside = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    np.testing.assert_array_equal(interval_coverage(forecast, truth, level=level, dim=()), inside)
    assert width.attrs["units"] == "1/s"


@pytest.mark.parametrize(("members", "level"), [(3, 0.5), (9, 0.8), (9, 0.2), (19, 0.9), (4, 0.6)])
def test_reliable_ensembles_of_any_size_have_the_nominal_coverage(members, level):
    """At levels whose ends are order statistics this is exact for any distribution; here a skewed one."""
    rng = np.random.default_rng(0)
    points = 100_000
    truth = xr.DataArray(rng.exponential(size=points), dims="point")
    forecast = xr.DataArray(rng.exponential(size=(members, points)), dims=("member", "point"))
    coverage = float(interval_coverage(forecast, truth, level=level))
    assert abs(coverage - level) < 4 * np.sqrt(level * (1 - level) / points)


def test_intervals_of_a_large_gaussian_ensemble_have_their_closed_form():
    """Members N(0, 1), truth N(0, s): width 2 z; coverage P(|y| < z) = 2 Phi(z / s) - 1."""
    rng = np.random.default_rng(1)
    forecast = xr.DataArray(rng.normal(size=(999, 2000)), dims=("member", "point"))
    z = norm.ppf(0.9)
    assert float(interval_width(forecast, level=0.8)) == pytest.approx(2 * z, rel=0.005)
    for s in (0.5, 1.0, 2.0):
        truth = xr.DataArray(s * rng.normal(size=2000), dims="point")
        coverage = float(interval_coverage(forecast, truth, level=0.8))
        assert coverage == pytest.approx(2 * norm.cdf(z / s) - 1, abs=0.04)


def test_interval_score_is_that_of_scoringrules():
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = case()
    low, high = np.quantile(forecast.values, [0.15, 0.85], axis=1, method="weibull")
    score = getattr(scoringrules, "interval_score")  # noqa: B009
    want = score(truth.values, low, high, 0.3)
    got = interval_score(forecast, truth, level=0.7, dim=())
    np.testing.assert_allclose(got, want, rtol=1e-9)
    assert got.attrs["units"] == "1/s"


def test_missing_members_narrow_the_levels_that_can_be_read():
    forecast, truth = case()
    forecast[0, 3, 2, 2] = np.nan
    forecast[1, :7, 4, 4] = np.nan  # two left: no level above 1 / 3
    truth[2, 0, 0] = np.nan
    got = interval_coverage(forecast, truth, level=0.5, dim=(), nan_policy="omit")
    np.testing.assert_array_equal(np.argwhere(got.isnull().values), [[1, 4, 4], [2, 0, 0]])
    width = interval_width(forecast, level=0.5, dim=(), nan_policy="omit")
    want = np.quantile(forecast.values[0, [0, 1, 2, 4, 5, 6, 7, 8], 2, 2], [0.25, 0.75], method="weibull")
    assert float(width[0, 2, 2]) == pytest.approx(want[1] - want[0], rel=1e-12)
    assert np.isnan(interval_coverage(forecast, truth, level=0.5))
    assert int(interval_score(forecast, truth, level=0.5, dim=()).isnull().sum()) == 3
    with pytest.raises(MissingValueError, match="3 of 126 points"):
        interval_score(forecast, truth, nan_policy="raise")


SCORES = (interval_coverage, interval_score)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dask_and_numpy_give_the_same(score, dtype, monkeypatch):
    forecast, truth = case(dtype=dtype)
    for dim in ((), None, ["y"]):
        want = score(forecast, truth, dim=dim)
        lazy = score(forecast.chunk(case=1, member=2, y=4), truth.chunk(x=3), dim=dim)
        assert lazy.chunks is not None
        xr.testing.assert_allclose(lazy.compute(), want, rtol=1e-12)
        assert lazy.attrs == want.attrs
    monkeypatch.setattr("evaluation.intervals._BLOCK", 10)
    xr.testing.assert_equal(score(forecast, truth, dim=["y"]), want)


@pytest.mark.parametrize("score", SCORES)
def test_what_does_not_fit_is_refused(score):
    forecast, truth = case()
    for bad in (truth.isel(y=slice(3)), truth.isel(y=0, drop=True), truth.rename(y="row"), truth.expand_dims(member=9)):
        with pytest.raises(DimensionError):
            score(forecast, bad)
    with pytest.raises(EvaluationError, match="real numbers"):
        score(forecast.astype(complex), truth)
    with pytest.raises(EvaluationError, match="unknown nan_policy"):
        score(forecast, truth, nan_policy="skip")
    names = {"y": "latitude", "member": "number"}
    got = score(forecast.rename(names), truth.rename(y="latitude"), dim="latitude")
    xr.testing.assert_equal(got, score(forecast, truth, dim="y"))


@pytest.mark.parametrize("level", [0, 0.81, 1, np.nan, -0.5])
def test_levels_that_cannot_be_read_are_refused(level):
    with pytest.raises(EvaluationError, match=r"from 9 members: .* = 0\.8"):
        interval_coverage(*case(), level=level)
    with pytest.raises(EvaluationError, match="1 members"):
        interval_width(case(1)[0])
    with pytest.raises(DimensionError, match='no dimension "member"'):
        interval_width(case()[1])
