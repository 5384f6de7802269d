"""The test of Diebold and Mariano against a t statistic written out, scipy, and its own promise under the null."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from evaluation.comparison import diebold_mariano, paired_test, two_sided
from evaluation.errors import DimensionError, EvaluationError


def scores(difference, dims=("init_time",)):
    """Two scores with that difference."""
    b = np.random.default_rng(99).normal(size=np.shape(difference))
    return xr.DataArray(b + difference, dims=dims, attrs={"units": "m"}), xr.DataArray(b, dims=dims)


def hac_by_hand(d, lags, bartlett=True):
    """Corrected statistic and its p value, one term at a time."""
    n, mean = len(d), sum(d) / len(d)
    total = 0.0
    for k in range(-lags, lags + 1):
        c = sum((d[t] - mean) * (d[t - abs(k)] - mean) for t in range(abs(k), n)) / n
        total += c * (1 - abs(k) / (lags + 1) if bartlett else 1)
    h = lags + 1
    statistic = mean / (total / n) ** 0.5 * ((n + 1 - 2 * h + h * (h - 1) / n) / n) ** 0.5
    return statistic, 2 * stats.t.sf(abs(statistic), n - 1)


@pytest.mark.parametrize("lags", [0, 1, 3, 6])
@pytest.mark.parametrize("kernel", ["newey-west", "rectangular"])
def test_statistic_is_the_one_written_out(lags, kernel):
    rng = np.random.default_rng(0)
    d = 0.2 + np.convolve(rng.normal(size=56), np.ones(7) / 7, "valid")
    found = diebold_mariano(*scores(d), lags=lags, kernel=kernel)
    statistic, p = hac_by_hand(d, lags, kernel == "newey-west")
    assert float(found.statistic) == pytest.approx(statistic, rel=1e-9)
    assert float(found.p_value) == pytest.approx(p, rel=1e-8)
    assert float(found.difference) == pytest.approx(d.mean())
    assert float(found.difference / found.standard_error) == pytest.approx(statistic, rel=1e-9)
    assert found.standard_error.attrs["units"] == "m"


def test_without_lags_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 12))
    want = stats.ttest_rel(a, b, axis=1)
    dims = ("lead_time", "init_time")
    found = diebold_mariano(xr.DataArray(a, dims=dims), xr.DataArray(b, dims=dims), lags=0)
    np.testing.assert_allclose(found.statistic, want.statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p_value, want.pvalue, rtol=1e-10)


def test_p_values_are_those_of_students_t():
    t = np.array([0, 1e-3, 0.1, 1, 2, 3, 10, -50])
    for degrees in (1, 2, 3, 4, 5, 30, 500, 20_000):
        np.testing.assert_allclose(
            two_sided(t, np.array(degrees)), 2 * stats.t.sf(abs(t), degrees), rtol=1e-10, atol=1e-14
        )
    assert np.isnan(two_sided(np.array([1.0, np.nan]), np.array([0, 3]))).all()


@pytest.mark.parametrize(("n", "correlated"), [(8, 1), (60, 1), (200, 4)])
def test_equal_forecasts_are_told_apart_as_seldom_as_promised(n, correlated):
    rng = np.random.default_rng(2)
    d = rng.normal(size=(4000, n + correlated - 1))
    d = np.stack([d[:, i : i + n] for i in range(correlated)]).sum(
        0
    )  # moving average: correlated over lags < correlated
    _, _, _, p, _ = paired_test(d, lags=correlated - 1, kernel="rectangular")
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.015)  # standard error 0.0035; few cases leave a small excess
    if correlated > 1:
        _, _, _, naive, _ = paired_test(d, lags=0)
        assert (naive < 0.05).mean() > 0.25  # what neglected correlation does


def test_a_real_difference_is_found():
    rng = np.random.default_rng(3)
    d = -1 + rng.normal(size=(500, 30))
    mean, _, statistic, p, _ = paired_test(d, lags=0)
    assert (p < 0.05).mean() > 0.99
    assert (statistic[mean < 0] < 0).all()


def test_runs_are_the_cases_where_they_are_named():
    rng = np.random.default_rng(4)
    run = rng.normal(size=(6, 1, 1))  # what a run has in common would fake significance
    d = run + 0.1 * rng.normal(size=(6, 40, 3))
    a, b = scores(d, ("trajectory", "init_time", "lead_time"))
    found = diebold_mariano(a, b, run_dim="trajectory")
    want = stats.ttest_1samp(d.mean(1), 0)
    np.testing.assert_allclose(found.statistic, want.statistic, rtol=1e-10)
    np.testing.assert_allclose(found.p_value, want.pvalue, rtol=1e-10)
    assert (found.cases == 6).all()
    assert found.attrs["over"] == "trajectory"
    means = diebold_mariano(a.mean("init_time"), b.mean("init_time"), run_dim="trajectory")
    xr.testing.assert_allclose(means, found)


def test_missing_cases_count_in_neither():
    rng = np.random.default_rng(5)
    d = rng.normal(size=20)
    a, b = scores(d)
    a[3], b[7] = np.nan, np.nan
    found = diebold_mariano(a, b, lags=0)
    want = stats.ttest_1samp(np.delete(d, [3, 7]), 0)
    assert float(found.statistic) == pytest.approx(want.statistic)
    assert float(found.cases) == 18
    nothing = diebold_mariano(a * np.nan, b, lags=0)
    assert np.isnan(nothing.statistic)
    assert np.isnan(nothing.p_value)


def test_gaps_keep_the_distance_between_cases():
    d = np.array([1.0, -1.0, 2.0, np.nan, 0.5, -0.5, 1.5, 0.3])
    known = d[~np.isnan(d)]
    rest = np.where(np.isnan(d), 0, d - known.mean())
    c = [(rest[k:] * rest[: len(d) - k]).sum() / 7 for k in (0, 1)]
    variance = (c[0] + c[1]) / 7  # 2 (1 - 1/2) c_1
    _, error, *_ = paired_test(d, lags=1)
    assert error == pytest.approx(np.sqrt(variance / ((7 + 1 - 4 + 2 / 7) / 7)))


def test_a_negative_variance_falls_back_to_weights_that_allow_none():
    d = np.array([1.0, -1.0] * 10) + 0.1  # c_1 = -c_0 nearly
    _, error, _, _, _ = paired_test(d, lags=1, kernel="rectangular")
    _, other, _, _, _ = paired_test(d, lags=1, kernel="newey-west")
    assert error == other > 0


def test_differences_without_scatter_have_no_statistic():
    for value in (0.0, 0.1):
        found = diebold_mariano(*(xr.DataArray(np.full(10, v), dims="init_time") for v in (1 + value, 1.0)), lags=0)
        assert np.isnan(found.statistic)
        assert float(found.difference) == pytest.approx(value)
    single = diebold_mariano(*scores(np.array([1.0])))
    assert np.isnan(single.p_value)


def test_lazy_scores_and_the_default_lags():
    a, b = scores(np.random.default_rng(6).normal(size=(3, 50)), ("lead_time", "init_time"))
    found = diebold_mariano(a, b)
    assert found.attrs["lags"] == 3  # 4 (50/100)^(2/9) = 3.4
    xr.testing.assert_allclose(diebold_mariano(a.chunk(init_time=7), b.chunk(lead_time=1)).compute(), found)


def test_scores_must_be_paired():
    a, b = scores(np.random.default_rng(7).normal(size=(3, 50)), ("lead_time", "init_time"))
    with pytest.raises(DimensionError):
        diebold_mariano(a, b.isel(lead_time=0))
    with pytest.raises(DimensionError):
        diebold_mariano(a, b.isel(init_time=slice(9)))
    with pytest.raises(DimensionError):
        diebold_mariano(a.assign_coords(init_time=np.arange(50)), b.assign_coords(init_time=np.arange(50) + 1))
    with pytest.raises(DimensionError):
        diebold_mariano(a, b, dim="case")
    with pytest.raises(DimensionError):
        diebold_mariano(a, b, run_dim="trajectory")
    for lags in (-1, 50):
        with pytest.raises(EvaluationError, match="lags"):
            diebold_mariano(a, b, lags=lags)
    with pytest.raises(EvaluationError, match="kernel"):
        diebold_mariano(a, b, kernel="parzen")
