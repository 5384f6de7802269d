"""A simulated dataset depends on its configuration alone: not on threads, stops, or lost states."""

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lbm
import lbm.flow
from lbm import dataset, estimate, recording, restart, runner, trajectory
from lbm.config import SimulateConfig, split_counts
from lbm.errors import DataError, NumericalError, ResourceError, UsageError
from lbm.recording import check, parameters, stored_config
from lbm.settings import resolve

SMALL = {
    "size": (32, 64), "diameter": 6.0, "viscosity": 0.02, "frames": 23, "every": 10, "warmup": 2,
    "trajectories": 3, "fields": ("vorticity", "density"), "noise_transverse": 0.1,
}  # fmt: skip


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


class FakeSimulation:
    """The interface of the solver with arithmetic in place of physics; stops or diverges on demand."""

    diverge_at = None

    def __init__(self, p, threads=1):
        self.parameters = p
        self.p, self.tick, self.value = p, 0, np.float64(p.trajectory)
        self.solid = np.zeros((p.ny, p.nx), bool)
        self.solid[:8, :8] = True

    def advance(self, ticks):
        forces = np.zeros((ticks, 1, 2))
        for tick in range(ticks):
            self.value = self.value * 0.999 + 0.1
            self.tick += 1
            forces[tick] = self.tick, self.value
        return forces

    def check(self):
        if self.diverge_at is not None and self.p.trajectory == 1 and self.tick >= self.diverge_at:
            raise NumericalError(f"diverged at tick {self.tick}")

    def finite(self):
        return True

    def fields(self, names, frame_size):
        return {name: np.full(frame_size, self.value, np.float32) for name in names}

    def state(self):
        populations = np.full((9, self.p.ny, self.p.nx), self.value, self.p.dtype)
        few = np.full(2, self.value)
        return {"tick": np.array(self.tick), "value": np.array(self.value), "populations": populations,
                "outlet": few, "noise": -few}  # fmt: skip

    def restore(self, state):
        self.tick, self.value = int(state["tick"]), np.float64(state["value"])


def test_frames_are_the_solvers_fields_at_their_ticks(tmp_path):
    config = SimulateConfig(**SMALL)
    path = lbm.simulate(config, output=tmp_path / "flow.zarr", threads=2)
    ds = lbm.open_dataset(path)
    assert ds["tick"].values.tolist() == [10 * (2 + frame) for frame in range(23)]
    for run in (0, 2):
        simulation = lbm.Simulation(parameters(config.resolved(), run))
        simulation.advance(20)
        for frame in (0, 1, 22):
            simulation.advance(int(ds["tick"][frame]) - simulation.tick)
            expected = simulation.fields(["vorticity", "density"])
            for name in expected:
                np.testing.assert_array_equal(ds[name][run, frame].values, expected[name])
    assert not np.array_equal(ds["vorticity"][0, -1], ds["vorticity"][1, -1])
    np.testing.assert_array_equal(ds["solid"][1].values, simulation.solid)
    assert ds["split"].values.tolist() == ["train", "validation", "test"]
    assert ds["reynolds"].values == pytest.approx(0.1 * 6 / 0.02)
    assert stored_config(path) == config.resolved()


def test_zeros_inside_obstacles_have_no_sign(tmp_path):
    """The sign of what the mask multiplies by zero would depend on whether the run was ever restarted."""
    path = lbm.simulate(output=tmp_path / "flow.zarr", **{**SMALL, "fields": ("vorticity", "velocity_x")})
    ds = lbm.open_dataset(path)
    for name in ("vorticity", "velocity_x"):
        frames = ds[name].values
        assert (frames[:, :, ds["solid"].values[0]] == 0).all()
        assert not np.signbit(frames[frames == 0]).any()


def test_the_number_of_threads_changes_no_byte(tmp_path):
    paths = [lbm.simulate(output=tmp_path / f"{n}.zarr", threads=n, **SMALL) for n in (1, 3)]
    assert files_of(paths[0]) == files_of(paths[1])


