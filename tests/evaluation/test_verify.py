"""Laws of the verification pass: known distributions get the scores that theory says, whatever the chunks."""

import tracemalloc

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import evaluation
from evaluation import summary
from evaluation.errors import EvaluationError
from evaluation.scores import read_scores, write_scores
from evaluation.scoring import exchanged_ranks
from evaluation.verification import common_cases, default_reference, verify

FORECAST = ("trajectory", "init_time", "member", "lead_time", "y", "x")
SIGMA = 2.0


def truth_of(values: np.ndarray, solid: np.ndarray | None = None) -> xr.Dataset:
    """A truth from values (trajectory, time, y, x)."""
    data = {"vorticity": (("trajectory", "time", "y", "x"), values, {"units": "1/tick", "long_name": "vorticity"})}
    if solid is not None:
        data["solid"] = (("trajectory", "y", "x"), np.broadcast_to(solid, (len(values), *solid.shape)))
    coords = {"trajectory": np.arange(len(values)), "time": np.arange(values.shape[1])}
    return xr.Dataset(data, coords=coords)


def forecast_of(values: np.ndarray, inits: list[int], runs: list[int] | None = None) -> xr.Dataset:
    """A forecast from values (trajectory, init_time, member, lead_time, y, x)."""
    coords = {
        "trajectory": np.arange(values.shape[0]) if runs is None else runs,
        "init_time": inits,
        "lead_time": np.arange(1, values.shape[3] + 1),
    }
    return xr.Dataset({"vorticity": (FORECAST, values)}, coords=coords, attrs={"method": "some", "seed": 1})


def gaussian(seed: int = 0, *, runs: int = 6, inits: int = 5, leads: int = 3, n: int = 12) -> tuple:
    """Truth and a maker of ensembles, every value independent N(0, SIGMA^2)."""
    rng = np.random.default_rng(seed)
    truth = truth_of(SIGMA * rng.standard_normal((runs, 4 + inits * leads + leads, n, n)))
    starts = [3 + leads * k for k in range(inits)]

    def ensemble(members: int, spread: float = 1.0) -> xr.Dataset:
        shape = (runs, inits, members, leads, n, n)
        return forecast_of(SIGMA * spread * rng.standard_normal(shape), starts)

    return truth, ensemble


def test_reliable_gaussian_ensembles_score_as_theory_says():
    # E|X - X'| = 2 sigma / sqrt(pi): fair CRPS sigma / sqrt(pi) for any M, classical (1 + 1/M) times that.
    truth, ensemble = gaussian()
    scores = verify(truth, {"few": ensemble(3), "many": ensemble(12)})
    expected = SIGMA / np.sqrt(np.pi)
    points = 6 * 5 * 3 * 12 * 12
    for name, members in (("few", 3), ("many", 12)):
        fair = float(summary.value(scores, "crps", leads=[1, 2, 3]).sel({"method": name}))
        classical = float(scores["crps_classical"].sel({"method": name}).mean())
        tolerance = 5 * SIGMA / np.sqrt(points)  # five standard errors, and a point's score varies less than sigma
        assert fair == pytest.approx(expected, abs=tolerance)
        assert classical == pytest.approx(expected * (1 + 1 / members), abs=tolerance)
        ratio = summary.value(scores, "spread_skill_ratio").sel({"method": name})
        np.testing.assert_allclose(ratio, 1, atol=5 / np.sqrt(points / 3))
        rmse = summary.value(scores, "rmse").sel({"method": name})
        np.testing.assert_allclose(rmse, SIGMA * np.sqrt(1 + 1 / members), rtol=5 / np.sqrt(2 * points / 3))
    assert summary.truth_deviation(scores) == pytest.approx(SIGMA, rel=0.02)


def test_rank_histogram_of_a_reliable_ensemble_lies_in_its_band_and_of_a_narrow_one_does_not():
    truth, ensemble = gaussian(1)
    scores = verify(truth, {"reliable": ensemble(9), "narrow": ensemble(9, spread=0.5)})
    for lead in ([1], [1, 2, 3]):
        flat = summary.rank_frequencies(scores, "reliable", lead)
        inside = (flat["observed"] >= flat["low"]) & (flat["observed"] <= flat["high"])
        assert int(inside.sum()) >= 8  # of 10; each is inside with probability 0.95
        assert float(flat["observed"].mean()) == pytest.approx(1)
        bent = summary.rank_frequencies(scores, "narrow", lead)
        assert bool((bent["observed"][[0, -1]] > bent["high"][[0, -1]]).all())
    assert int(scores["rank_count"].sum()) == 2 * 6 * 5 * 3 * 144


