"""An average taken inside the pass is the mean of the results per point, for every layout, type and NaN policy."""

import itertools
import tracemalloc

import dask
import numpy as np
import pytest
import xarray as xr

import evaluation
from evaluation import EvaluationError, MissingValueError
from evaluation.dims import average
from evaluation.pointwise import ensemble_scores, ensemble_sums

DIMS = ("case", "member", "lead_time", "y", "x")
POINTS = ("case", "lead_time", "y", "x")
NAMES = ("crps", "crps_fair", "variance", "squared_error", "absolute_error", "bias", "brier", "brier_fair")
LIMITS = (130.0, 127.5, -1.0, 300.0)


def fields(dtype=np.float32, members=5, shape=(3, 4, 11, 13), seed=0):
    rng = np.random.default_rng(seed)
    forecast = rng.normal(128, 30, size=(shape[0], members, *shape[1:])).clip(0, 255)
    truth = rng.normal(128, 30, size=shape).clip(0, 255)
    return xr.DataArray(forecast.astype(dtype), dims=DIMS), xr.DataArray(truth.astype(dtype), dims=POINTS)


def with_holes(forecast, truth):
    forecast, truth = forecast.copy(), truth.copy()
    forecast[0, 1, 2, 3, 4] = forecast[2, :, 1, 0, 0] = np.nan
    truth[1, 0, 5, 6] = np.nan
    return forecast, truth


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("members", [1, 2, 5, 32])
def test_averages_are_means_of_the_results_per_point(dtype, members):
    forecast, truth = fields(dtype, members)
    weights = xr.DataArray(np.random.default_rng(1).random((11, 13)) * (np.arange(13) > 2), dims=("y", "x"))
    points = evaluation.ensemble_statistics(forecast, truth, thresholds=LIMITS)
    for dim, weight in itertools.product(
        [POINTS, ("case", "y", "x"), ("lead_time",), ("x",), ("case",)], [None, weights]
    ):
        if weight is not None and dim in (("lead_time",), ("case",)):
            continue
        got = evaluation.ensemble_statistics(forecast, truth, dim=dim, weights=weight, thresholds=LIMITS)
        for name in NAMES:
            want = average(points[name], dim, weight)
            np.testing.assert_allclose(got[name], want.transpose(*got[name].dims), rtol=1e-14, atol=1e-12, err_msg=name)
        ranks = evaluation.ranks_to_histogram(points["rank"], points["ties"], members=members, dim=dim, weights=weight)
        np.testing.assert_allclose(got["rank_histogram"], ranks, rtol=1e-12)


@pytest.mark.parametrize("policy", ["propagate", "omit"])
@pytest.mark.parametrize("dim", [POINTS, ("case", "y"), ("lead_time", "x"), ("case",)])
def test_missing_values_enter_averages_by_the_policy(policy, dim):
    forecast, truth = with_holes(*fields())
    weights = xr.ones_like(truth.isel(lead_time=0), dtype=float)
    weights[1, 5, 6] = 0.0
    options = {"nan_policy": policy, "thresholds": LIMITS}
    points = evaluation.ensemble_statistics(forecast, truth, **options)
    for weight in (None, weights) if dim != ("lead_time", "x") else (None,):
        got = evaluation.ensemble_statistics(forecast, truth, dim=dim, weights=weight, **options)
        for name in NAMES:
            want = average(points[name], dim, weight, policy).transpose(*got[name].dims)
            np.testing.assert_allclose(got[name], want, rtol=1e-12, err_msg=name)
        want = evaluation.ranks_to_histogram(
            points["rank"], points["ties"], members=5, dim=dim, weights=weight, nan_policy=policy
        )
        np.testing.assert_allclose(got["rank_histogram"], want, rtol=1e-12)


def test_infinite_values_without_weight_do_not_count():
    forecast, truth = fields()
    forecast[:, 0, :, 0, 0] = np.inf
    weights = xr.ones_like(truth[0, 0], dtype=float)
    weights[0, 0] = 0
    assert np.isfinite(evaluation.crps(forecast, truth, dim=("y", "x"), weights=weights)).all()
    assert not np.isfinite(evaluation.crps(forecast, truth))


