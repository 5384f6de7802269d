"""The CRPS of a tail, and the two terms of the CRPS, equal their definitions and scoringrules."""

import dask
import numpy as np
import pytest
import xarray as xr

from evaluation import DimensionError, EvaluationError, MissingValueError, crps, variance
from evaluation.crps_variants import crps_components, threshold_weighted_crps
from evaluation.multivariate import energy_score

DIMS = ("case", "member", "y", "x")
EXACT = 1e-12  # of numbers of order one
TAILS = ("above", "below", "both")


def case(members=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    forecast = xr.DataArray(rng.normal(size=(3, members, 6, 7)), dims=DIMS, attrs={"units": "1/s"})
    truth = xr.DataArray(rng.normal(size=(3, 6, 7)), dims=("case", "y", "x"), attrs={"units": "1/s"})
    if np.dtype(dtype).kind in "ui":
        forecast, truth = (a * 30 + (128 if dtype == np.uint8 else 0) for a in (forecast, truth))
    return forecast.astype(dtype), truth.astype(dtype)


@pytest.mark.parametrize(("estimator", "theirs"), [("fair", "fair"), ("classical", "nrg")])
@pytest.mark.parametrize("tail", TAILS)
def test_tail_score_is_that_of_scoringrules(estimator, theirs, tail):
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = case()
    got = threshold_weighted_crps(forecast, truth, threshold=0.4, tail=tail, estimator=estimator, dim=())
    chain = {
        "above": lambda x: np.where(x > 0.4, x, 0.4),
        "below": lambda x: np.where(x < 0.4, x, 0.4),
        "both": lambda x: np.where(x > 0.4, x - 0.4, np.where(x < -0.4, x + 0.4, 0.0)),
    }[tail]
    want = scoringrules.twcrps_ensemble(
        truth.values, forecast.values, v_func=chain, m_axis=1, estimator=theirs, backend="numpy"
    )
    np.testing.assert_allclose(got, want, atol=EXACT)
    assert got.attrs["units"] == "1/s"


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("threshold", [20, 20.5])
def test_tail_score_of_integers_is_a_sum_over_levels(tail, dtype, threshold):
    """integral of (F(z) - 1{y <= z})^2 over the tail; F is constant between the quarters of an integer."""
    forecast, truth = case(4, dtype=dtype)
    got = threshold_weighted_crps(forecast, truth, threshold=threshold, tail=tail, estimator="classical", dim=())
    z = np.arange(-300, 300, 0.25) + 0.125
    inside = {"above": z > threshold, "below": z < threshold, "both": abs(z) > threshold}[tail]
    cdf = (forecast.values[..., None] <= z).mean(1)
    want = 0.25 * (inside * (cdf - (truth.values[..., None] <= z)) ** 2).sum(-1)
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_tails_add_up_to_the_crps():
    forecast, truth = case(dtype=np.float32)
    for estimator in ("fair", "classical"):
        parts = [
            threshold_weighted_crps(forecast, truth, threshold=0.25, tail=tail, estimator=estimator)
            for tail in ("above", "below")
        ]
        np.testing.assert_allclose(sum(parts), crps(forecast, truth, estimator=estimator), rtol=1e-6)
    everything = threshold_weighted_crps(forecast, truth, threshold=0, tail="both", dim=())
    np.testing.assert_allclose(everything, crps(forecast, truth, dim=()), atol=EXACT)
    assert float(threshold_weighted_crps(forecast, truth, threshold=99)) == 0


def test_a_large_array_of_bytes_keeps_its_type():
    from evaluation.crps_variants import _chained

    forecast, _ = case(dtype=np.uint8)
    for tail in TAILS:
        assert _chained(forecast, 100.0, tail).dtype == np.uint8
    assert _chained(forecast, 100.5, "above").dtype.kind == "f"
    assert _chained(forecast, 300.0, "above").dtype.kind == "f"


@pytest.mark.parametrize(("estimator", "fair"), [("fair", 1), ("classical", 0)])
@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_components_are_the_two_mean_distances(estimator, fair, dtype):
    forecast, truth = case(5, dtype=dtype)
    parts = crps_components(forecast, truth, estimator=estimator, dim=())
    x, y = np.moveaxis(forecast.values.astype(float), 1, -1), truth.values.astype(float)
    np.testing.assert_allclose(parts["skill"], abs(x - y[..., None]).mean(-1), rtol=1e-12)
    pairs = abs(x[..., None] - x[..., None, :]).sum((-1, -2))
    np.testing.assert_allclose(parts["spread"], pairs / (2 * 5 * (5 - fair)), rtol=1e-11)
    score = crps(forecast, truth, estimator=estimator, dim=())
    np.testing.assert_allclose(parts["skill"] - parts["spread"], score, atol=EXACT * float(abs(truth).max()))


def test_components_of_a_reliable_gaussian_ensemble():
    """E |x - y| = 2 / sqrt(pi), twice the fair spread."""
    rng = np.random.default_rng(0)
    truth = xr.DataArray(rng.normal(size=100_000), dims="point")
    forecast = xr.DataArray(rng.normal(size=(3, 100_000)), dims=("member", "point"))
    parts = crps_components(forecast, truth)
    assert float(parts["skill"]) == pytest.approx(2 / np.sqrt(np.pi), rel=0.01)
    assert float(parts["skill"] / parts["spread"]) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(("estimator", "fewest"), [("fair", 2), ("classical", 1)])
def test_missing_members_never_give_a_negative_spread(estimator, fewest):
    """Published elsewhere: M of all members, used for those that are left."""
    forecast, truth = case(6)
    forecast = forecast.where(np.random.default_rng(3).random(forecast.shape) > 0.6)
    truth[0, 0, 0] = np.nan
    parts = crps_components(forecast, truth, estimator=estimator, dim=(), nan_policy="omit")
    tail = threshold_weighted_crps(
        forecast, truth, threshold=0.3, estimator=estimator, dim=(), nan_policy="omit"
    ).transpose("case", "y", "x")
    assert float(parts["spread"].min()) >= 0
    for place in np.ndindex(truth.shape):
        x = forecast.transpose("case", "y", "x", "member").values[place]
        x, y = x[~np.isnan(x)], truth.values[place]
        if np.isnan(y) or len(x) < fewest:
            assert np.isnan([parts["skill"].values[place], parts["spread"].values[place], tail.values[place]]).all()
            continue
        divisor = 2 * len(x) * (len(x) - (estimator == "fair"))
        spread = abs(x[:, None] - x).sum() / divisor
        np.testing.assert_allclose(parts["spread"].values[place], spread, atol=EXACT)
        np.testing.assert_allclose(parts["skill"].values[place], abs(x - y).mean(), atol=EXACT)
        v, w = np.maximum(x, 0.3), max(y, 0.3)
        want = abs(v - w).mean() - abs(v[:, None] - v).sum() / divisor
        np.testing.assert_allclose(tail.values[place], want, atol=EXACT)


def test_statistics_of_missing_members_are_those_of_the_members_left():
    """Three members 1, 2, 3 of six: variance 1, CRPS of a truth of 2 0.6667 - 0.6667 (fair), squared error 0."""
    forecast = xr.DataArray([[1.0, np.nan, 2.0, np.nan, 3.0, np.nan]], dims=("case", "member"))
    truth = xr.DataArray([2.0], dims="case")
    assert float(variance(forecast, nan_policy="omit")) == pytest.approx(1, abs=EXACT)
    assert float(crps(forecast, truth, nan_policy="omit")) == pytest.approx(2 / 3 - 2 / 3, abs=EXACT)
    assert float(crps(forecast, truth, estimator="classical", nan_policy="omit")) == pytest.approx(2 / 9, abs=EXACT)
    energy = energy_score(forecast.expand_dims(x=1), truth.expand_dims(x=1), space="x", nan_policy="omit")
    assert float(energy) == pytest.approx(0, abs=EXACT)
    far = forecast * 0 + 7.0  # all alike: any wrong M shows as a spread that is not 0
    assert float(variance(far, nan_policy="omit")) == 0
    assert float(crps_components(far, truth, nan_policy="omit")["spread"]) == 0


SCORES = (lambda *a, **k: threshold_weighted_crps(*a, threshold=0.3, **k), crps_components)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dask_and_numpy_give_the_same(score, dtype):
    forecast, truth = case(dtype=dtype)
    for dim in ((), None, ["y"]):
        want = score(forecast, truth, dim=dim)
        lazy = score(forecast.chunk(case=1, member=2, y=4), truth.chunk(x=3), dim=dim)
        assert dask.is_dask_collection(lazy)
        xr.testing.assert_allclose(lazy.compute(), want, rtol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_what_does_not_fit_is_refused(score):
    forecast, truth = case()
    for bad in (truth.isel(y=slice(3)), truth.isel(y=0, drop=True), truth.rename(y="row"), truth.expand_dims(member=5)):
        with pytest.raises(DimensionError):
            score(forecast, bad)
    with pytest.raises(EvaluationError, match="at least 2 members"):
        score(forecast.isel(member=[0]), truth)
    with pytest.raises(EvaluationError, match="unknown estimator"):
        score(forecast, truth, estimator="nrg")
    with pytest.raises(EvaluationError, match="real numbers"):
        score(forecast.astype(complex), truth)
    forecast[0, 0, 0, 0] = np.nan
    with pytest.raises(MissingValueError, match="1 of 126"):
        score(forecast, truth, nan_policy="raise")


def test_single_forecasts_and_aliases():
    forecast, truth = case(1)
    error = abs(forecast.isel(member=0) - truth)
    parts = crps_components(forecast.isel(member=0), truth, member_dim=None, estimator="classical", dim=())
    xr.testing.assert_allclose(parts["skill"], error)
    assert (parts["spread"] == 0).all()
    names = {"y": "latitude", "member": "number"}
    for score in SCORES:
        want = score(*case(), dim="y")
        got = score(case()[0].rename(names), case()[1].rename(y="latitude"), dim="latitude")
        xr.testing.assert_equal(got, want)


def test_thresholds_without_meaning_are_refused():
    for threshold, tail in ((np.nan, "above"), (-1, "both"), ([1, 2], "above"), (1, "left")):
        with pytest.raises(EvaluationError, match=r"finite|negative|one threshold|unknown tail"):
            threshold_weighted_crps(*case(), threshold=threshold, tail=tail)
