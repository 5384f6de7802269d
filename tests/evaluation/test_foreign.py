"""Forecasts from elsewhere mean the same cases, whatever their names, files and clocks."""

import numpy as np
import pytest
import xarray as xr

from evaluation.errors import EvaluationError
from evaluation.foreign import conform, open_any
from evaluation.verification import verify

RUNS, FRAMES, INITS, MEMBERS, LEADS, SHAPE = 2, 20, [4, 9], 3, 4, (5, 6)


@pytest.fixture
def pair():
    """A truth and a forecast of it, in the layout of this package."""
    rng = np.random.default_rng(3)
    truth = xr.Dataset(
        {"vorticity": (("trajectory", "time", "y", "x"), rng.standard_normal((RUNS, FRAMES, *SHAPE)))},
        coords={"trajectory": np.arange(RUNS), "time": np.arange(FRAMES)},
    )
    forecast = xr.Dataset(
        {
            "vorticity": (
                ("trajectory", "init_time", "member", "lead_time", "y", "x"),
                rng.standard_normal((RUNS, len(INITS), MEMBERS, LEADS, *SHAPE)),
            )
        },
        coords={"trajectory": np.arange(RUNS), "init_time": INITS, "lead_time": np.arange(1, LEADS + 1)},
    )
    return truth, forecast


def crps(truth, forecast):
    return verify(truth, {"f": forecast}, families=["points"])["crps"].squeeze("method", drop=True)


def test_dates_and_durations_are_counted_in_frames_of_the_truth(pair):
    truth, forecast = pair
    start, hour = np.datetime64("2026-01-01T00", "ns"), np.timedelta64(1, "h")
    dated = truth.assign_coords(time=start + 6 * hour * truth["time"].values)
    weather = forecast.assign_coords(
        init_time=start + 6 * hour * np.array(INITS), lead_time=(6 * hour * np.arange(1, LEADS + 1)).astype("m8[ns]")
    ).rename(init_time="time", lead_time="prediction_timedelta", member="number", y="lat", x="lon")
    expected, found = crps(truth, forecast), crps(dated.rename(y="lat", x="lon"), weather)
    assert found["init_time"].values.tolist() == INITS
    np.testing.assert_array_equal(found, expected)


def test_times_in_seconds_are_counted_in_frames_of_the_truth(pair):
    truth, forecast = pair
    seconds = truth.assign_coords(time=10.0 + 0.25 * truth["time"].values)
    other = forecast.assign_coords(init_time=10.0 + 0.25 * np.array(INITS), lead_time=0.25 * np.arange(1, LEADS + 1))
    np.testing.assert_array_equal(crps(seconds, other), crps(truth, forecast))


def test_a_single_run_and_a_single_case_need_no_dimensions_for_them(pair):
    truth, forecast = pair
    one = forecast.isel(trajectory=1, init_time=0)
    expected = crps(truth, forecast).isel(trajectory=[1], init_time=[0])
    np.testing.assert_array_equal(crps(truth.isel(trajectory=1), one), expected)
    bare = one.drop_vars(["trajectory", "init_time"])
    plain = bare.rename(lead_time="time").assign_coords(time=INITS[0] + np.arange(1, LEADS + 1))
    np.testing.assert_array_equal(crps(truth.isel(trajectory=1, drop=True), plain), expected)


def test_a_forecast_without_members_is_deterministic(pair):
    truth, forecast = pair
    scores = verify(truth, {"f": forecast.isel(member=0)}, families=["points"])
    assert int(scores["deterministic"][0]) == 1
    np.testing.assert_array_equal(scores["crps"], scores["absolute_error"])