@pytest.mark.parametrize(
    "order", [DIMS, DIMS[::-1], ("y", "member", "x", "case", "lead_time"), ("x", "case", "lead_time", "y", "member")]
)
def test_averages_do_not_depend_on_the_layout(order):
    forecast, truth = fields(np.float64)
    want = evaluation.ensemble_statistics(forecast, truth, dim=("case", "y"), thresholds=LIMITS)
    got = evaluation.ensemble_statistics(forecast.transpose(*order).copy(), truth, dim=("case", "y"), thresholds=LIMITS)
    xr.testing.assert_allclose(got.transpose(*want.dims), want, rtol=1e-13)
    gaps = xr.concat([forecast, forecast], "x").isel(x=slice(0, 13))
    assert not gaps.values.flags.c_contiguous
    xr.testing.assert_allclose(evaluation.ensemble_statistics(gaps, truth, dim=("case", "y"), thresholds=LIMITS), want)


@pytest.mark.parametrize("chunks", [{"case": 1}, {"case": 2, "lead_time": 3, "member": 2}, {"y": 4, "x": 5}, {}])
def test_averages_of_chunks_are_averages_of_the_whole(chunks):
    forecast, truth = with_holes(*fields())
    weights = xr.DataArray(np.linspace(0, 1, 11), dims="y")
    for dim in (POINTS, ("y", "x"), ("case", "y")):
        options = {"dim": dim, "weights": weights, "nan_policy": "omit", "thresholds": LIMITS}
        want = evaluation.ensemble_statistics(forecast, truth, **options)
        for lazy in (
            (forecast.chunk(chunks), truth),
            (forecast, truth.chunk(case=1)),
            (forecast.chunk(chunks), truth.chunk(y=3)),
        ):
            got = evaluation.ensemble_statistics(*lazy, **options)
            assert got["crps"].chunks is not None
            with dask.config.set(scheduler="threads", num_workers=4):
                xr.testing.assert_allclose(got.compute(), want, rtol=1e-13)
    with pytest.raises(MissingValueError):
        evaluation.crps(forecast.chunk(chunks), truth, nan_policy="raise").compute()


def test_a_store_is_read_chunk_by_chunk_and_gives_the_same_numbers(tmp_path):
    forecast, truth = fields()
    data = xr.Dataset({"f": forecast.chunk(case=1), "y": truth.chunk(case=2)}).assign_coords(case=[4, 5, 9])
    data.to_zarr(tmp_path / "store.zarr", zarr_format=2, consolidated=False)
    stored = xr.open_zarr(tmp_path / "store.zarr", chunks=None, consolidated=False)
    for dim in (POINTS, ("y", "x"), ("case", "x")):
        want = evaluation.ensemble_statistics(data["f"].compute(), data["y"].compute(), dim=dim, thresholds=LIMITS)
        xr.testing.assert_allclose(
            evaluation.ensemble_statistics(stored["f"], stored["y"], dim=dim, thresholds=LIMITS), want, rtol=1e-13
        )


def test_no_field_is_allocated_for_an_average():
    forecast, truth = fields(members=8, shape=(4, 4, 128, 128))
    evaluation.crps(forecast, truth)
    for dim in (POINTS, ("y", "x")):
        tracemalloc.start()
        evaluation.ensemble_statistics(forecast, truth, dim=dim)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.05 * forecast.nbytes  # one field of float64 would be 0.25 of it


def test_sums_do_not_depend_on_the_number_of_threads():
    forecast, truth = (a.values for a in fields(shape=(6, 4, 64, 64), members=6))
    for over in ((0, 1, 2, 3), (2, 3), (0, 1), (1, 3)):
        runs = [
            ensemble_sums(forecast, truth, axis=1, over=over, names=("crps", "variance"), ranks=True, threads=t)
            for t in (1, 2, 5)
        ]
        for other in runs[1:]:
            np.testing.assert_array_equal(runs[0].totals["crps"], other.totals["crps"])
            np.testing.assert_array_equal(runs[0].histogram, other.histogram)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("absolute", [True, False])
