"""Natural video as the forecaster sees it: channels, 8-bit values, clips of unequal length."""

import itertools

import numpy as np
import pytest
import xarray as xr

from lbm.errors import DataError, UsageError
from rvdflow.baselines import fit, names
from rvdflow.baselines.persistence import Persistence
from rvdflow.forecaster import Forecaster
from rvdflow.frames import Frames, Places
from rvdflow.normalisation import fit_normalisation
from rvdflow.plan import plan, too_short
from rvdflow.training_data import data_identity
from rvdflow.windows import Windows

LENGTHS = (12, 3, 9, 0, 14, 10, 14, 6)
SPLIT = ("train", "train", "train", "train", "validation", "test", "test", "test")
BEYOND = 255  # value of frames that do not exist; those that do are darker


def video(lengths=LENGTHS, split=SPLIT, channels=("red", "green", "blue"), size=(8, 16), seed=0):
    """Clips of a bright square that wanders over a noisy ground, in memory; frames beyond a clip's length are white."""
    rng = np.random.default_rng(seed)
    frames = np.full((len(lengths), max(lengths), len(channels), *size), BEYOND, np.uint8)
    for k, length in enumerate(lengths):
        frames[k, :length] = rng.integers(20, 60, (length, len(channels), *size))
        for t in range(length):
            x = (3 * k + t) % (size[1] - 3)
            frames[k, t, :, 2:5, x : x + 3] += 100
    return xr.Dataset(
        {
            "frames": (("trajectory", "time", "channel", "y", "x"), frames),
            "length": ("trajectory", np.array(lengths, np.int32)),
            "split": ("trajectory", np.array(split)),
        },
        coords={"channel": np.array(channels)},
    )


def of(dataset):
    return Frames(dataset, ["frames"])


# ------------------------------------------------------------------ clips of unequal length


@pytest.mark.parametrize("length", [1, 3, 9, 10, 14])
def test_places_are_all_windows_that_lie_within_a_clip(length):
    frames = of(video())
    places = Places(frames, range(8), length)
    inside = [(k, t) for k in range(8) for t in range(14) if t + length <= LENGTHS[k]]
    assert list(places) == inside
    assert places[-1] == inside[-1]
    assert places[1:3] == inside[1:3]
    with pytest.raises(IndexError):
        places[len(inside)]


@pytest.mark.parametrize("budget", [None, 0], ids=["in memory", "from disk"])
def test_windows_hold_frames_of_one_clip_and_none_that_does_not_exist(budget):
    dataset = video()
    windows = Windows(of(dataset), range(4), 4, fit_normalisation(of(dataset), [0, 1, 2, 3], "minmax"), budget=budget)
    assert len(windows) == 9 + 6
    stored = dataset["frames"].values
    for index, (k, t) in enumerate((k, t) for k, n in ((0, 9), (2, 6)) for t in range(n)):
        np.testing.assert_allclose(windows.window(index), stored[k, t : t + 4] / 127.5 - 1, atol=1e-6)
    assert windows.clip([0, 9, 14]).frames.shape == (3, 4, 3, 8, 16)
    assert windows.nbytes == (12 + 3 + 9) * 3 * 8 * 16  # a byte each


def test_windows_longer_than_every_clip_are_refused():
    frames = of(video())
    with pytest.raises(DataError, match="takes 13 frames, the dataset has 12 per trajectory"):
        Windows(frames, range(4), 13, fit_normalisation(frames, range(4)))


def test_frames_beyond_the_end_of_a_clip_cannot_be_read():
    with pytest.raises(UsageError, match=r"frames 8\.\.9 asked for, trajectory 2 has 0\.\.8"):
        of(video()).read(2, 8, 10)


@pytest.mark.parametrize("lengths", [(12, 3, 9, 0, 14, 10, 14, 15), (12, 3, 9, 0, 14, 10, 14, -1)])
def test_a_length_that_cannot_be_is_refused(lengths):
    dataset = video().assign(length=("trajectory", np.array(lengths)))
    with pytest.raises(DataError, match="`length` is not a number of frames from 0 to 14"):
        of(dataset)


# ------------------------------------------------------------------ normalisation


def test_eight_bit_values_have_one_range_whatever_occurs_in_them():
    dataset = video()
    found = fit_normalisation(of(dataset), range(4), "minmax")
    ends = found.apply(np.array([0, 255], np.uint8)[:, None, None, None])
    np.testing.assert_array_equal(ends.ravel(), [-1, 1])


def test_standard_normalisation_is_over_all_channels_of_the_training_clips():
    dataset = video()
    found = fit_normalisation(of(dataset), range(4))
    stored = dataset["frames"].values
    values = np.concatenate([stored[k, : LENGTHS[k]].ravel() for k in range(4)]).astype(float)
    assert (found.shift, found.scale) == (pytest.approx((values.mean(),)), pytest.approx((values.std(),)))


# ------------------------------------------------------------------ cases