def test_names_of_runs_are_those_of_the_truth(pair):
    truth, forecast = pair
    named = [d.assign_coords(trajectory=["a", "b"]) for d in (truth, forecast.isel(trajectory=[0, 1]))]
    swapped = named[1].isel(trajectory=[1, 0])
    np.testing.assert_array_equal(crps(named[0], swapped), crps(truth, forecast))
    with pytest.raises(EvaluationError, match="trajectory 'c', which the truth has not"):
        conform(named[0], {"f": named[1].assign_coords(trajectory=["a", "c"])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, f: (t, f.assign_coords(init_time=[4.5, 9.0])), r"time 4\.5 of the forecast of f is between two"),
        (lambda t, f: (t, f.assign_coords(init_time=np.array(["2026-01-01", "2026-01-02"], "M8[ns]"))), "M8|datetime"),
        (lambda t, f: (t.assign_coords(time=np.arange(FRAMES) ** 1.5), f), "not evenly spaced"),
        (lambda t, f: (t, f.rename(lead_time="horizon").isel(init_time=0, drop=True)), 'no dimension "lead_time"'),
        (lambda t, f: (t, f.isel(init_time=0, drop=True)), "when does it begin"),
        (lambda t, f: (t.rename(time="tick"), f), 'the truth has no dimension "time"'),
        (lambda t, f: (t, f.rename(member="number", x="sample")), "both mean member"),
    ],
)
def test_what_cannot_be_matched_is_refused(pair, change, message):
    truth, forecast = change(*pair)
    with pytest.raises(EvaluationError, match=message):
        conform(truth, {"f": forecast})


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_files_of_any_origin_are_read_lazily_and_renamed(pair, tmp_path, kind):
    truth, forecast = pair
    foreign = forecast.rename(vorticity="omega", member="realisation")
    path = tmp_path / f"f.{kind}"
    if kind == "netcdf":
        foreign.to_netcdf(path)
    else:
        foreign.to_zarr(path, zarr_format=3, consolidated=False)
    opened = open_any(path, rename={"omega": "vorticity", "realisation": "member", "absent": "ignored"})
    assert opened["vorticity"].chunks is not None
    np.testing.assert_array_equal(crps(truth, opened), crps(truth, forecast))
    with pytest.raises(EvaluationError, match='has "lead_time" already'):
        open_any(path, rename={"omega": "lead_time"})


def test_what_is_no_dataset_is_said(tmp_path):
    (tmp_path / "noise.nc").write_bytes(b"no dataset at all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="not a netCDF file"):
        open_any(tmp_path / "noise.nc")
    with pytest.raises(EvaluationError, match="not a Zarr store"):
        open_any(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        open_any(tmp_path / "nowhere.nc")


def test_runs_are_never_matched_by_their_place(pair):
    """Names against numbers, or fewer runs without names: which is which is not guessed."""
    truth, forecast = pair
    with pytest.raises(
        EvaluationError, match="trajectories of the forecast of f are names, those of the truth numbers"
    ):
        conform(truth, {"f": forecast.assign_coords(trajectory=["b", "a"])})
    with pytest.raises(EvaluationError, match="are numbers, those of the truth names"):
        conform(truth.assign_coords(trajectory=["a", "b"]), {"f": forecast})
    with pytest.raises(EvaluationError, match="1 trajectories without a coordinate, the truth 2"):
        conform(truth, {"f": forecast.isel(trajectory=[1]).drop_vars("trajectory")})
    with pytest.raises(EvaluationError, match="does not say which of the 2 trajectories"):
        conform(truth, {"f": forecast.isel(trajectory=1, drop=True)})
    named = [d.assign_coords(trajectory=["a", "b"]) for d in pair]
    one = named[1].sel(trajectory="b")
    np.testing.assert_array_equal(crps(named[0], one), crps(truth, forecast).isel(trajectory=[1]))


def test_lead_times_in_hours_are_counted_in_frames_of_a_dated_truth(pair):
    truth, forecast = pair
    start, hour = np.datetime64("2026-01-01T00", "ns"), np.timedelta64(1, "h")
    dated = truth.assign_coords(time=start + 6 * hour * truth["time"].values)
    hours = xr.Variable("lead_time", 6 * np.arange(1, LEADS + 1), {"units": "hours"})
    other = forecast.assign_coords(init_time=start + 6 * hour * np.array(INITS), lead_time=hours)
    np.testing.assert_array_equal(crps(dated, other), crps(truth, forecast))
    with pytest.raises(EvaluationError, match="in 'hours', in which the times of the truth are not counted"):
        conform(truth, {"f": forecast.assign_coords(lead_time=hours)})


def test_a_selected_lead_is_that_lead_of_every_init_time(pair):
    truth, forecast = pair
    foreign = forecast.rename(init_time="time", lead_time="step").isel(step=1)
    np.testing.assert_allclose(crps(truth, foreign), crps(truth, forecast).isel(lead_time=[1]), rtol=1e-12)


def test_what_is_there_twice_or_on_other_dimensions_is_refused(pair):
    truth, forecast = pair
    with pytest.raises(EvaluationError, match="has init_time 4 more than once"):
        conform(truth, {"f": forecast.assign_coords(init_time=[4, 4])})
    with pytest.raises(EvaluationError, match="has lead_time 1 more than once"):
        conform(truth, {"f": forecast.assign_coords(lead_time=[1, 1, 2, 3])})
    with pytest.raises(EvaluationError, match=r"rename them \(--rename theirs=ours\)"):
        verify(truth, {"f": forecast.rename(member="realisation")})
    with pytest.raises(EvaluationError, match="is a DataArray: a Dataset is needed"):
        verify(truth["vorticity"], {"f": forecast})