def test_persistence_of_an_autoregression_has_the_error_theory_says():
    # Stationary with variance 1, x_{t+k} - x_t is normal with variance 2 (1 - phi^k), and E|N(0, v)| = sqrt(2 v / pi).
    phi, rng, shape = 0.8, np.random.default_rng(2), (8, 1, 20, 20)
    frames = [rng.standard_normal(shape)]
    for _ in range(40):
        frames.append(phi * frames[-1] + np.sqrt(1 - phi**2) * rng.standard_normal(shape))
    truth = truth_of(np.concatenate(frames, axis=1))
    inits, leads = list(range(0, 36, 4)), np.arange(1, 5)
    last = truth["vorticity"].sel(time=inits).values[:, :, None, None]
    scores = verify(truth, {"persistence": forecast_of(np.repeat(last, len(leads), axis=3), inits)})
    expected = np.sqrt(2 * 2 * (1 - phi**leads) / np.pi)
    crps = summary.value(scores, "crps").sel({"method": "persistence"})
    np.testing.assert_allclose(crps, expected, rtol=0.03)
    assert np.array_equal(scores["crps"], scores["absolute_error"])


def test_a_single_member_has_no_spread_and_no_ranks():
    truth, ensemble = gaussian(3)
    scores = verify(truth, {"single": ensemble(1), "ensemble": ensemble(4)})
    assert np.isnan(summary.value(scores, "spread_skill_ratio").sel({"method": "single"})).all()
    assert int(scores["rank_count"].sel({"method": "single"}).sum()) == 0
    assert summary.ensembles(scores) == ["ensemble"]


def test_statistics_are_those_of_the_plain_functions():
    truth, ensemble = gaussian(4)
    forecast = ensemble(5)
    scores = verify(truth, {"a": forecast}).sel({"method": "a"})
    values, aligned = evaluation.align(forecast, truth, "vorticity")
    over = ["y", "x"]
    direct = {
        "crps": evaluation.crps(values, aligned, dim=over),
        "crps_classical": evaluation.crps(values, aligned, estimator="classical", dim=over),
        "variance": evaluation.variance(values, dim=over),
        "squared_error": evaluation.squared_error(values, aligned, dim=over),
        "bias": evaluation.bias(values, aligned, dim=over),
        "absolute_error": evaluation.mae(values, aligned, dim=over),
    }
    for name, expected in direct.items():
        expected = expected.transpose("trajectory", "init_time", "lead_time")
        np.testing.assert_allclose(scores[name], expected, rtol=1e-12, atol=1e-14, err_msg=name)
    field = evaluation.crps(values, aligned, dim=["init_time"]).transpose("trajectory", "lead_time", "y", "x")
    np.testing.assert_allclose(scores["crps_map"], field, rtol=1e-12)  # six runs: six blocks
    ratio = evaluation.spread_skill_ratio(values, aligned, dim=["trajectory", "init_time", "y", "x"])
    all_scores = verify(truth, {"a": forecast})
    np.testing.assert_allclose(summary.value(all_scores, "spread_skill_ratio")[0], ratio, rtol=1e-12)


@pytest.mark.parametrize("chunks", [{"init_time": 1, "member": 2, "x": 5}, {"trajectory": 4, "lead_time": 1}])
def test_chunks_do_not_change_results(chunks):
    truth, ensemble = gaussian(5)
    forecasts = {"a": ensemble(5), "b": ensemble(4), "climatology": ensemble(3)}
    plain = verify(truth, forecasts)
    lazy = verify(truth.chunk(time=7), {name: f.chunk(chunks) for name, f in forecasts.items()})
    for name in plain.data_vars:
        np.testing.assert_allclose(lazy[name], plain[name], rtol=1e-12, atol=1e-12, err_msg=str(name))


