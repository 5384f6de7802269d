"""The truth met by a forecast is the frame of its valid time, of its own run, and nothing else."""

import dask
import numpy as np
import pytest
import xarray as xr

from evaluation import DimensionError, EvaluationError, align, crps


def truth_data(runs=3, frames=30, dtype=np.float32):
    """A truth whose values spell out where they come from: 1000 run + frame (+ 0.01 y)."""
    run, frame, y = np.ogrid[:runs, :frames, :4]
    values = (1000 * run + frame + 0.01 * y)[..., None] * np.ones(5)
    data = {"vorticity": (("trajectory", "time", "y", "x"), values.astype(dtype), {"units": "lattice"})}
    solid = np.zeros((runs, 4, 5), bool)
    solid[:, 1, 2] = True
    solid[2, 3, :] = True
    return xr.Dataset(
        data | {"solid": (("trajectory", "y", "x"), solid)},
        coords={"trajectory": np.arange(runs), "time": np.arange(frames)},
    )


def forecast_data(runs=(0, 2), inits=(3, 10, 11), leads=(1, 2, 3, 4), members=2, valid=True):
    shape = (len(runs), len(inits), members, len(leads), 4, 5)
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    data = xr.Dataset(
        {"vorticity": (dims, np.zeros(shape, np.float32), {"units": "lattice"})},
        coords={"trajectory": list(runs), "init_time": list(inits), "lead_time": list(leads)},
    )
    return data.assign_coords(valid_time=data["init_time"] + data["lead_time"]) if valid else data


@pytest.mark.parametrize("chunks", [None, {"trajectory": 1, "time": 7}])
@pytest.mark.parametrize("valid", [True, False])
def test_every_lead_meets_the_frame_of_its_valid_time(chunks, valid):
    truth = truth_data() if chunks is None else truth_data().chunk(chunks)
    values, aligned = align(forecast_data(valid=valid), truth, "vorticity", mask_walls=False)
    assert aligned.dims == ("trajectory", "init_time", "lead_time", "y", "x")
    assert (aligned.chunks is None) == (chunks is None)
    for run in (0, 2):
        for init in (3, 10, 11):
            for lead in (1, 2, 3, 4):
                got = aligned.sel(trajectory=run, init_time=init, lead_time=lead)[0]
                np.testing.assert_array_equal(got, np.float32(1000 * run + init + lead))
    np.testing.assert_array_equal(aligned["valid_time"][1], [11, 12, 13, 14])
    assert crps(values, aligned).shape == ()  # dimensions and coordinates are what the scores ask for


def test_labels_not_positions_are_matched():
    truth = truth_data().isel(trajectory=[2, 0, 1], time=slice(None, None, -1)).sel(time=slice(25, 4))
    _, aligned = align(forecast_data(runs=(1, 2), inits=(9,)), truth, "vorticity", mask_walls=False)
    np.testing.assert_array_equal(aligned[:, 0, :, 0, 0], [[1010, 1011, 1012, 1013], [2010, 2011, 2012, 2013]])


def test_lazy_truth_reads_only_the_frames_of_a_case():
    truth = truth_data().chunk(trajectory=1, time=2)
    reads = []

    def spy(block, block_info=None):
        if block_info:
            reads.append(block_info[0]["chunk-location"][:2])
        return block

    truth["vorticity"].data = truth["vorticity"].data.map_blocks(
        spy, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    _, aligned = align(forecast_data(), truth, "vorticity")
    with dask.config.set(scheduler="synchronous"):
        aligned.sel(trajectory=2, init_time=10).compute()
    assert sorted(reads) == [(2, 5), (2, 6), (2, 7)]  # frames 11..14


def test_whole_numbers_stored_as_floats_are_whole_numbers():
    forecast = forecast_data(valid=False).assign_coords(init_time=[3.0, 10.0, 11.0])
    _, aligned = align(forecast, truth_data(), "vorticity", mask_walls=False)
    assert float(aligned[0, 1, 0, 0, 0]) == 11


def test_walls_become_nan_in_the_truth_of_their_own_run():
    for truth in (truth_data(), truth_data().chunk(time=5)):
        _, aligned = align(forecast_data(), truth, "vorticity")
        hidden = np.isnan(aligned.values)
        assert (hidden == hidden[:, :1, :1]).all()
        np.testing.assert_array_equal(hidden[:, 0, 0], truth["solid"].values[[0, 2]])
    assert not np.isnan(align(forecast_data(), truth_data(), "vorticity", mask_walls=False)[1]).any()


def test_walls_of_8_bit_truth_can_be_masked():
    _, aligned = align(forecast_data(), truth_data(runs=3, dtype=np.uint8), "vorticity")
    assert aligned.dtype == np.float32
    assert bool(aligned.isel(y=1, x=2).isnull().all())


def test_other_names_and_channels_are_understood():
    names = {"lead_time": "prediction_timedelta", "member": "number", "y": "latitude", "x": "longitude"}
    forecast = forecast_data(valid=False).expand_dims(channel=3, axis=4).rename(names)
    truth = truth_data().expand_dims(channel=3).rename(y="latitude", x="longitude")
    truth["solid"] = truth["solid"].isel(channel=0)
    values, aligned = align(forecast, truth, "vorticity")
    assert aligned.dims == ("trajectory", "init_time", "lead_time", "channel", "y", "x")
    assert crps(values, aligned, nan_policy="omit") > 0


def test_a_single_run_needs_no_trajectory_dimension():
    _, aligned = align(forecast_data().isel(trajectory=1), truth_data().isel(trajectory=2), "vorticity")
    assert aligned.dims == ("init_time", "lead_time", "y", "x")
    assert float(aligned[0, 0, 0, 0]) == 2004


def on_grid(data, start):
    return data.assign_coords(x=np.arange(start, start + 5))


def refused(forecast=None, truth=None, variable="vorticity"):
    align(forecast or forecast_data(), truth or truth_data(), variable)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forecast": forecast_data(inits=(27,))}, r"no valid time 30 \(2 of 4 wanted are absent; it covers 0 to 29\)"),
        ({"forecast": forecast_data(runs=(1, 5))}, r"no trajectory 5 \(1 of 2"),
        ({"variable": "density"}, 'has no variable "density"; it has: vorticity'),
        ({"truth": truth_data().isel(x=slice(4))}, 'dimension "x" has 5 points in the forecast and 4'),
        ({"truth": truth_data().isel(time=0)}, 'no dimension "time"'),
        ({"forecast": forecast_data().isel(trajectory=0)}, "is on"),
        ({"forecast": forecast_data().isel(lead_time=0)}, 'no dimension "lead_time"'),
        ({"truth": truth_data().rename(y="row")}, "is on"),
        ({"forecast": forecast_data(leads=(0.5, 1, 2, 3), valid=False)}, "whole numbers"),
        ({"truth": truth_data().assign_coords(time=np.arange(30) // 2)}, "repeated values"),
        ({"truth": on_grid(truth_data(), 0), "forecast": on_grid(forecast_data(), 1)}, 'coordinate "x" differs'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(EvaluationError, match=message):
        refused(**arguments)


def test_different_units_are_refused():
    truth = truth_data()
    truth["vorticity"].attrs["units"] = "1/s"
    with pytest.raises(EvaluationError, match='in "lattice" in the forecast and in "1/s" in the truth'):
        refused(truth=truth)


def test_walls_on_another_grid_are_refused():
    truth = truth_data()
    truth["solid"] = (("row", "x"), np.zeros((4, 5), bool))
    with pytest.raises(DimensionError, match="solid has dimensions"):
        refused(truth=truth)
