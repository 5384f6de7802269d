"""Averages, metrics and dimensions: aggregate first, divide last, broadcast never."""

import numpy as np
import pytest
import xarray as xr

import evaluation
from evaluation import DimensionError, EvaluationError, MissingValueError

DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")


def case(members=5, seed=0, **sizes):
    """A forecast and its truth, on labelled coordinates, with a unit."""
    shape = {"trajectory": 2, "init_time": 3, "member": members, "lead_time": 4, "y": 6, "x": 7} | sizes
    rng = np.random.default_rng(seed)
    coords = {"trajectory": [7, 9], "init_time": [3, 5, 8], "lead_time": [1, 2, 3, 4]}
    forecast = xr.DataArray(rng.normal(size=tuple(shape.values())), dims=DIMS, attrs={"units": "1"})
    truth = xr.DataArray(rng.normal(size=forecast.isel(member=0).shape), dims=[d for d in DIMS if d != "member"])
    truth.attrs["units"] = "m/s"
    return forecast.assign_coords(coords), truth.assign_coords(coords)


PAIRED = ["crps", "rmse", "mae", "bias", "squared_error", "spread_skill_ratio", "rank_histogram"]


def test_errors_of_the_ensemble_mean_follow_their_definitions():
    forecast, truth = case()
    error = forecast.mean("member") - truth
    over = ["trajectory", "y", "x"]
    expected = {
        "bias": error.mean(over),
        "mae": abs(error).mean(over),
        "squared_error": (error**2).mean(over),
        "rmse": (error**2).mean(over) ** 0.5,
    }
    for name, want in expected.items():
        got = getattr(evaluation, name)(forecast, truth, dim=over)
        xr.testing.assert_allclose(got, want)
        assert got.name == name
    xr.testing.assert_allclose(evaluation.variance(forecast, dim=over), forecast.var("member", ddof=1).mean(over))


def test_root_is_taken_after_the_average():
    forecast = xr.DataArray([[3.0, 0.0, 0.0, 0.0]], dims=("member", "x"))
    truth = xr.zeros_like(forecast[0])
    assert float(evaluation.rmse(forecast, truth)) == 1.5  # sqrt(9 / 4), not the mean of the roots, 3 / 4


@pytest.mark.parametrize("members", [2, 5, 20])
def test_spread_skill_ratio_of_a_reliable_ensemble_is_one_for_any_size(members):
    rng = np.random.default_rng(1)
    centre = rng.normal(size=40_000)
    truth = xr.DataArray(centre + rng.normal(size=40_000), dims="case")
    forecast = xr.DataArray(centre + rng.normal(size=(members, 40_000)), dims=("member", "case"))
    assert float(evaluation.spread_skill_ratio(forecast, truth)) == pytest.approx(1, abs=0.02)


def test_spread_skill_ratio_divides_the_averages():
    forecast, truth = case()
    got = evaluation.spread_skill_ratio(forecast, truth, dim=["init_time", "y", "x"])
    over = ["init_time", "y", "x"]
    spread = 6 / 5 * forecast.var("member", ddof=1).mean(over)
    error = ((forecast.mean("member") - truth) ** 2).mean(over)
    xr.testing.assert_allclose(got, np.sqrt(spread / error))


def test_spread_skill_ratio_of_a_perfect_mean_is_undefined():
    forecast = xr.DataArray([[-1.0, -2.0], [1.0, 2.0]], dims=("member", "x"))
    assert np.isnan(evaluation.spread_skill_ratio(forecast, xr.zeros_like(forecast[0])))


def test_spread_skill_ratio_with_missing_members_counts_those_present():
    rng = np.random.default_rng(2)
    truth = xr.DataArray(rng.normal(size=60_000), dims="case")
    forecast = xr.DataArray(rng.normal(size=(4, 60_000)), dims=("member", "case"))
    forecast = forecast.where(rng.random(forecast.shape) < 0.6)
    assert float(evaluation.spread_skill_ratio(forecast, truth, nan_policy="omit")) == pytest.approx(1, abs=0.03)
    assert np.isnan(evaluation.spread_skill_ratio(forecast, truth))