def test_box_filtered_frames_are_means_over_cells(tmp_path):
    fine = lbm.open_dataset(lbm.simulate(output=tmp_path / "fine.zarr", **SMALL))
    coarse = lbm.open_dataset(lbm.simulate(output=tmp_path / "coarse.zarr", frame_size="16x32", **SMALL))
    means = fine["vorticity"].values.astype(float).reshape(3, 23, 16, 2, 32, 2).mean(axis=(3, 5))
    # float32 rounding of four values of order 1e-2
    np.testing.assert_allclose(coarse["vorticity"].values, means, atol=1e-8)
    cells = fine["solid"].values.reshape(3, 16, 2, 32, 2)
    np.testing.assert_array_equal(coarse["solid"].values, cells.all(axis=(2, 4)))
    assert coarse.attrs["cells_per_pixel"] == 2


@pytest.mark.parametrize("stops", [(37,), (20, 60, 200), (1, 2, 3, 100)])
def test_stopped_runs_resume_to_the_same_bytes(tmp_path, monkeypatch, stops):
    monkeypatch.setattr(lbm.flow, "Simulation", FakeSimulation)
    monkeypatch.setattr(lbm.flow, "check_parameters", lambda p: [])
    monkeypatch.setattr(trajectory, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(trajectory, "SLICE", 4 * 32 * 64)
    whole = lbm.simulate(output=tmp_path / "whole.zarr", **SMALL)
    path = tmp_path / "flow.zarr"
    advance_to = trajectory.Trajectory._advance_to
    for stop in stops:

        def halted(run, tick, stop=stop):  # as if a signal came at tick `stop`
            return advance_to(run, min(tick, stop)) and tick <= stop

        monkeypatch.setattr(trajectory.Trajectory, "_advance_to", halted)
        with pytest.raises(DataError, match="not finished"):
            lbm.simulate(output=path, resume=True, threads=2, **SMALL)
    monkeypatch.setattr(trajectory.Trajectory, "_advance_to", advance_to)
    lbm.simulate(output=path, resume=True, threads=2)
    assert files_of(path) == files_of(whole)


def test_a_divergence_keeps_the_good_frames_and_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(lbm.flow, "Simulation", FakeSimulation)
    monkeypatch.setattr(FakeSimulation, "diverge_at", 85)
    path = tmp_path / "flow.zarr"
    with pytest.raises(NumericalError, match=r"diverged at tick 90 .*7 good frames"):
        lbm.simulate(output=path, threads=2, **SMALL)
    ds = lbm.open_dataset(path, allow_incomplete=True)
    assert ds["frames_written"][1] == 7
    assert np.isfinite(ds["vorticity"][1, :7]).all()
    assert np.isnan(ds["vorticity"][1, 7:]).all()


@pytest.mark.parametrize(("every", "warmup"), [(1000, 1), (128, 5), (7, 300)])
def test_a_divergence_ends_a_run_within_a_hundred_ticks(tmp_path, monkeypatch, every, warmup):
    """However far away the next frame is: populations that are not finite are looked for all the time."""
    advance, last = lbm.flow.Simulation.advance, {}

    def spoil(self, ticks):
        forces = advance(self, ticks)
        last["tick"] = self.tick
        if self.tick >= 600 and "spoilt" not in last:
            last["spoilt"] = self.tick
            self._f[len(self._f) // 2] = np.nan  # one value; a NaN spreads a cell a tick
        return forces

    path = tmp_path / "flow.zarr"
    options = {**SMALL, "every": every, "warmup": warmup, "frames": 50, "trajectories": 1, "size": (64, 96)}
    writer = recording.create(SimulateConfig(**options).resolved(), path)
    monkeypatch.setattr(lbm.flow.Simulation, "advance", spoil)
    run = trajectory.Trajectory(SimulateConfig(**options).resolved(), writer, 0)
    with writer, pytest.raises(NumericalError, match="diverged"):
        run.run()
    assert last["tick"] - last["spoilt"] <= 100
    frames = int(writer.array("frames_written")[0])
    stored = writer.array("vorticity")[0]
    assert frames == run.frames
    assert np.isfinite(stored[:frames]).all()
    assert np.isnan(stored[frames:]).all()


def test_forces_strouhal_number_and_states_are_those_of_the_solver(tmp_path):
    options = {**SMALL, "warmup": 0, "forces_every": 5, "save_states": 4}
    ds = lbm.open_dataset(lbm.simulate(output=tmp_path / "flow.zarr", **options))
    simulation = lbm.Simulation(parameters(SimulateConfig(**options).resolved(), 2))
    assert ds["state_time"].values.tolist() == [0, 4, 8, 12, 16, 20]
    for frame in range(21):
        if frame % 4 == 0:
            state, at = simulation.state(), ds.isel(trajectory=2, state_time=frame // 4)
            np.testing.assert_array_equal(at["populations"].values, state["populations"])
            np.testing.assert_array_equal(at["state_outlet"].values, state["outlet"])
            np.testing.assert_array_equal(at["state_noise"].values, state["noise"])
        forces = simulation.advance(10)[:, 0] * 2 / (0.1**2 * 6.0)  # 2 F / (U^2 L)
        recorded = ds.isel(trajectory=2).sel(force_time=[frame * 10 + 5, frame * 10 + 10])
        np.testing.assert_allclose(recorded["drag_coefficient"], forces[[4, 9], 0], rtol=1e-6)
        np.testing.assert_allclose(recorded["lift_coefficient"], forces[[4, 9], 1], rtol=1e-6, atol=1e-9)
    assert np.isnan(ds["drag_coefficient"].sel(force_time=slice(None, 0))).all()
    assert np.isfinite(ds["drag_coefficient"].sel(force_time=slice(1, None))).all()
    assert np.isnan(ds["strouhal"]).all()  # 230 ticks: it has not begun to shed
    assert "strouhal" not in ds.attrs


def test_a_shedding_wake_has_its_strouhal_number_in_the_attributes(tmp_path):
    """The mean over runs and its standard error; St of a cylinder at Re 100 is 0.16, more in this narrow channel."""
    path = lbm.simulate(
        output=tmp_path / "flow.zarr", size="48x96", diameter=8.0, reynolds=100.0, frames=40, every=128, warmup=40,
        trajectories=2, forces_every=4, save_states=0,
    )  # fmt: skip
    ds = lbm.open_dataset(path)
    numbers, errors = ds["strouhal"].values, ds["strouhal_uncertainty"].values
    assert ((numbers > 0.16) & (numbers < 0.26)).all()
    assert (errors < 0.02 * numbers).all()
    assert ds.attrs["strouhal"] == pytest.approx(numbers.mean())
    assert ds.attrs["strouhal_uncertainty"] == pytest.approx(np.hypot(*errors) / 2)
    dataset.check(path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_restart_state_costs_time_but_no_bits(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(lbm.flow, "Simulation", FakeSimulation)
    whole = lbm.simulate(output=tmp_path / "whole.zarr", **SMALL)
    path = tmp_path / "flow.zarr"
    monkeypatch.setattr(FakeSimulation, "diverge_at", 225)
    with pytest.raises(NumericalError):
        lbm.simulate(output=path, **SMALL)
    state = path / "restart" / "trajectory-1.npz"
    restart.save(state, {"tick": np.array(100), "value": np.array(3.0)}, 8)
    raw = bytearray(state.read_bytes())
    raw[100] ^= 4
    if damage == "remove":
        state.unlink()
    else:
        state.write_bytes({"flip": raw, "truncate": raw[:90], "empty": b""}[damage])
    monkeypatch.setattr(FakeSimulation, "diverge_at", None)
    lbm.simulate(output=path, resume=True)
    assert files_of(path) == files_of(whole)


def test_restart_states_are_never_unpickled(tmp_path):
    file = tmp_path / "state.npz"
    with pytest.raises(ValueError, match="allow_pickle"):
        restart.save(file, {"tick": np.array([{}], dtype=object)}, 1)
    assert restart.load(file) is None


def test_resuming_needs_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(lbm.flow, "Simulation", FakeSimulation)
    path = lbm.simulate(output=tmp_path / "flow.zarr", **SMALL)
    assert lbm.simulate(output=path, resume=True) == path
    assert lbm.simulate(output=path, resume=True, **SMALL) == path
    with pytest.raises(UsageError, match="begun with frames = 23, now it is 24"):
        lbm.simulate(output=path, resume=True, **{**SMALL, "frames": 24})
    with pytest.raises(UsageError, match="one of them"):
        lbm.simulate(output=path, resume=True, overwrite=True)
    with pytest.raises(UsageError, match="--overwrite"):
        lbm.simulate(output=path, **SMALL)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.01, 0.1, 160.0)),
        ({"reynolds": 200.0}, (0.008, 0.1, 200.0)),
        ({"reynolds": 100.0, "viscosity": 0.005}, (0.005, 0.03125, 100.0)),
        ({"reynolds": 100.0, "inflow_velocity": 0.05}, (0.008, 0.05, 100.0)),
        ({"viscosity": 0.02, "inflow_velocity": 0.05}, (0.02, 0.05, 40.0)),
        ({"viscosity": 0.02, "inflow_velocity": 0.05, "reynolds": 40.0}, (0.02, 0.05, 40.0)),
        ({"obstacle": "none", "viscosity": 0.02}, (0.02, 0.1, None)),
    ],
)
def test_two_of_viscosity_velocity_and_reynolds_give_the_third(given, expected):
    """Re = U D / nu with D = 16, an eighth of 128 cells."""
    config = SimulateConfig(**given).resolved()
    assert (config.viscosity, config.inflow_velocity, config.reynolds) == pytest.approx(expected)
    assert config.resolved() == config
    assert SimulateConfig.model_validate(json.loads(config.text())).resolved() == config


def test_contradictions_are_one_clear_line():
    with pytest.raises(UsageError, match=r"--reynolds 50 contradicts.*give 160"):
        SimulateConfig(reynolds=50, viscosity=0.01, inflow_velocity=0.1).resolved()
    with pytest.raises(UsageError, match="needs an obstacle"):
        SimulateConfig(reynolds=50, obstacle="none").resolved()


@settings(deadline=None)
@given(
    st.integers(1, 200),
    st.sampled_from([(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.34, 0.33, 0.33), (0.0, 0.0, 1.0)]),
)
def test_shares_become_whole_runs(trajectories, split):
    counts = split_counts(split, trajectories)
    assert sum(counts) == trajectories
    for count, share in zip(counts, split, strict=True):
        assert (count == 0) == (share == 0) or trajectories < 3
        # rounding, and the runs given to the two others so that they have one at all
        assert abs(count - share * trajectories) <= 2


@pytest.mark.parametrize(
    ("split", "trajectories", "counts"),
    [
        ("0.8,0.1,0.1", 10, (8, 1, 1)),
        ("0.8,0.1,0.1", 5, (3, 1, 1)),
        ("0.8,0.1,0.1", 1, (1, 0, 0)),
        ("0.8,0.1,0.1", 2, (1, 0, 1)),
        ("12,2,2", None, (12, 2, 2)),
        ("16,3,5", 24, (16, 3, 5)),
        ("1,0,0", 4, (4, 0, 0)),
    ],
)
def test_splits_are_shares_or_counts(split, trajectories, counts):
    config = SimulateConfig(split=split, trajectories=trajectories).resolved()
    assert config.split == counts
    assert len(config.splits) == config.trajectories == sum(counts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "12,2,2", "trajectories": 10}, "counts 16 runs, --trajectories says 10"),
        ({"split": "0.5,0.1,0.1"}, "sum to 1"),
        ({"split": "0,0,0"}, "no runs"),
        ({"split": "1,2"}, "split"),
        ({"size": "64"}, "NYxNX"),
        ({"size": "4x4"}, "greater than or equal to 8"),
        ({"size": "64x128", "frame_size": "33x64"}, "divided by one whole number"),
        ({"size": "64x128", "frame_size": "32x32"}, "divided by one whole number"),
        ({"fields": "vorticity,pressure"}, "pressure"),
        ({"fields": "density,density"}, "twice"),
        ({"frames": 0}, "frames"),
        ({"viscosity": -1}, "viscosity"),
        ({"viscosity": float("nan")}, "viscosity"),
        ({"noise_time": 0}, "noise"),
        ({"obstacle": "elephant"}, "cylinder"),
        ({"trajectories": 10**9}, "trajectories"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        resolve(SimulateConfig, file=None, sets=[], flags=given).resolved()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"size": (10**6, 10**6)}, UsageError, r"GiB of memory.*--size"),
        ({"frames": 10**12}, UsageError, "GiB"),
        ({"frames": 10**9, "size": (64, 64)}, (UsageError, ResourceError), "GiB|files"),
        ({"trajectories": 10**6, "frames": 10**6}, (UsageError, ResourceError), "GiB"),
    ],
)
def test_huge_requests_are_refused_before_anything_is_made(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        lbm.simulate(output=tmp_path / "flow.zarr", **given)
    assert list(tmp_path.iterdir()) == []


def test_unstable_settings_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"[Mm]ach|velocity"):
        lbm.simulate(output=tmp_path / "flow.zarr", inflow_velocity=0.5)
    assert list(tmp_path.iterdir()) == []


