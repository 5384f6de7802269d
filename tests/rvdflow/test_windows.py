"""Windows and normalisation: what the network sees of a dataset."""

import numpy as np
import pytest
import torch

from lbm import dataset as store
from lbm.errors import DataError, UsageError
from rvdflow.conditions import Conditions
from rvdflow.frames import Frames, frame_variables, split_trajectories
from rvdflow.noise import MemberNoise, stream_seed
from rvdflow.normalisation import fit_normalisation
from rvdflow.windows import Windows, clips, draw


def frames_of(path):
    return Frames(store.open_dataset(path, chunks=None), ["vorticity"])


def training_values(path):
    """Fluid cells of the training runs, read another way than the code under test does."""
    ds = store.open_dataset(path).load()
    ds = ds.isel(trajectory=ds["split"].values == "train")
    return ds["vorticity"].where(~ds["solid"]).values.astype(np.float64)


def test_the_order_of_variables_is_not_that_in_which_a_store_lists_them(flow):
    one = store.open_dataset(flow, chunks=None)
    names = ("velocity_x", "vorticity", "temperature", "density", "salt")
    for order in (names, names[::-1]):
        listed = one.drop_vars("vorticity").assign(dict.fromkeys(order, one["vorticity"]))
        assert frame_variables(listed) == ("vorticity", "velocity_x", "density", "salt", "temperature")


def test_standard_normalisation_has_mean_0_and_deviation_1_in_the_fluid(flow):
    frames = frames_of(flow)
    fitted = fit_normalisation(frames, [0, 1])
    values = training_values(flow)
    assert fitted.shift[0] == pytest.approx(np.nanmean(values), rel=1e-12)
    assert fitted.scale[0] == pytest.approx(np.nanstd(values), rel=1e-12)


def test_minmax_normalisation_maps_the_range_to_minus_one_and_one(flow):
    fitted = fit_normalisation(frames_of(flow), [0, 1], "minmax")
    values = training_values(flow)
    ends = np.array([np.nanmin(values), np.nanmax(values)])[:, None, None, None]
    np.testing.assert_allclose(fitted.apply(ends).ravel(), [-1, 1], atol=1e-6)  # float32


@pytest.mark.parametrize("kind", ["standard", "minmax"])
def test_normalisation_knows_nothing_of_validation_and_test_runs(flow, build, tmp_path, kind):
    def blow_up(values):
        values[2:] *= 100

    changed = build(tmp_path / "other.zarr", change=blow_up)
    runs = split_trajectories(store.open_dataset(flow), "train")
    assert runs == [0, 1]
    assert fit_normalisation(frames_of(flow), runs, kind) == fit_normalisation(frames_of(changed), runs, kind)


def test_inverting_the_normalisation_gives_physical_values_back(flow):
    frames = frames_of(flow)
    fitted = fit_normalisation(frames, [0, 1])
    physical = frames.read(3, 0, 24)
    np.testing.assert_allclose(fitted.invert(fitted.apply(physical)), physical, atol=1e-8)


def test_cells_inside_an_obstacle_are_given_as_zero(flow):
    frames = frames_of(flow)
    windows = Windows(frames, [0, 1], 7, fit_normalisation(frames, [0, 1]))
    batch = windows.clip([0, 30])
    clip = batch.frames.numpy()
    assert clip.shape == (2, 7, 1, 8, 16)
    assert clip.dtype == np.float32
    assert (clip[..., 2:4, 3:5] == 0).all()
    assert (clip[..., :2, :] != 0).all()
    assert batch.given.fluid.shape == (2, 1, 8, 16)
    np.testing.assert_array_equal(batch.given.fluid == 0, (clip == 0).all(1))


