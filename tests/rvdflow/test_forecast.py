"""Forecasts: independent of how they are portioned, blind to the future, laid out as the format says."""

import json

import numpy as np
import pytest

import rvdflow
from lbm import dataset as store
from lbm.errors import DataError, NumericalError, ResourceError, UsageError
from rvdflow import checkpoint
from rvdflow.forecast import forecast
from rvdflow.forecast_store import MEMBER_DIMS
from rvdflow.forecaster import Forecaster
from rvdflow.frames import Frames
from rvdflow.plan import Plan, plan

SMALL = {"members": 5, "lead": 4, "context": 3, "quiet": True}


@pytest.fixture(scope="module")
def forecaster(trained):
    return rvdflow.load(trained, threads=1)


@pytest.fixture(scope="module")
def written(forecaster, flow, tmp_path_factory):
    """A forecast of the tiny network that no test changes."""
    output = tmp_path_factory.mktemp("forecast") / "forecast.zarr"
    return forecast(forecaster, flow, output, **SMALL, seed=2)


def read(path):
    return store.open_dataset(path).load()


def test_a_forecast_is_laid_out_as_the_format_says(forecaster, written, flow, trained):
    ds, truth = read(written), read(flow)
    assert ds["vorticity"].dims == MEMBER_DIMS
    assert ds["vorticity"].dtype == np.float32
    assert ds["vorticity"].attrs["units"] == truth["vorticity"].attrs["units"]
    assert ds["trajectory"].values.tolist() == [3]  # the only test run
    assert ds["init_time"].values.tolist() == [2, 6, 10, 14, 18]  # context 3, stride = lead = 4, 24 frames
    assert ds["lead_time"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(ds["valid_time"], ds["init_time"] + ds["lead_time"])
    assert ds["vorticity"].encoding["chunks"] == (1, 1, 5, 4, 8, 16)
    assert np.isfinite(ds["vorticity"]).all()
    attrs = ds.attrs
    assert (attrs["method"], attrs["members"], attrs["seed"], attrs["context"]) == ("rvd", 5, 2, 3)
    assert (attrs["sampler"], attrs["sampler_steps"], attrs["deterministic"]) == ("dpmpp", 2, False)
    assert (attrs["objective"], attrs["weights"]) == ("diffusion", "exponential average, decay 0.995")
    assert attrs["residual_inflation"] == round(float(forecaster.model.inflation), 4)
    assert attrs["dataset_sha256"] == store.digest(flow)
    sidecar = checkpoint.checksum_path(checkpoint.find(trained))
    assert attrs["checkpoint_sha256"] == sidecar.read_text().split()[0]
    assert "torch " in attrs["versions"]
    assert json.loads(attrs["config"])["lead"] == 4


def test_members_differ_and_walls_repeat_the_last_frame_seen(written, flow):
    values = read(written)["vorticity"].values
    fluid = np.ones((8, 16), dtype=bool)
    fluid[2:4, 3:5] = False
    assert (values[..., ~fluid] == 0).all()
    assert (values.std(axis=2)[..., fluid] > 0).all()


def test_a_forecast_has_the_physical_scale_of_its_truth(written, flow):
    # An almost untrained network says mean + residual: of the order of the data, not of normalised numbers.
    truth = float(read(flow)["vorticity"].std())
    assert truth / 3 < float(read(written)["vorticity"].std()) < 3 * truth


@pytest.mark.parametrize(
    "portions", [{"members_per_batch": 2, "cases_per_batch": 1}, {"members_per_batch": 5, "cases_per_batch": 4}]
)
def test_a_forecast_does_not_depend_on_its_portions(forecaster, flow, written, tmp_path, portions):
    forecast(forecaster, flow, tmp_path / "b.zarr", **SMALL, seed=2, **portions)
    ours, theirs = read(tmp_path / "b.zarr")["vorticity"], read(written)["vorticity"]
    # Other batch sizes may pick other convolution kernels: rounding of float32, grown over four fed-back frames.
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(theirs.std()))


@pytest.mark.parametrize("leads", [1, 3])
def test_chunks_of_leads_change_neither_bits_nor_scores(forecaster, flow, written, tmp_path, leads):
    from evaluation.verification import verify

    forecast(forecaster, flow, tmp_path / "b.zarr", **SMALL, seed=2, leads_per_chunk=leads)
    ours, theirs = (store.open_dataset(path) for path in (tmp_path / "b.zarr", written))
    assert ours["vorticity"].encoding["chunks"] == (1, 1, 5, leads, 8, 16)
    np.testing.assert_array_equal(ours["vorticity"], theirs["vorticity"])
    truth = store.open_dataset(flow)
    one, other = (verify(truth, {"rvd": ds}, families=["points"])["crps"] for ds in (ours, theirs))
    np.testing.assert_array_equal(one, other)


