"""Natural video: channels score as points, one picture is the luma, clips end where they end, protocols by name."""

import importlib.util
from pathlib import Path
from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import properscoring
import pytest
import torch
import xarray as xr

from evaluation import background as climate
from evaluation.alignment import align
from evaluation.colour import Channels
from evaluation.errors import EvaluationError
from evaluation.fvd import FvdNetwork
from evaluation.layout import FAMILIES
from evaluation.lpips import Lpips, build_trunk
from evaluation.protocols import PROTOCOLS
from evaluation.verification import Verification, verify

RUNS, INITS, LEADS, SHAPE = 5, [3, 13], 10, (16, 20)
FRAMES = INITS[-1] + LEADS + 1
ALL = set(FAMILIES) - {"lpips", "fvd"}


def beside(name: str):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(f"evaluation_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


video = beside("video")


@pytest.fixture(scope="module")
def colour():
    """8-bit RGB: frames (trajectory, time, channel, y, x) and members of an ensemble and of a single forecast."""
    rng = np.random.default_rng(0)
    frames = video.clips(rng, RUNS, FRAMES, 3, *SHAPE)
    return frames, video.guesses(rng, frames, INITS, 4, LEADS), video.guesses(rng, frames, INITS, 1, LEADS)


def scored(frames, ensemble, single, names=video.RGB, **options) -> xr.Dataset:
    forecasts = {"a": video.forecast_of(ensemble, INITS, names), "one": video.forecast_of(single, INITS, names)}
    return verify(video.truth_of(frames, names), forecasts, threads=1, **options)


def without_channel(data: xr.Dataset) -> xr.Dataset:
    return data.isel(channel=0, drop=True)


def equal(a: xr.Dataset, b: xr.Dataset, names=None) -> None:
    """The same numbers to the bit, in the statistics `names` (default: all)."""
    for name in names or a.data_vars:
        np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))