def test_each_window_brings_the_numbers_of_its_own_run_standardised_over_the_training_runs(flow):
    frames = frames_of(flow)
    numbers = np.array([[100.0, 7], [300, 7], [500, 7], [200, 7]])  # (trajectory, name)
    conditions = Conditions(("reynolds", "same"), (200.0, 7.0), (100.0, 1.0))
    windows = Windows(frames, [1, 3], 7, fit_normalisation(frames, [0, 1]), conditions, numbers)
    given = windows.clip([0, len(windows) - 1]).given
    np.testing.assert_array_equal(given.conditions, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(windows.longer(9).clip([16]).given.conditions, [[0, 0]])


def test_chosen_windows_are_spread_over_all(flow):
    frames = frames_of(flow)
    windows = Windows(frames, [0, 1], 7, fit_normalisation(frames, [0, 1]))
    assert windows.spread(100) == list(range(36))
    assert windows.spread(4) == [4, 13, 22, 31]


def test_windows_read_from_disk_equal_windows_in_memory(flow):
    frames = frames_of(flow)
    fitted = fit_normalisation(frames, [0, 1])
    memory, disk = (Windows(frames, [0, 1], 7, fitted, budget=b) for b in (None, 0))
    assert memory.in_memory
    assert not disk.in_memory
    assert "in memory" in memory.describe()
    assert "from disk" in disk.describe()
    pairs = zip(clips(memory, 5, seed=3, first=2, last=19), clips(disk, 5, seed=3, first=2, last=19), strict=True)
    for a, b in pairs:
        assert a.frames.equal(b.frames)
        assert a.given.fluid.equal(b.given.fluid)


@pytest.mark.parametrize("budget", [None, 0])
def test_processes_that_share_a_batch_read_all_its_clips_once(flow, budget):
    frames = frames_of(flow)
    windows = Windows(frames, [0, 1], 7, fit_normalisation(frames, [0, 1]), budget=budget)
    whole = list(clips(windows, 6, seed=3, first=2, last=9))
    parts = [list(clips(windows, 6, seed=3, first=2, last=9, rows=slice(a, a + 2))) for a in (0, 2, 4)]
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert batch.frames.equal(torch.cat([share.frames for share in shares]))


def test_windows_never_cross_from_one_run_into_another(flow):
    frames = frames_of(flow)
    windows = Windows(frames, [0, 1], 7, fit_normalisation(frames, [0, 1]))
    assert len(windows) == 2 * (24 - 7 + 1)
    last_of_first = windows.window(17)
    np.testing.assert_array_equal(last_of_first[-1], windows._runs[0][23])
    np.testing.assert_array_equal(windows.window(18)[0], windows._runs[1][0])


def test_order_of_clips_is_a_function_of_seed_and_step_and_visits_each_window_once_an_epoch():
    together = np.concatenate([draw(12, 5, seed=7, step=s) for s in range(12)])  # 60 = 5 epochs of 12
    for epoch in together.reshape(5, 12):
        assert sorted(epoch) == list(range(12))
    np.testing.assert_array_equal(draw(12, 5, seed=7, step=9), together[45:50])
    assert not np.array_equal(together, np.concatenate([draw(12, 5, seed=8, step=s) for s in range(12)]))


def test_values_that_are_not_finite_are_refused_with_their_place(build, tmp_path):
    def spoil(values):
        values[1, 9, 0, 0] = np.nan

    path = build(tmp_path / "bad.zarr", change=spoil)
    with pytest.raises(DataError, match="vorticity of trajectory 1 is not finite at frame 9"):
        fit_normalisation(frames_of(path), [0, 1])


def test_a_field_that_never_changes_is_refused(build, tmp_path):
    def flatten(values):
        values[:] = 1

    path = build(tmp_path / "flat.zarr", change=flatten)
    with pytest.raises(DataError, match="same value everywhere"):
        fit_normalisation(frames_of(path), [0, 1])


def test_missing_split_variable_or_frames_are_named(flow):
    opened = store.open_dataset(flow)
    with pytest.raises(DataError, match=r"no trajectory in split 'holdout'; it has 1 test, 2 train"):
        split_trajectories(opened, "holdout")
    with pytest.raises(DataError, match="no frames of 'density'; it has vorticity"):
        Frames(opened, ["density"])
    with pytest.raises(DataError, match="a window takes 30 frames, the dataset has 24"):
        Windows(frames_of(flow), [0], 30, fit_normalisation(frames_of(flow), [0]))
    with pytest.raises(UsageError, match=r"frames 20\.\.30"):
        frames_of(flow).read(0, 20, 31)


def test_noise_of_a_member_does_not_depend_on_who_else_is_drawn():
    frame, cases = (1, 4, 8), [(3, 10), (3, 26)]
    together = MemberNoise(1, cases, range(6), frame)
    alone = MemberNoise(1, cases[1:], [4], frame)
    for _ in range(3):
        assert together()[6 + 4].equal(alone()[0])


def test_noise_streams_are_independent_and_standard_normal():
    noise = MemberNoise(0, [(k, 0) for k in range(20)], range(10), (1, 16, 16))().flatten(1).numpy()
    # 200 streams of 256 numbers: correlations between streams scatter with 1/sqrt(256).
    correlation = np.corrcoef(noise)[np.triu_indices(200, 1)]
    assert abs(correlation.mean()) < 5 / np.sqrt(256 * correlation.size)
    assert correlation.std() == pytest.approx(1 / 16, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=5 / np.sqrt(noise.size))
    assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(2 * noise.size))
    assert stream_seed(1, "a", 23) != stream_seed(1, "a", 2, 3) != stream_seed(12, "a", 3)
