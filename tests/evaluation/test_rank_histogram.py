"""The rank histogram is flat for an ensemble that the truth could belong to, and bends as theory says otherwise."""

import numpy as np
import pytest
import xarray as xr

from evaluation import ensemble_statistics, rank_histogram, ranks_to_histogram


def gaussian(scale, bias=0.0, members=9, points=60_000, seed=0):
    rng = np.random.default_rng(seed)
    truth = xr.DataArray(rng.normal(size=points), dims="case")
    return xr.DataArray(scale * rng.normal(size=(members, points)) + bias, dims=("member", "case")), truth


def test_reliable_ensemble_is_flat():
    counts = rank_histogram(*gaussian(1.0)).values
    expected = 60_000 / 10
    assert counts.sum() == 60_000
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 27.9  # 99.9 % quantile with 9 degrees of freedom


@pytest.mark.parametrize(("scale", "shape"), [(0.5, "u"), (2.0, "dome")])
def test_spread_bends_the_histogram(scale, shape):
    counts = rank_histogram(*gaussian(scale)).values
    outer, inner = counts[[0, -1]].mean(), counts[4:6].mean()
    assert outer > 2 * inner if shape == "u" else inner > 2 * outer


def test_bias_tilts_the_histogram():
    counts = rank_histogram(*gaussian(1.0, bias=0.5)).values
    assert (np.diff(counts) < 0).all()  # members too high: the truth ranks low


def test_extreme_ranks_are_the_ends():
    truth = xr.DataArray([-1.0, 0.5, 9.0, 9.0], dims="x")
    forecast = xr.DataArray(np.tile([[0.0], [1.0], [2.0]], 4), dims=("member", "x"))
    np.testing.assert_array_equal(rank_histogram(forecast, truth), [1, 1, 0, 2])


def test_ties_are_shared_evenly_among_the_ranks_they_could_have():
    forecast = xr.DataArray([[0.0, 5.0], [1.0, 5.0], [1.0, 5.0], [2.0, 5.0]], dims=("member", "x"))
    truth = xr.DataArray([1.0, 5.0], dims="x")
    got = rank_histogram(forecast, truth)
    np.testing.assert_allclose(got, np.array([0, 1, 1, 1, 0]) / 3 + np.full(5, 1 / 5))
    np.testing.assert_array_equal(got["rank"], np.arange(5))


def test_ties_in_8_bit_values_keep_a_reliable_histogram_flat():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 6, size=(8, 50_000)).astype(np.uint8)
    counts = rank_histogram(xr.DataArray(values[1:], dims=("member", "x")), xr.DataArray(values[0], dims="x"))
    np.testing.assert_allclose(counts / 50_000, 1 / 8, atol=0.006)


def test_counts_over_part_of_the_dimensions_add_up_to_the_whole():
    rng = np.random.default_rng(2)
    forecast = xr.DataArray(rng.normal(size=(3, 5, 4, 6)), dims=("lead_time", "member", "y", "x"))
    truth = xr.DataArray(rng.normal(size=(3, 4, 6)), dims=("lead_time", "y", "x"))
    whole, by_lead = rank_histogram(forecast, truth), rank_histogram(forecast, truth, dim=["y", "x"])
    xr.testing.assert_allclose(by_lead.sum("lead_time"), whole)
    for lead in range(3):
        ranks = (forecast[lead] < truth[lead]).sum("member").values.ravel()
        np.testing.assert_array_equal(by_lead[lead], np.bincount(ranks, minlength=6))
    points = rank_histogram(forecast, truth, dim=())
    assert points.shape == (3, 4, 6, 6)
    xr.testing.assert_allclose(points.sum(["lead_time", "y", "x"]), whole)
    found = ensemble_statistics(forecast, truth)
    xr.testing.assert_allclose(ranks_to_histogram(found["rank"], found["ties"], members=5), whole)


def test_missing_values_are_left_out_or_spoil_their_group():
    forecast, truth = gaussian(1.0, points=10)
    forecast[3, 2], truth[7] = np.nan, np.nan
    assert float(rank_histogram(forecast, truth, nan_policy="omit").sum()) == 8
    assert bool(rank_histogram(forecast, truth).isnull().all())
    by_case = rank_histogram(forecast, truth, dim=())
    np.testing.assert_array_equal(np.flatnonzero(by_case.isnull().any("rank")), [2, 7])


def test_weights_count_points_by_their_weight():
    forecast, truth = gaussian(1.0, points=6)
    truth[5] = np.nan
    weights = xr.DataArray([0.0, 1, 2, 0.5, 1, 0], dims="case")
    got = rank_histogram(forecast, truth, weights=weights)
    ranks = (forecast < truth).sum("member").values
    np.testing.assert_allclose(got, np.bincount(ranks, weights=weights, minlength=10))