def test_events_are_counted_as_by_comparison(dtype, absolute):
    forecast, truth = (a.values[0] for a in fields(dtype))
    if dtype != np.uint8:
        forecast, truth = forecast - dtype(128), truth - dtype(128)
    forecast[0, 0, 0, 0] = truth[1, 0, 0] = 20  # on the threshold: not beyond it
    fluid = np.random.default_rng(0).random((11, 13)) < 0.7
    fluid[0, 0] = True
    limits = [20.0, 0.1, -3.0, 140.5, 1e9]
    sums = ensemble_sums(
        forecast, truth, axis=0, over=(1, 2), weights=fluid[None].astype(float), thresholds=limits, absolute=absolute
    )
    counts, observed = sums.events.swapaxes(1, 2)
    size = abs if absolute else (lambda a: a)
    for t, limit in enumerate(limits):
        k = (size(forecast.astype(float)) > limit).sum(0)
        seen = size(truth.astype(float)) > limit
        for lead in range(4):
            np.testing.assert_array_equal(counts[lead, t], np.bincount(k[lead][fluid], minlength=6))
            np.testing.assert_array_equal(observed[lead, t], np.bincount(k[lead][fluid & seen[lead]], minlength=6))


def test_brier_scores_follow_from_the_counts():
    forecast, truth = fields(np.float64, members=6)
    got = evaluation.ensemble_statistics(forecast, truth, thresholds=[120.0, 150.0])
    assert got["brier"].dims == (*POINTS, "threshold")
    for limit in (120.0, 150.0):
        p, seen = (forecast > limit).mean("member"), truth > limit
        one = got.sel(threshold=limit)
        np.testing.assert_allclose(one["brier"], (p - seen) ** 2, atol=1e-15)
        np.testing.assert_allclose(one["brier_fair"], (p - seen) ** 2 - p * (1 - p) / 5, atol=1e-15)
        np.testing.assert_array_equal(one["exceeding"], (forecast > limit).sum("member"))
    lazy = evaluation.ensemble_statistics(forecast.chunk(case=1), truth, thresholds=[120.0, 150.0])
    xr.testing.assert_identical(lazy.compute(), got)


def test_the_fair_brier_score_does_not_depend_on_the_size_of_the_ensemble():
    rng = np.random.default_rng(2)
    truth = xr.DataArray(rng.normal(size=100_000), dims="case")
    members = xr.DataArray(rng.normal(size=(24, 100_000)), dims=("member", "case"))
    p = 0.3085375387259869  # beyond 0.5; the score of the law itself is p (1 - p)
    for size in (2, 5, 24):
        score = evaluation.ensemble_statistics(
            members.isel(member=slice(size)), truth, dim=None, thresholds=[0.5], absolute=False
        )
        assert float(score["brier_fair"][0]) == pytest.approx(p * (1 - p), abs=0.004)


def test_the_fused_average_of_many_8_bit_members_is_exact():
    for members in (255, 256, 257, 300, 600):
        forecast, truth = fields(np.uint8, members, shape=(1, 1, 5, 30))
        want = evaluation.ensemble_statistics(forecast.astype(float), truth.astype(float), thresholds=[130.0])
        got = evaluation.ensemble_statistics(forecast, truth, thresholds=[130.0])
        for name in got:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-11, atol=1e-10, err_msg=name)


def test_thresholds_must_be_numbers():
    with pytest.raises(EvaluationError, match="thresholds must be"):
        evaluation.ensemble_statistics(*fields(), thresholds=[np.nan])
    assert ensemble_sums(np.zeros((2, 3)), np.zeros(3), axis=0, over=(0,), names=["crps"]).events is None
    with pytest.raises(EvaluationError, match="unknown statistics: skill"):
        ensemble_scores(np.zeros((2, 3)), np.zeros(3), axis=0, names=["skill"])
    with pytest.raises(EvaluationError, match="no sums of rank"):
        ensemble_sums(np.zeros((2, 3)), np.zeros(3), axis=0, over=(0,), names=["rank"])