def test_memory_holds_a_few_cases_and_never_a_whole_forecast():
    cases, shape = 24, (1, 1, 8, 4, 48, 48)  # a case is 0.59 MB of float64, the forecast 14 MB
    truth = truth_of(np.zeros((1, cases + 5, 48, 48)))
    blocks = da.random.default_rng(0).standard_normal((1, cases, *shape[2:]), chunks=shape)
    forecast = forecast_of(np.zeros((1, cases, 1, 4, 1, 1)), list(range(cases))).drop_vars("vorticity")
    forecast["vorticity"] = (FORECAST, blocks)
    verify(truth, {"a": forecast.isel(init_time=[0])})  # compile first
    tracemalloc.start()
    try:
        verify(truth, {"a": forecast})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * blocks.nbytes


def test_walls_do_not_count_whatever_they_hold():
    truth, ensemble = gaussian(6)
    forecast = ensemble(4)
    solid = np.zeros((12, 12), bool)
    solid[3:6, 4:8] = True
    walled = truth_of(np.where(solid, np.nan, truth["vorticity"].values), solid)
    clean = verify(truth_of(truth["vorticity"].values, solid), {"a": forecast})
    scores = verify(walled, {"a": forecast.where(xr.DataArray(~solid, dims=("y", "x")), 1e9)})
    for name in ("crps", "rank_count", "variance_map", "truth_mean"):
        np.testing.assert_array_equal(scores[name], clean[name])
    np.testing.assert_array_equal(np.isnan(scores["crps_map"].isel(method=0, block=0, lead_time=0)), solid)


def test_only_cases_that_every_method_has_are_scored():
    truth, ensemble = gaussian(7)
    one, two = ensemble(3), ensemble(3)
    written = np.ones((6, 5), np.int8)
    written[2, 1] = 0
    two = two.assign(cases_written=(("trajectory", "init_time"), written)).isel(
        init_time=slice(1, None), trajectory=[1, 2]
    )
    two["cases_written"] = (("trajectory", "init_time"), written[[1, 2], 1:])
    scores = verify(truth, {"one": one, "two": two})
    assert scores.attrs["cases"] == 2 * 4 - 1
    assert scores["trajectory"].values.tolist() == [1, 2]
    alone = verify(truth, {"one": one}).sel(trajectory=[1, 2], init_time=scores["init_time"])
    used = scores["crps"].sel({"method": "one"}).notnull()
    assert int(used.sum()) == 7 * 3
    np.testing.assert_array_equal(scores["crps"].sel({"method": "one"}).where(used), alone["crps"][0].where(used))
    # the run with three cases weighs three quarters of the one with four
    mean = float(summary.value(scores, "crps", leads=[1, 2, 3]).sel({"method": "one"}))
    assert mean == pytest.approx(float(scores["crps"].sel({"method": "one"}).mean()), rel=1e-12)


def test_leads_are_those_all_methods_have():
    _, ensemble = gaussian(8)
    cases, leads = common_cases({"a": ensemble(2), "b": ensemble(2).isel(lead_time=slice(0, 2))})
    assert len(cases) == 30
    assert leads == [1, 2]


def test_no_common_case_is_an_error_with_counts():
    truth, ensemble = gaussian(9)
    forecasts = {"a": ensemble(2).isel(init_time=[0]), "b": ensemble(2).isel(init_time=[1, 2])}
    with pytest.raises(EvaluationError, match=r"no case .*a 6, b 12.* in common"):
        verify(truth, forecasts)


def test_a_forecast_that_broke_down_is_named_and_not_scored():
    truth, ensemble = gaussian(10)
    forecast = ensemble(3)
    forecast["vorticity"][2, 1, 0, 1, 5, 5] = np.inf
    with pytest.raises(EvaluationError, match=r"'a', trajectory 2, init time 6: 1 of \d+ values"):
        verify(truth, {"a": forecast})


def test_a_valid_time_the_truth_lacks_is_an_error():
    truth, ensemble = gaussian(11)
    with pytest.raises(EvaluationError, match="valid time"):
        verify(truth.isel(time=slice(0, 8)), {"a": ensemble(3)})