@pytest.mark.parametrize("name", PAIRED)
def test_dim_keeps_what_it_does_not_name(name):
    forecast, truth = case()
    score = getattr(evaluation, name)
    extra = ("rank",) if name == "rank_histogram" else ()
    assert score(forecast, truth).dims == extra
    assert score(forecast, truth, dim=...).identical(score(forecast, truth))
    assert score(forecast, truth, dim=()).dims == (*truth.dims, *extra)
    assert score(forecast, truth, dim=["trajectory", "init_time"]).dims == ("lead_time", "y", "x", *extra)
    curve = score(forecast, truth, dim=["trajectory", "init_time", "y", "x"])
    assert curve.dims == ("lead_time", *extra)
    np.testing.assert_array_equal(curve["lead_time"], [1, 2, 3, 4])
    assert score(forecast, truth, dim="x").dims == (*truth.dims[:-1], *extra)


@pytest.mark.parametrize("name", [*PAIRED, "variance"])
def test_dask_and_numpy_give_the_same_numbers_lazily(name):
    forecast, truth = case()
    args = (forecast,) if name == "variance" else (forecast, truth)
    lazy = (forecast.chunk(trajectory=1, member=2, y=5), truth.chunk(init_time=2, x=3))[: len(args)]
    score = getattr(evaluation, name)
    for dim in ((), ["y", "x"], None):
        got, want = score(*lazy, dim=dim), score(*args, dim=dim)
        assert got.chunks is not None
        assert got.dtype == want.dtype
        xr.testing.assert_allclose(got.compute(), want, rtol=1e-13)
        assert got.attrs == want.attrs


def test_zarr_backed_data_is_scored_the_same(tmp_path):
    forecast, truth = case()
    data = xr.Dataset({"f": forecast.astype("f4"), "t": truth.astype("f4")}).chunk(trajectory=1, init_time=1)
    data.to_zarr(tmp_path / "a.zarr", consolidated=False)
    want = evaluation.ensemble_statistics(forecast.astype("f4"), truth.astype("f4"))
    for chunks in ({}, None):
        with xr.open_zarr(tmp_path / "a.zarr", consolidated=False, chunks=chunks) as stored:
            xr.testing.assert_equal(evaluation.ensemble_statistics(stored["f"], stored["t"]).compute(), want)


def test_one_pass_gives_the_same_as_separate_functions():
    forecast, truth = case()
    found = evaluation.ensemble_statistics(forecast, truth)
    one = {"dim": ()}
    xr.testing.assert_equal(found["crps"], evaluation.crps(forecast, truth, estimator="classical", **one))
    xr.testing.assert_equal(found["crps_fair"], evaluation.crps(forecast, truth, **one))
    xr.testing.assert_allclose(found["variance"], evaluation.variance(forecast, **one), rtol=1e-12)
    for name in ("squared_error", "bias"):
        xr.testing.assert_allclose(found[name], getattr(evaluation, name)(forecast, truth, **one), rtol=1e-12)
    xr.testing.assert_allclose(found["absolute_error"], evaluation.mae(forecast, truth, **one), rtol=1e-12)
    np.testing.assert_array_equal(found["rank"], (forecast < truth).sum("member").transpose(*truth.dims))
    assert found.attrs["members"] == 5


def test_results_say_what_they_are():
    forecast, truth = case()
    assert evaluation.crps(forecast, truth).attrs == {
        "long_name": "CRPS (fair)", "units": "m/s", "members": 5, "estimator": "fair",
    }  # fmt: skip
    assert evaluation.squared_error(forecast, truth).attrs["units"] == "(m/s)^2"
    assert evaluation.spread_skill_ratio(forecast, truth).attrs["units"] == "1"