def test_too_few_frames_in_a_shedding_period_are_warned_about():
    """Williamson: St = 0.1864 at Re 160, so D/(St U) = 858 ticks; 4 frames need at most every 214."""
    fine, coarse = (SimulateConfig(every=every).resolved() for every in (214, 260))
    assert not [text for text in check(fine) if "shedding" in text]
    (text,) = [text for text in check(coarse) if "shedding" in text]
    assert "3.3 frames" in text
    assert "--every to 214 or less" in text


def test_dry_run_prints_settings_that_simulate_accepts(tmp_path):
    report = runner.dry_run(SimulateConfig(reynolds=120, forces_every=0), tmp_path / "flow.zarr", threads=2)
    file = tmp_path / "config.toml"
    file.write_text(runner.dry_run_text(report))
    again = resolve(SimulateConfig, file=file, sets=[], flags={})
    assert again.resolved() == SimulateConfig(reynolds=120, forces_every=0).resolved()
    assert report["disk_bytes"] == pytest.approx(10 * 1000 * 128 * 128 * 4 * estimate.COMPRESSED, rel=0.01)
    assert not (tmp_path / "flow.zarr").exists()


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[2].glob("configs/lbm/*.toml")), ids=lambda f: f.stem)
def test_shipped_configurations_load_and_are_stable(file):
    config = resolve(SimulateConfig, file=file, sets=[], flags={}).resolved()
    assert not [text for text in check(config) if "shedding" in text]
    assert file.read_text().startswith("# ")
    assert tomllib.loads(file.read_text())
    assert math.prod(config.size) > 0


def test_forecast_like_readers_find_what_they_need(tmp_path):
    path = lbm.simulate(output=tmp_path / "flow.zarr", **SMALL)
    ds = dataset.open_dataset(path)
    for name in ("split", "viscosity", "bulk_viscosity", "inflow_velocity", "reynolds", "seed"):
        assert ds[name].dims == ("trajectory",)
    assert (ds.attrs["frame_interval"], ds.attrs["frame_interval_units"]) == (10, "ticks")
    assert f"numpy {np.__version__}" in ds.attrs["versions"]