def test_a_member_or_case_is_the_same_whatever_else_is_forecast(forecaster, flow, written, tmp_path):
    forecast(forecaster, flow, tmp_path / "b.zarr", **SMALL | {"members": 3}, seed=2, init_times=[10])
    ours, theirs = read(tmp_path / "b.zarr")["vorticity"], read(written)["vorticity"]
    same = theirs.sel(init_time=[10], member=[0, 1, 2])
    np.testing.assert_allclose(ours, same, atol=1e-4 * float(theirs.std()))


def test_the_same_command_gives_the_same_bits(forecaster, flow, written, tmp_path):
    forecast(forecaster, flow, tmp_path / "b.zarr", **SMALL, seed=2)
    assert store.digest(tmp_path / "b.zarr") == store.digest(written)


def test_a_forecast_does_not_change_when_the_future_of_the_file_changes(forecaster, build, written, tmp_path):
    def other_future(values):
        values[3, 11:] = np.random.default_rng(0).standard_normal(values[3, 11:].shape)

    changed = build(tmp_path / "flow.zarr", change=other_future)
    forecast(forecaster, changed, tmp_path / "b.zarr", **SMALL, seed=2)
    ours, theirs = read(tmp_path / "b.zarr")["vorticity"], read(written)["vorticity"]
    past = {"init_time": [2, 6, 10]}
    np.testing.assert_array_equal(ours.sel(past), theirs.sel(past))
    assert (ours.sel(init_time=14) != theirs.sel(init_time=14)).any()


def test_a_forecast_depends_on_seed_and_context(forecaster, flow, written, tmp_path):
    theirs = read(written)["vorticity"].sel(init_time=10)
    for name, other in {"seed": {"seed": 3}, "context": {"seed": 2, "context": 5}}.items():
        output = tmp_path / f"{name}.zarr"
        forecast(forecaster, flow, output, **SMALL | {"init_times": [10], "lead": 4} | other)
        assert (read(output)["vorticity"].sel(init_time=10) != theirs).any()


def test_the_notebook_call_gives_what_the_command_writes(forecaster, flow, written):
    ds = forecaster.forecast(store.open_dataset(flow), members=5, lead=4, context=3, seed=2)
    stored = read(written)
    np.testing.assert_array_equal(ds["vorticity"], stored["vorticity"])
    for name in ("trajectory", "init_time", "member", "lead_time", "valid_time"):
        np.testing.assert_array_equal(ds[name], stored[name])
    assert ds.attrs["checkpoint_sha256"] == stored.attrs["checkpoint_sha256"]


def test_more_network_calls_and_another_sampler_are_stamped(trained, flow, tmp_path):
    other = rvdflow.load(trained, sampler="ancestral", steps=3, threads=1)
    forecast(other, flow, tmp_path / "b.zarr", **SMALL, cases=1)
    attrs = store.read_attributes(tmp_path / "b.zarr")
    assert (attrs["sampler"], attrs["sampler_steps"]) == ("ancestral", 3)
    with pytest.raises(UsageError, match="sampler steps: got 0"):
        rvdflow.load(trained, steps=0)
    with pytest.raises(UsageError, match="sampler name: got 'euler'"):
        rvdflow.load(trained, sampler="euler")


# ------------------------------------------------------------------ which cases


def plans(flow, **options):
    opened = store.open_dataset(flow)
    defaults = {"members": 2, "lead": 4, "context": 3}
    return plan(opened, Frames(opened, ["vorticity"]), **defaults | options)


def test_init_times_leave_room_for_context_and_lead(flow):
    every = plans(flow, stride=1).init_times
    assert every == tuple(range(2, 20))  # frames 0..2 seen; 20..23 the last leads
    assert plans(flow, init_times=[9, 5, 9]).init_times == (5, 9)
    for wrong in (1, 20):
        with pytest.raises(UsageError, match=rf"init time {wrong}: with context 3 and lead 4 use 2\.\.19"):
            plans(flow, init_times=[wrong])


def test_cases_are_bounded_and_spread_evenly(flow):
    chosen = plans(flow, split=None, stride=1, cases=12)
    assert chosen.trajectories == (0, 1, 2, 3)
    assert chosen.init_times == (2, 10, 19)  # first, middle, last
    assert len(plans(flow, split=None, cases=3).cases) == 3
    assert len(plans(flow, split="train", stride=1, cases=1000).cases) == 2 * 18


@pytest.mark.parametrize(
    "wrong", [{"members": 0}, {"lead": 0}, {"context": 0}, {"stride": 0}, {"cases": 0}, {"seed": -1}]
)
def test_numbers_out_of_range_are_refused(flow, wrong):
    with pytest.raises(UsageError, match=rf"{next(iter(wrong))} is"):
        plans(flow, **wrong)