@pytest.mark.parametrize("name", ["crps", "mae", "bias", "squared_error"])
def test_weights_weigh_and_mask(name):
    forecast, truth = case()
    score = getattr(evaluation, name)
    area = xr.DataArray(np.linspace(0, 2, 6), dims="y")
    points = score(forecast, truth, dim=())
    got = score(forecast, truth, dim=["y", "x"], weights=area)
    xr.testing.assert_allclose(got, (points * area).sum(["y", "x"]) / (area.sum() * 7))
    broken = truth.copy()
    broken[..., 0, :] = np.nan  # where the weight is zero
    xr.testing.assert_allclose(score(forecast, broken, dim=["y", "x"], weights=area), got)
    fluid = xr.DataArray(np.ones((6, 7), bool), dims=("y", "x"))
    xr.testing.assert_allclose(score(forecast, truth, weights=fluid), points.mean())


def test_weights_with_missing_points_are_normalised_by_what_remains():
    forecast, truth = case()
    truth[0, 0, 0, 2, 3] = np.nan
    area = xr.DataArray([1.0, 2, 3, 4, 5, 6], dims="y")
    points = evaluation.crps(forecast, truth, dim=(), nan_policy="omit")
    got = evaluation.crps(forecast, truth, dim=["y", "x"], weights=area, nan_policy="omit")
    xr.testing.assert_allclose(got, points.weighted(area).mean(["y", "x"]))
    assert int(np.isnan(evaluation.crps(forecast, truth, dim=["y", "x"], weights=area)).sum()) == 1


def test_weights_of_sum_zero_give_no_score():
    forecast, truth = case()
    assert np.isnan(evaluation.crps(forecast, truth, weights=xr.DataArray(np.zeros(6), dims="y")))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (xr.DataArray(np.ones(3), dims="y"), "6 in scores"),
        (xr.DataArray(np.ones(6), dims="row"), "weights have"),
        (xr.DataArray(-np.ones(6), dims="y"), "not negative"),
        (xr.DataArray(np.full(6, np.nan), dims="y"), "finite"),
        (np.ones(6), "named dimensions"),
    ],
)
def test_unfit_weights_are_refused(weights, message):
    with pytest.raises(EvaluationError, match=message):
        evaluation.crps(*case(), weights=weights)


def test_weights_without_an_average_are_refused():
    with pytest.raises(DimensionError, match="weights need dimensions"):
        evaluation.crps(*case(), dim=(), weights=xr.DataArray(np.ones(6), dims="y"))


def test_omit_leaves_whole_groups_without_truth_undefined():
    forecast, truth = case()
    truth[0] = np.nan
    got = evaluation.crps(forecast, truth, dim=["init_time", "lead_time", "y", "x"], nan_policy="omit")
    np.testing.assert_array_equal(np.isnan(got), [True, False])


@pytest.mark.parametrize("name", [n for n in PAIRED if n != "crps"])
def test_every_score_can_raise_on_missing_values(name):
    forecast, truth = case()
    forecast[0, 0, 0, 0, 0, 0] = np.nan
    with pytest.raises(MissingValueError, match="1 of 1008"):
        getattr(evaluation, name)(forecast, truth, nan_policy="raise")