@pytest.mark.parametrize("protocol", [None, "rvd"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_one_channel_scores_as_the_same_numbers_do_as_a_field(colour, kind, protocol):
    frames, ensemble, single = (a[..., :1, :, :].astype(kind) for a in colour)
    truth, forecasts = video.truth_of(frames, ["gray"]), {}
    for name, values in (("a", ensemble), ("one", single)):
        forecasts[name] = video.forecast_of(values, INITS, ["gray"])
    options = {"protocol": protocol, "threads": 1, "value_range": (0, 255)}
    got = verify(truth, forecasts, **options)
    field = verify(without_channel(truth), {n: without_channel(f) for n, f in forecasts.items()}, **options)
    own = {"pdf", "pdf_truth"} if kind == np.uint8 or protocol else set()  # in bins of 4 grey levels
    own |= {"ssim"} if kind == np.uint8 and not protocol else set()  # range 0 to 255; of a field in 8 bits what occurs
    assert set(got.data_vars) == set(field.data_vars) >= {n for family in ALL for n in FAMILIES[family]}
    equal(got, field, set(got.data_vars) - own)
    assert got.attrs["units"] == ("grey levels" if kind == np.uint8 or protocol else "1")


def test_grey_stored_as_three_equal_channels_scores_as_one_channel(colour):
    grey = [a[..., :1, :, :] for a in colour]
    one = scored(*grey, names=["gray"])
    three = scored(*(np.repeat(a, 3, axis=-3) for a in grey))
    names = set(one.data_vars) - {"rank_count", "rank_null"}  # three times the points
    for name in names:  # sums over three times as many points: only the order of additions differs
        np.testing.assert_allclose(three[name], one[name], rtol=1e-10, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(three["rank_count"], 3 * one["rank_count"], rtol=1e-12, atol=1e-9)


def test_the_order_of_the_channels_changes_nothing(colour):
    order = [2, 0, 1]
    plain = scored(*colour)
    turned = scored(*(a[..., order, :, :] for a in colour), names=[video.RGB[k] for k in order])
    for name in plain.data_vars:
        if name == "rank_null":  # drawn from other cells
            continue
        np.testing.assert_allclose(turned[name], plain[name], rtol=1e-10, atol=1e-12, err_msg=str(name))


def test_crps_is_that_of_properscoring_over_channels_and_pixels(colour):
    frames, ensemble, single = colour
    scores = scored(frames, ensemble, single, protocol="rvd", families=["points"])
    truth = np.stack([frames[:, i + 1 : i + 1 + LEADS] for i in INITS], axis=1).astype(float)
    crps = properscoring.crps_ensemble(truth, np.moveaxis(ensemble.astype(float), 2, -1))
    np.testing.assert_allclose(scores["crps"].sel({"method": "a"}), crps.mean((-3, -2, -1)), rtol=1e-12)
    maps = crps.mean((1, 3))  # over init times and channels; five runs: five blocks
    np.testing.assert_allclose(scores["crps_map"].sel({"method": "a"}), maps, rtol=1e-12)
    spread = ensemble.var(2, ddof=1).mean((-3, -2, -1))
    np.testing.assert_allclose(scores["variance"].sel({"method": "a"}), spread, rtol=1e-10)
    assert scores["rank_count"].sel({"method": "a"}).sum() == RUNS * len(INITS) * LEADS * 3 * np.prod(SHAPE)


def test_the_picture_is_the_luma():
    pure = 255 * np.eye(3, dtype=np.uint8)[:, :, None, None]  # red, green, blue
    rgb = Channels(("red", "green", "blue"))
    np.testing.assert_allclose(rgb.picture(pure)[:, 0, 0], [76.245, 149.685, 29.07], rtol=1e-6)  # Rec. 601
    turned = Channels(("blue", "red", "green"))
    np.testing.assert_array_equal(turned.picture(pure[:, [2, 0, 1]]), rgb.picture(pure))
    np.testing.assert_array_equal(turned.colours(pure[:, [2, 0, 1]]), rgb.colours(pure))
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(rgb.picture(np.repeat(every, 3, 0)), every[0])
    other = Channels(("near", "far"))
    np.testing.assert_array_equal(other.picture(pure[:, :2])[:, 0, 0], [127.5, 127.5, 0])
    assert other.colours(pure[:, :2]).shape == (3, 1, 1)
    one = Channels(("gray",))
    assert one.picture(every[None]).dtype == np.uint8


def test_families_that_need_one_picture_score_the_luma(colour):
    rgb = Channels(video.RGB)
    luma = [rgb.picture(a) for a in colour]
    coloured = scored(*colour, value_range=(0, 255))
    frames, ensemble, single = (a[..., None, :, :] for a in luma)
    alone = scored(frames, ensemble, single, names=["luma"], value_range=(0, 255))
    names = {n for family in ALL - {"points"} for n in FAMILIES[family]} | {"frechet_physics"}
    equal(coloured, alone, names - {"ssim", "pdf", "pdf_truth"})  # a luma in floats does not say that it has 8 bits
    assert "luma of Rec. 601" in coloured.attrs["picture_of"]
    assert "spectra" in coloured.attrs["picture_of"]
    assert coloured.attrs["channels"] == "red, green, blue"


# ------------------------------------------------------------------ networks


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stages = build_trunk("alex")
    heads = [np.full(n, 0.1, np.float32) for n in (64, 192, 384, 256, 256)]

    def detector(x: torch.Tensor) -> torch.Tensor:  # averages over parts of each colour: 400 numbers
        return torch.nn.functional.adaptive_avg_pool3d(x[0], (1, 12, 12)).flatten()[None, :400]

    return {"lpips": Lpips(stages, heads), "fvd": FvdNetwork(detector)}


def test_networks_see_colours(colour, networks):
    frames, ensemble, _ = colour
    forecast = {"a": video.forecast_of(ensemble, INITS)}
    scores = verify(video.truth_of(frames), forecast, families=["points"], threads=1, **networks)
    valid = np.stack([frames[:, i + 1 : i + 1 + LEADS] for i in INITS], axis=1)
    members, truth = (np.ascontiguousarray(np.moveaxis(a[0, 0], -3, -1)) for a in (ensemble, valid))
    direct = networks["lpips"].ensemble(members, truth)
    np.testing.assert_allclose(scores["lpips"][0, 0, 0], direct.mean(0), rtol=1e-5)  # float32 of the network
    assert np.isfinite(scores["fvd"]).all()
    assert scores.attrs["colours_of"] == "red, green, blue: lpips, fvd"
    grey = Channels(video.RGB).picture(valid[0, 0])
    assert not np.allclose(direct, networks["lpips"].ensemble(members.mean(-1), grey, (0, 255)), rtol=0.01)


def test_channels_in_another_order_reach_networks_as_red_green_blue(colour, networks):
    frames, ensemble, _ = (a[:2] for a in colour)
    order = [2, 0, 1]
    names = [video.RGB[k] for k in order]
    options = {"families": ["points"], "threads": 1, "lpips": networks["lpips"]}
    plain = verify(video.truth_of(frames), {"a": video.forecast_of(ensemble, INITS)}, **options)
    forecast = video.forecast_of(ensemble[..., order, :, :], INITS, names)
    turned = verify(video.truth_of(frames[..., order, :, :], names), {"a": forecast}, **options)
    np.testing.assert_array_equal(turned["lpips"], plain["lpips"])


# ------------------------------------------------------------------ channels and lengths


@pytest.mark.parametrize("names", [("blue", "green", "red"), ("red", "green"), ("0", "1", "2")])
def test_other_channels_are_refused_and_both_are_named(colour, names):
    frames, ensemble, _ = colour
    forecast = video.forecast_of(ensemble[..., : len(names), :, :], INITS, names)
    with pytest.raises(EvaluationError, match=f"forecast: {', '.join(names)}; in the truth: red, green, blue"):
        verify(video.truth_of(frames), {"a": forecast})
    with pytest.raises(EvaluationError, match=r"forecast: none .*; in the truth: red, green, blue"):
        verify(video.truth_of(frames), {"a": without_channel(forecast)})
    with pytest.raises(EvaluationError, match=f"forecast: {', '.join(names)}; in the truth: none"):
        verify(without_channel(video.truth_of(frames)), {"a": forecast})


def test_frames_beyond_the_length_of_a_clip_do_not_exist(colour):
    frames, ensemble, _ = colour
    length = [FRAMES, FRAMES, INITS[0] + LEADS + 1, FRAMES, 0]
    split = ["train", "test", "test", "test", "train"]
    truth = video.truth_of(frames, length=np.array(length, np.int32), split=split)
    whole = video.forecast_of(ensemble, INITS)
    with pytest.raises(
        EvaluationError, match=r"trajectory 2 has 14 frames; .* init time 13 goes on to frame 23 \(3 of"
    ):
        verify(truth, {"a": whole})
    with pytest.raises(EvaluationError, match="trajectory 2 has 14 frames"):
        align(whole, truth, "frames")
    written = np.ones((RUNS, 2), np.int8)
    written[2, 1] = written[4] = 0  # what goes beyond its clip was not forecast
    forecast = whole.assign(cases_written=(("trajectory", "init_time"), written))
    scores = verify(truth, {"a": forecast}, threads=1)
    assert scores.attrs["cases"] == 7
    assert np.isnan(scores["crps"].sel(trajectory=2, init_time=13)).all()
    other = frames.copy()
    for run, end in enumerate(length):
        other[run, end:] = 77
    again = verify(truth.assign(frames=(video.TRUTH, other)), {"a": forecast}, threads=1)
    equal(scores, again)


def test_the_climate_is_that_of_frames_that_exist():
    frames = np.full((3, 10, 3, 12, 12), 200, np.uint8)
    rng = np.random.default_rng(1)
    length = np.array([10, 4, 0])
    for run, end in enumerate(length):
        frames[run, :end] = rng.integers(20, 60, (end, 3, 12, 12))
    truth = video.truth_of(frames, length=length, split=["train"] * 3)
    found = climate.background(truth, truth["frames"])
    assert found.frames == 14
    assert max(found.climatology.max(), *found.thresholds) < 60
    assert found.value_range == (0, 255)
    with pytest.raises(EvaluationError, match="length 0"):
        climate.background(truth.assign(length=("trajectory", [0, 0, 0])), truth["frames"])


class Archive:
    """4000 clips that note which of them are read. (Of the module, not of a test: dask copies what it can pickle.)"""

    shape, dtype, ndim = (4000, 6, 3, 8, 8), np.dtype(np.uint8), 5
    read: ClassVar[list[int]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key):
        self.read.append(key[0].start)
        return np.broadcast_to(np.uint8(key[0].start % 251), (1, *self.shape[1:]))[(slice(None), *key[1:])]


def test_of_an_archive_a_bounded_and_evenly_spread_part_is_read():
    stored = da.from_array(Archive(), chunks=(1, *Archive.shape[1:]))
    Archive.read.clear()  # dask has looked at what kind of array it is
    frames = xr.DataArray(stored, dims=video.TRUTH, coords={"channel": list(video.RGB)})
    split = np.where(np.arange(len(Archive())) % 2, "train", "test")
    truth = xr.Dataset({"frames": frames, "split": ("trajectory", split)})
    with dask.config.set(scheduler="synchronous"):
        found = climate.background(truth, frames)
    read = Archive.read
    assert len(read) == len(set(read)) == climate.FRAMES == found.frames
    gaps = np.diff(sorted(read))
    assert all(k % 2 for k in read)
    assert gaps.max() - gaps.min() <= 2  # one clip more or less between neighbours
    assert found.sampled == "512 of 2000 clips, evenly spread"
    few = climate.clips_taken(list(range(30)), (64, 64))
    assert few == list(range(30))


# ------------------------------------------------------------------ protocols


def clip_forecasts(leads: int, inits=(3, 15), runs: int = 3):
    rng = np.random.default_rng(2)
    frames = video.clips(rng, runs, max(inits) + leads + 1, 1, 12, 12)
    truth = video.truth_of(frames, ["gray"])
    return truth, video.forecast_of(video.guesses(rng, frames, inits, 3, leads), inits, ["gray"])


@pytest.mark.parametrize(
    ("name", "leads", "init"), [("rvd-kth", 12, 15), ("rvd-bair", 16, 3), ("rvd-cityscapes", 16, 3)]
)
def test_protocols_of_datasets_score_their_cases_in_grey_levels(name, leads, init):
    truth, forecast = clip_forecasts(17)
    scores = verify(truth, {"a": forecast}, protocol=name, families=["points"], threads=1)
    assert scores["lead_time"].values.tolist() == list(range(1, leads + 1))
    assert scores["init_time"].values.tolist() == [init]
    assert scores.attrs["cases"] == 3
    assert scores.attrs["cases_left_out"] == 0
    assert scores.attrs["estimator"] == "classical"
    assert scores.attrs["units"] == "grey levels"
    plain = verify(truth, {"a": forecast}, protocol="rvd", families=["points"], threads=1)
    same = plain["crps"].sel(init_time=[init]).sel(lead_time=slice(1, leads))
    np.testing.assert_array_equal(scores["crps"].sel(lead_time=slice(1, 16)), same)


def test_a_protocol_says_what_the_forecasts_hold_instead():
    truth, forecast = clip_forecasts(12, inits=(3, 7))
    with pytest.raises(
        EvaluationError, match=r"leads 1 to 12 after init time 15; .* leads 1 to 12 after init times 3, 7"
    ):
        verify(truth, {"a": forecast}, protocol="rvd-kth")
    with pytest.raises(EvaluationError, match=r"leads 1 to 16 after init time 3; .* leads 1 to 12"):
        verify(truth, {"a": forecast}, protocol="rvd-bair")
    with pytest.raises(EvaluationError, match=f"known: {', '.join(PROTOCOLS)}"):
        verify(truth, {"a": forecast}, protocol="rvd-ucf")


def test_portions_of_a_video_keep_within_the_memory(colour):
    frames, ensemble, _ = colour
    forecasts = {"a": video.forecast_of(ensemble, INITS)}
    case = 35 * LEADS * int(np.prod(SHAPE))  # bytes: 5 pictures of 3 channels in 8 bits, and of one in 32
    little = Verification(video.truth_of(frames), forecasts, memory=4 * 2 * case // 3)  # 4 copies of 2 portions
    assert len(little._lead_blocks(little.methods[0], 1)) == 4
    whole = verify(video.truth_of(frames), forecasts, threads=1)
    cut = little.joined(little.runs(threads=1))
    for name in ("crps", "crps_map", "rank_count", "power", "ssim", "probe_power"):
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-12, atol=1e-12, err_msg=name)