def test_forecasts_may_go_on_where_the_data_end(forecaster, flow):
    assert plans(flow, lead=30, beyond=True).init_times == (2,)
    assert plans(flow, lead=30, beyond=True, init_times=[2, 23]).init_times == (2, 23)
    with pytest.raises(UsageError, match="context 25 needs more than the 24 frames"):
        plans(flow, context=25, beyond=True)
    options = {"members": 2, "context": 3, "beyond": True}
    past = forecaster.forecast(store.open_dataset(flow), lead=4, init_times=[22], **options)
    assert past["valid_time"].values.tolist() == [[23, 24, 25, 26]]  # the last frame of the data is 23


def test_more_frames_than_there_are_is_refused(flow):
    with pytest.raises(UsageError, match="context 10 and lead 15 need 25 frames, a run has 24"):
        plans(flow, context=10, lead=15)


def test_long_roll_outs_are_chunked_along_lead_time(build, tmp_path):
    opened = store.open_dataset(build(tmp_path / "long.zarr", times=120))
    frames = Frames(opened, ["vorticity"])
    for lead, leads in ((16, 16), (48, 48), (49, 48), (100, 48)):
        chosen = plan(opened, frames, members=8, lead=lead, context=4)
        assert (chosen.leads_per_chunk, chosen.members_per_batch) == (leads, 8)
        assert chosen.lead_chunks == -(-lead // leads)
    frames.height = frames.width = 128
    wide = plan(opened, frames, members=32, lead=100, context=4)
    assert (wide.leads_per_chunk, wide.members_per_batch) == (32, 32)  # 64 MiB


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_portions_give_every_process_work(flow, processes):
    for cases in (1, 5):
        chosen = plans(flow, members=16, cases=cases, processes=processes)
        assert len(chosen.groups()) * len(chosen.member_chunks()) >= processes


def test_portions_cover_every_case_and_member_once():
    chosen = Plan((1, 4), (3, 7, 11), 7, 4, 3, 0, cases_per_batch=4, members_per_batch=3, leads_per_chunk=4)
    assert [case for group in chosen.groups() for case in group] == [(k, t) for k in (1, 4) for t in (3, 7, 11)]
    assert [m for chunk in chosen.member_chunks() for m in chunk] == list(range(7))


# ------------------------------------------------------------------ refusals


def test_a_forecast_that_cannot_fit_is_refused_before_anything_is_allocated(forecaster, flow, tmp_path):
    with pytest.raises(ResourceError, match=r"one forecast takes about .* GiB, the disk has .* free"):
        forecast(forecaster, flow, tmp_path / "b.zarr", **SMALL | {"members": 10**9})
    with pytest.raises(ResourceError, match="takes"):
        forecaster.forecast(store.open_dataset(flow), members=10**9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"size": (8, 24)}, r"trained on frame size \[8, 16\], the data has \[8, 24\]"),
        ({"interval": 128}, "trained on frame interval 64, the data has 128"),
        ({"variables": ("density",)}, "no frames of 'vorticity'; it has density"),
    ],
)
def test_data_that_disagrees_with_the_checkpoint_is_refused_with_both_values(
    forecaster, build, tmp_path, other, message
):
    path = build(tmp_path / "other.zarr", **other)
    with pytest.raises(DataError, match=message) as caught:
        forecast(forecaster, path, tmp_path / "b.zarr", **SMALL)
    assert caught.value.exit_code == 4


def test_an_existing_forecast_is_not_overwritten_unasked(forecaster, flow, written, tmp_path):
    before = store.digest(written)
    with pytest.raises(UsageError, match="exists"):
        forecast(forecaster, flow, written, **SMALL, seed=2)
    assert store.digest(written) == before


class Exploding(Forecaster):
    method = "exploding"

    def roll(self, seen, cases, members, lead, seed):
        drawn = np.zeros((len(cases), len(members), lead, *seen.frames.shape[2:]), dtype=np.float32)
        drawn[0, 1, 2, 0, 0, 0] = np.inf
        yield drawn


def test_a_member_that_is_not_finite_is_named(flow, tmp_path):
    with pytest.raises(NumericalError, match="member 1 of trajectory 3, init time 2 is not finite at lead 3"):
        forecast(Exploding(), flow, tmp_path / "b.zarr", **SMALL)


def test_several_variables_are_channels_in_one_forecast(build, tiny, tmp_path):
    from rvdflow.train import train

    path = build(tmp_path / "flow.zarr", variables=("velocity_x", "velocity_y"))
    train(path, tmp_path / "run", tiny(steps=2), threads=1, quiet=True)
    forecast(rvdflow.load(tmp_path / "run"), path, tmp_path / "f.zarr", **SMALL, cases=1)
    ds = read(tmp_path / "f.zarr")
    assert {"velocity_x", "velocity_y"} <= set(ds.data_vars)
    assert (ds["velocity_x"] != ds["velocity_y"]).any()