def test_names_of_other_communities_are_understood():
    truth, ensemble = gaussian(12)
    forecast = ensemble(3)
    renamed = forecast.rename(lead_time="prediction_timedelta", member="number", y="latitude", x="longitude")
    a, b = verify(truth, {"a": forecast}), verify(truth.rename(y="latitude", x="longitude"), {"a": renamed})
    np.testing.assert_array_equal(a["crps"], b["crps"])


def test_reference_must_be_among_the_methods_and_has_a_default():
    truth, ensemble = gaussian(13)
    with pytest.raises(EvaluationError, match="'persistence' is not among"):
        verify(truth, {"a": ensemble(2)}, reference="persistence")
    assert default_reference(["rvd", "persistence"]) == "persistence"
    assert default_reference(["persistence", "climatology", "rvd"]) == "climatology"
    assert default_reference(["persistence"]) == ""


def test_skill_intervals_are_paired():
    # The same forecast under two names: skill is exactly zero in every resample, though each score varies.
    truth, ensemble = gaussian(14)
    forecast = ensemble(3)
    scores = verify(truth, {"a": forecast, "climatology": forecast})
    skill = summary.metric(scores, "crpss").sel({"method": "a"})
    for name in ("value", "low", "high"):
        np.testing.assert_array_equal(skill[name], 0)
    crps = summary.metric(scores, "crps")
    assert bool(((crps["low"] < crps["value"]) & (crps["value"] < crps["high"])).all())


def test_skill_divides_means_and_does_not_average_ratios():
    truth, ensemble = gaussian(15)
    scores = verify(truth, {"a": ensemble(3, spread=0.5), "climatology": ensemble(3)})
    mean = scores["crps"].mean(["trajectory", "init_time", "lead_time"])
    expected = 1 - float(mean[0]) / float(mean[1])
    found = summary.value(scores, "crpss", leads=[1, 2, 3])
    assert float(found[0]) == pytest.approx(expected, rel=1e-12)


def test_too_few_runs_give_no_interval():
    truth, ensemble = gaussian(16, runs=2)
    crps = summary.metric(verify(truth, {"a": ensemble(3)}), "crps")
    assert np.isfinite(crps["value"]).all()
    assert np.isnan(crps["low"]).all()


def test_many_runs_share_map_blocks():
    truth, ensemble = gaussian(17, runs=20, inits=1, leads=1, n=4)
    scores = verify(truth, {"a": ensemble(3)})
    assert scores.sizes["block"] == 16
    weights = scores["fluid_cases"]
    whole = (scores["crps_map"] * weights).sum("block") / weights.sum("block")
    assert float(whole.mean()) == pytest.approx(float(scores["crps"].mean()), rel=1e-12)


def test_exchanged_ranks_count_the_others_below():
    rng = np.random.default_rng(18)
    pool = rng.standard_normal((5, 3, 40))
    table = exchanged_ranks(pool, rng)
    below = (pool[None] < pool[:, None]).sum(1)  # (element, lead, cell)
    for element in range(5):
        for lead in range(3):
            expected = np.bincount(below[element, lead], minlength=5)
            np.testing.assert_array_equal(table[element, lead], expected)


def test_scores_survive_the_disk_and_are_not_overwritten(tmp_path):
    truth, ensemble = gaussian(19)
    scores = verify(truth, {"a": ensemble(3), "persistence": ensemble(1)})
    path = write_scores(scores, tmp_path / "scores.zarr")
    back = read_scores(path)
    xr.testing.assert_identical(back, scores)
    with pytest.raises(FileExistsError, match="overwrite"):
        write_scores(scores, path)
    write_scores(scores.isel(method=[0]), path, overwrite=True)
    assert read_scores(path).sizes["method"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scores.zarr"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileExistsError, match="not a Zarr store"):
        write_scores(scores, tmp_path / "notes", overwrite=True)


def test_a_failed_write_leaves_the_older_scores(tmp_path, monkeypatch):
    truth, ensemble = gaussian(20)
    scores = verify(truth, {"a": ensemble(3)})
    path = write_scores(scores, tmp_path / "scores.zarr")

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_zarr", broken)
    with pytest.raises(OSError, match="disk full"):
        write_scores(scores, path, overwrite=True)
    monkeypatch.undo()
    xr.testing.assert_identical(read_scores(path), scores)