@pytest.mark.parametrize("name", PAIRED)
def test_mismatched_data_is_never_broadcast(name):
    forecast, truth = case()
    score = getattr(evaluation, name)
    wrong = {
        "dimension .lead_time. has 4 points in forecast and 3 in truth": truth.isel(lead_time=slice(3)),
        "must be the same": truth.isel(lead_time=0, drop=True),
        "coordinate .init_time. differs": truth.assign_coords(init_time=[3, 5, 9]),
        "truth has .trajectory, init_time, lead_time, row, x": truth.rename(y="row"),
        "a Dataset: a DataArray is needed": truth.to_dataset(name="vorticity"),
    }
    for message, bad in wrong.items():
        with pytest.raises(EvaluationError, match=message):
            score(forecast, bad)
    with pytest.raises(DimensionError, match='no dimension "member"'):
        score(forecast.isel(member=0), truth)
    with pytest.raises(DimensionError, match="must be the same"):
        score(forecast, truth.expand_dims(member=5))
    with pytest.raises(DimensionError, match="is for single forecasts"):
        score(forecast, truth, member_dim=None)
    with pytest.raises(EvaluationError, match="real numbers are needed"):
        score(forecast.astype(complex), truth)
    with pytest.raises(DimensionError, match='no dimension "height"'):
        score(forecast, truth, dim="height")


def test_order_of_dimensions_is_free():
    forecast, truth = case()
    want = evaluation.ensemble_statistics(forecast, truth)
    got = evaluation.ensemble_statistics(forecast.transpose(*DIMS[::-1]), truth.transpose("x", ...))
    xr.testing.assert_allclose(got.transpose(*want.dims), want)


def test_names_of_other_communities_are_understood():
    forecast, truth = case()
    want = evaluation.crps(forecast, truth, dim=["lead_time", "x"])
    other = {"lead_time": "prediction_timedelta", "y": "latitude", "x": "longitude"}
    for members in ("number", "realization", "sample"):
        renamed = forecast.rename(other | {"member": members}), truth.rename(other)
        xr.testing.assert_equal(evaluation.crps(*renamed, dim=["prediction_timedelta", "x"]), want)
        xr.testing.assert_equal(evaluation.crps(*renamed, member_dim=members, dim=["lead_time", "longitude"]), want)
    own = evaluation.crps(forecast.rename(member="draw"), truth, member_dim="draw", dim=["lead_time", "x"])
    xr.testing.assert_equal(own, want)


def test_a_sample_dimension_of_the_truth_is_not_taken_for_members():
    forecast, truth = (a.rename(init_time="sample") for a in case())
    assert "sample" in evaluation.crps(forecast, truth, dim=["y", "x"]).dims


def test_two_names_for_members_are_ambiguous():
    forecast, truth = case()
    both = forecast.rename(member="number").expand_dims("realization")
    with pytest.raises(DimensionError, match='two dimensions mean "member"'):
        evaluation.crps(both, truth)


def test_spread_needs_two_members():
    forecast, truth = case(members=1)
    for call in (lambda: evaluation.variance(forecast), lambda: evaluation.spread_skill_ratio(forecast, truth)):
        with pytest.raises(EvaluationError, match="at least 2 members, got 1"):
            call()
    with pytest.raises(EvaluationError, match="no members"):
        evaluation.mae(forecast.isel(member=slice(0)), truth)


def test_skill_score_compares_averages():
    forecast, truth = case()
    worse = truth.expand_dims(member=3) + 5
    dims = ["trajectory", "init_time", "y", "x"]
    score, reference = (evaluation.crps(f, truth, dim=dims) for f in (forecast, worse.assign_coords(forecast.coords)))
    skill = evaluation.skill_score(score, reference)
    xr.testing.assert_allclose(skill, 1 - score / 5)
    assert skill.attrs["units"] == "1"
    assert evaluation.skill_score(0 * score, reference).equals(xr.ones_like(score))
    assert bool(evaluation.skill_score(score, 0 * reference).isnull().all())
    with pytest.raises(DimensionError, match="average both over the same"):
        evaluation.skill_score(score, reference.mean())
    with pytest.raises(DimensionError, match="lead_time"):
        evaluation.skill_score(score, reference.isel(lead_time=slice(2)))


def test_unknown_names_of_the_package_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'crsp'"):
        _ = evaluation.crsp
    assert set(evaluation.__all__) <= set(dir(evaluation))
    assert all(getattr(evaluation, name) for name in evaluation.__all__)