def test_clips_too_short_for_context_and_lead_are_left_out():
    dataset = video()
    chosen = plan(dataset, of(dataset), members=2, lead=4, context=4)
    assert chosen.trajectories == (5, 6)  # 10 and 14 frames; that of 6 is too short
    assert chosen.init_times == (3,)  # the next, 7, has too few frames after it in the shorter clip
    later = plan(dataset, of(dataset), members=2, lead=4, context=4, init_times=[3, 9])
    assert (later.trajectories, later.init_times) == ((6,), (3, 9))
    assert too_short(dataset, of(dataset), chosen, "test", False) == "left out: 1 of 3 clips with fewer than 8 frames"
    assert too_short(dataset, of(dataset), later, "test", False) == "left out: 2 of 3 clips with fewer than 14 frames"
    with pytest.raises(UsageError, match="need 15 frames, a run has 14"):
        plan(dataset, of(dataset), members=2, lead=11, context=4)


def test_few_cases_of_many_clips_are_spread_over_all_of_them():
    dataset = video(lengths=(8,) * 100, split=("test",) * 100)
    chosen = plan(dataset, of(dataset), members=2, lead=4, context=4, cases=4)
    assert chosen.trajectories == (0, 33, 66, 99)


# ------------------------------------------------------------------ forecasts


class Ramp(Forecaster):
    """Lead k is 127.4 k in every pixel."""

    method, deterministic = "ramp", True

    def roll(self, seen, cases, members, lead, seed):
        values = 127.4 * np.arange(-1, lead - 1, dtype=np.float32)[:, None, None, None]
        yield np.broadcast_to(values, (len(cases), len(members), lead, *seen.frames.shape[2:])).copy()


def test_a_forecast_of_video_has_its_channels_and_whole_grey_levels():
    dataset = video()
    found = Ramp().forecast(dataset, lead=5, context=4)["frames"]
    assert found.dims == ("trajectory", "init_time", "member", "lead_time", "channel", "y", "x")
    assert found.dtype == np.uint8
    assert found["channel"].values.tolist() == ["red", "green", "blue"]
    assert [np.unique(found.sel(lead_time=k)).tolist() for k in range(1, 6)] == [[0], [0], [127], [255], [255]]


def test_persistence_repeats_the_last_frame_in_every_channel():
    dataset = video()
    found = Persistence().forecast(dataset, lead=3, context=2, init_times=[4])["frames"]
    for i, k in enumerate(found["trajectory"].values):
        last = dataset["frames"].values[k, 4]
        np.testing.assert_array_equal(found.values[i, 0, 0], np.broadcast_to(last, (3, *last.shape)))


@pytest.mark.parametrize("method", names())
def test_no_reference_forecast_holds_frames_that_do_not_exist(method):
    lengths = (30, 12, 25, 9, 14, 30, 26, 12)  # frames beyond are white; no other frame has a pixel above 160
    dataset = video(lengths=lengths)
    made = fit(method, dataset, context=4, lead=4)
    found = made.forecast(dataset, members=3, lead=4, context=4, seed=1)["frames"]
    assert found.dtype == np.uint8
    if method in ("persistence", "climatology", "analog"):
        assert found.values.max() <= 160
        assert found.values.min() >= 20
    assert found.values.mean() < 80  # whites would pull fitted means up: half of all stored frames are white


def test_a_climatology_of_clips_has_every_window_once():
    dataset = video(lengths=(6, 3, 7, 4), split=("train", "train", "train", "test"))
    made = fit("climatology", dataset, context=2, lead=2)
    drawn = made.windows(3, 1, range(13), 2, 0)
    assert sorted(drawn) == sorted((k, t) for k, n in ((0, 6), (1, 3), (2, 7)) for t in range(n - 1))


# ------------------------------------------------------------------ what a run is trained on


def test_a_run_knows_its_channels():
    dataset = video()
    assert data_identity(dataset, of(dataset))["channels"] == ["red", "green", "blue"]


def test_a_variable_with_channels_is_learned_alone():
    dataset = video()
    both = dataset.assign(depth=dataset["frames"].isel(channel=0, drop=True))
    with pytest.raises(DataError, match="frames, depth: a variable with channels is learned alone"):
        Frames(both, ["frames", "depth"])


@pytest.mark.parametrize("channels", [("gray",), ("red", "green", "blue")])
def test_channels_are_told_by_name(channels):
    frames = of(video(channels=channels))
    assert [frames.label(i) for i in range(frames.channels)] == [f"frames ({name})" for name in channels]
    parts = dict(frames.split(np.zeros((2, len(channels), 8, 16), np.float32)))
    assert parts["frames"].shape == (2, len(channels), 8, 16)


def test_members_of_a_model_of_colour_video_differ_in_whole_grey_levels(tiny):
    from rvdflow.build import build_model
    from rvdflow.network_forecaster import ResidualDiffusionForecaster

    dataset = video()
    frames, config = of(dataset), tiny()
    model, scale = build_model(config, frames.frame_shape), fit_normalisation(frames, range(4), "minmax")
    forecaster = ResidualDiffusionForecaster(model, scale, sampler=config.model.sampler)
    found = forecaster.forecast(dataset, members=3, lead=2, context=4)["frames"]
    assert found.dtype == np.uint8
    assert found.shape == (3, 1, 3, 2, 3, 8, 16)
    for i, j in itertools.combinations(range(3), 2):
        assert (found.isel(member=i) != found.isel(member=j)).any()
