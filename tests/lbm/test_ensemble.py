"""The perfect-model ensemble: members are draws from the distribution of the truth, whoever runs them, in any order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import evaluation
import lbm
from lbm import dataset, ensemble_plan, perturbation
from lbm.ensemble import continued, disturbed, ensemble, member_seed
from lbm.errors import DataError, UsageError
from lbm.flow import FlowParameters, Simulation
from lbm.lattice import CX, CY
from lbm.obstacles import Obstacle

FIELDS = ("velocity_x", "vorticity")
TINY = {
    "size": "32x64", "frame_size": "16x32", "diameter": 6.0, "reynolds": 100.0, "frames": 41, "every": 10,
    "warmup": 110, "noise_transverse": 0.2, "noise_streamwise": 0.06, "noise_time": 60.0, "save_states": 4,
    "split": (1, 0, 2), "fields": FIELDS,
}  # fmt: skip


def flow_store(path, **settings):
    """A simulated dataset with states."""
    return lbm.simulate(output=path, **TINY | settings)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return flow_store(tmp_path_factory.mktemp("ensemble") / "flow.zarr")


@pytest.fixture(scope="module")
def forecast(flow, tmp_path_factory):
    made = ensemble(flow, tmp_path_factory.mktemp("forecast") / "f.zarr", members=4, lead=6, quiet=True)
    return dataset.open_dataset(made).load()


def contents(path):
    """Every file of a store, by its name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


# ------------------------------------------------------------------ laws


def test_a_member_with_the_noise_of_the_truth_is_the_truth(flow):
    """To the bit: nothing of the solver's state is lost in the file."""
    truth, opened = ensemble_plan.Truth(flow), dataset.open_dataset(flow)
    for run, init in ((1, 0), (2, 12)):
        plan = truth.plan(1, 6, [init], "test", 0.0, True, 0)
        p = truth.parameters(run)
        for lead, fields in enumerate(continued(Simulation(p), truth.state(run, init), plan, seed=p.seed), start=1):
            for name in FIELDS:
                np.testing.assert_array_equal(fields[name], opened[name][run, init + lead].values)


def test_members_differ_from_each_other_ever_more(flow, forecast):
    members = forecast["vorticity"]
    spread = members.var("member", ddof=1).mean(("trajectory", "init_time", "y", "x")).values
    assert (np.diff(spread) > 0).all()
    assert spread[-1] > 2 * spread[0] > 0
    assert len(np.unique(members.values.reshape(-1, members.sizes["y"] * members.sizes["x"]), axis=0)) == 2 * 9 * 4 * 6
    # noise of one member, of one case, belongs to no other
    seeds = {member_seed(0, k, t, m) for k in range(5) for t in range(5) for m in range(5)}
    assert len(seeds) == 125
    assert len({member_seed(s, 1, 2, 3) for s in range(10)}) == 10


def test_members_are_the_same_in_any_company(flow, forecast, tmp_path):
    """Number of threads, members and cases, and the length of the forecast, change no bit of a member."""
    alone = ensemble(flow, tmp_path / "alone.zarr", members=2, lead=3, init_times=[8], threads=1, quiet=True)
    part = forecast.sel(init_time=[8], member=[0, 1], lead_time=[1, 2, 3])
    for name in FIELDS:
        np.testing.assert_array_equal(dataset.open_dataset(alone)[name].values, part[name].values)
    every = ensemble(flow, tmp_path / "all.zarr", members=2, lead=3, init_times=[8], split="all", quiet=True)
    with_training = dataset.open_dataset(every)["vorticity"]
    assert with_training["trajectory"].values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(with_training[1:].values, part["vorticity"].values)
    other = ensemble(flow, tmp_path / "seed.zarr", members=2, lead=3, init_times=[8], seed=1, quiet=True)
    assert not np.array_equal(dataset.open_dataset(other)["vorticity"].values, part["vorticity"].values)


def test_news_travels_one_cell_a_tick_at_most(flow, forecast):
    """After 10 ticks the noise of the inlet (x = -1) has not reached pixels of two cells beyond x = 10."""
    truth = dataset.open_dataset(flow)["vorticity"].values
    first = forecast["vorticity"].isel(lead_time=0).values  # (trajectory, init_time, member, y, x)
    observed = truth[1:, forecast["init_time"].values + 1][:, :, None]
    same = (first == observed).all(axis=(0, 1, 2, 3))
    assert same[6:].all()
    assert not same[:3].any()


def exchangeable(path, flow, leads):
    """Squared error of the ensemble mean and the variance of members, averaged, by lead; and ranks of the truth."""
    members = dataset.open_dataset(path)["vorticity"].sel(lead_time=leads).values
    opened = dataset.open_dataset(path)
    truth = dataset.open_dataset(flow)["vorticity"].values
    error, spread, ranks = [], [], []
    for i, run in enumerate(opened["trajectory"].values):
        for j, init in enumerate(opened["init_time"].values):
            observed = truth[run, init + np.array(leads)]
            drawn = members[i, j]  # (member, lead_time, y, x)
            error.append(((drawn.mean(axis=0) - observed) ** 2).mean(axis=(1, 2)))
            spread.append(drawn.var(axis=0, ddof=1).mean(axis=(1, 2)))
            ranks.append((drawn < observed).mean(axis=0)[-1, 8, 4])  # one pixel, at the last lead
    return np.mean(error, axis=0), np.mean(spread, axis=0), np.array(ranks)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"noise": False, "perturb": 0.05}], ids=["noise", "perturbed"])
def test_spread_is_the_error_of_the_mean(tmp_path, options):
    """(M + 1) / M times the variance of exchangeable members is the squared error of their mean: Fortin et al. 2014."""
    flow = flow_store(tmp_path / "flow.zarr", frames=161, split=(0, 0, 16), fields=("vorticity",), save_states=8)
    made = ensemble(flow, tmp_path / "f.zarr", members=8, lead=8, quiet=True, **options)
    error, spread, ranks = exchangeable(made, flow, [1, 2, 4, 8])
    ratio = np.sqrt((1 + 1 / 8) * spread / error)
    assert len(ranks) == 16 * 20  # about 100 of them independent: standard error of the ratio 5 %, of ranks 0.03
    np.testing.assert_allclose(ratio, 1, atol=0.15)
    # ranks of the truth, uniform on 0, 1/8, ..., 1: mean 1/2, standard deviation sqrt(80 / 12) / 8 = 0.323
    assert ranks.mean() == pytest.approx(0.5, abs=0.1)
    assert ranks.std() == pytest.approx(0.323, abs=0.04)


# ------------------------------------------------------------------ disturbances

BODY = FlowParameters(ny=48, nx=96, obstacles=(Obstacle("cylinder", (24.0, 24.0), 12.0),))


@pytest.mark.parametrize(
    "p",
    [
        BODY,
        FlowParameters(ny=48, nx=96, obstacles=BODY.obstacles, sides="no-slip"),
        FlowParameters(ny=48, nx=48, obstacles=(), sides="periodic", ends="periodic", length=16.0),
        FlowParameters(ny=48, nx=48, obstacles=(), sides="no-slip", ends="walls", length=16.0),
    ],
    ids=["wake", "channel", "box", "cavity"],
)
def test_a_disturbance_keeps_mass_and_momentum_and_has_no_divergence(p):
    simulation = Simulation(p)
    simulation.advance(40)
    before, solid = simulation.state()["populations"].astype(float), simulation.solid
    change = perturbation.momentum(p, solid, 0.1, np.random.default_rng(1))
    speed = np.sqrt((change**2).sum(axis=0)[~solid].mean())
    assert speed == pytest.approx(0.1 * p.inflow_velocity)
    assert np.abs(change[:, solid]).max(initial=0) == 0
    np.testing.assert_allclose(change.sum(axis=(1, 2)), 0, atol=1e-14 * change.size)
    u, v = (np.pad(part, 1, mode="wrap" if p.ends == "periodic" else "constant") for part in change)
    if p.sides == "periodic" and p.ends != "periodic":
        u[0], u[-1], v[0], v[-1] = u[-2], u[1], v[-2], v[1]
    divergence = (u[1:-1, 2:] - u[1:-1, :-2] + v[2:, 1:-1] - v[:-2, 1:-1]) / 2
    assert np.abs(divergence).max() < 1e-12 * np.abs(change).max()
    # the populations carry just that: each cell's density stays, its momentum moves by the change
    after = perturbation.disturb(before, change)
    np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0), atol=1e-15)
    for component, c in enumerate((CX, CY)):
        np.testing.assert_allclose(np.tensordot(c, after - before, 1), change[component], atol=1e-15)


def test_a_disturbance_makes_no_sound():
    """Its density waves stay far below those of the same velocities with divergence (psi taken as a potential)."""
    p = FlowParameters(ny=64, nx=64, obstacles=(), sides="periodic", ends="periodic", length=32.0)
    rng, rest = np.random.default_rng(2), Simulation(p)
    rest.set_flow(*np.broadcast_to(np.array([1.0, 0, 0])[:, None, None], (3, 64, 64)))
    still = rest.state()
    change = perturbation.momentum(p, rest.solid, 0.1, rng)
    waves = {}
    # turning each vector by a right angle makes a rotational field a potential one
    for name, momentum in (("ours", change), ("potential", np.stack([change[1], -change[0]]))):
        rest.restore({**still, "populations": perturbation.disturb(still["populations"], momentum)})
        rest.advance(20)
        waves[name] = rest.fields(["density"])["density"].std()
    mach = 0.1 * p.inflow_velocity * np.sqrt(3)
    assert waves["ours"] < 3 * mach**2  # the pressure that goes with eddies is of that order
    assert waves["potential"] > 0.3 * mach


def test_the_ensemble_is_centred_off_the_truth_and_spread_about_its_centre(flow):
    """Two independent disturbances of equal size: members are as far from each other as from the truth."""
    truth = ensemble_plan.Truth(flow)
    state, simulation = truth.state(1, 0), Simulation(truth.parameters(1))
    starts = [disturbed(simulation, state, 0.05, (0, 1, 0, m))["populations"].astype(float) for m in range(20)]
    momenta = np.array([[np.tensordot(c, f, 1) for c in (CX, CY)] for f in (*starts, state["populations"])])
    drawn, observed = momenta[:-1], momenta[-1]
    size = (0.05 * simulation.parameters.inflow_velocity) ** 2 * (~simulation.solid).mean() / 2
    assert ((drawn - observed) ** 2).mean() == pytest.approx(2 * size, rel=0.2)
    assert drawn.var(axis=0, ddof=1).mean() == pytest.approx(size, rel=0.05)


# ------------------------------------------------------------------ the file


def test_the_forecast_is_written_like_any_other(flow, forecast):
    assert forecast["vorticity"].dims == ("trajectory", "init_time", "member", "lead_time", "y", "x")
    assert dict(forecast.sizes) == {"trajectory": 2, "init_time": 9, "member": 4, "lead_time": 6, "y": 16, "x": 32}
    assert forecast["trajectory"].values.tolist() == [1, 2]
    assert forecast["init_time"].values.tolist() == list(range(0, 33, 4))
    assert (forecast["valid_time"] == forecast["init_time"] + forecast["lead_time"]).all()
    wanted = {"method": "perfect-model", "members": 4, "seed": 0, "context": 0, "deterministic": False}
    assert wanted.items() <= forecast.attrs.items()
    assert forecast.attrs["dataset_sha256"] == dataset.digest(flow)
    assert forecast["vorticity"].attrs == dataset.open_dataset(flow)["vorticity"].attrs
    scores = evaluation.verify(dataset.open_dataset(flow), {"perfect-model": forecast})
    assert scores["crps"].sel(method="perfect-model").notnull().all()


def test_a_stopped_ensemble_is_completed_to_the_same_bits(flow, tmp_path):
    code = (
        "import sys, lbm.ensemble as e\n"
        "e.ensemble(sys.argv[1], sys.argv[2], members=6, lead=8, threads=1, resume='resume' in sys.argv, quiet=True)"
    )
    whole = ensemble(flow, tmp_path / "whole.zarr", members=6, lead=8, quiet=True)
    begun = tmp_path / "begun.zarr"
    process = subprocess.Popen([sys.executable, "-c", code, str(flow), str(begun)], stderr=subprocess.PIPE)
    while process.poll() is None and not list(begun.glob("vorticity/c/*/*")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    if dataset.read_attributes(begun).get("complete") is not True:
        with pytest.raises(DataError, match="unfinished"):
            dataset.open_dataset(begun)
        with pytest.raises(UsageError, match=r"begun with perturb 0\.0, now 0\.1"):
            ensemble(flow, begun, members=6, lead=8, perturb=0.1, resume=True, quiet=True)
    assert contents(ensemble(flow, begun, members=6, lead=8, resume=True, quiet=True)) == contents(whole)
    # finished: left alone
    assert contents(ensemble(flow, begun, members=6, lead=8, resume=True, quiet=True)) == contents(whole)


def test_the_first_signal_ends_it_with_its_code(flow, tmp_path):
    code = (
        "import sys, os, signal, threading, lbm.ensemble as e, lbm.console as c\n"
        "advance = c.Progress.advance\n"
        "def stop(bar, *a): advance(bar, *a); os.kill(os.getpid(), signal.SIGTERM)\n"
        "c.Progress.advance = stop\n"
        "e.ensemble(sys.argv[1], sys.argv[2], members=4, lead=8, threads=1, quiet=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(flow), str(tmp_path / "f.zarr")], capture_output=True)
    assert done.returncode == 143
    assert dataset.read_attributes(tmp_path / "f.zarr")["complete"] is False


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members is 0: at least 1"),
        ({"lead": 0}, "lead is 0"),
        ({"lead": 41}, "none has 41 frames after it"),
        ({"seed": -1}, "seed is -1"),
        ({"perturb": -0.1}, "perturb is -0.1"),
        ({"perturb": float("nan")}, "perturb is nan"),
        ({"noise": False}, "all members would be equal .*--perturb"),
        ({"split": "validation"}, "choose from test, train"),
        ({"init_times": [3]}, "init time 3: .* can start from 0, 4, "),
        ({"init_times": [40]}, "init time 40"),
        ({"init_times": []}, "init time none"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_settings_that_make_no_ensemble_are_refused(flow, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        ensemble(flow, tmp_path / "f.zarr", **{"lead": 6} | options)
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_continued_is_refused(flow, forecast, tmp_path):
    quiet = flow_store(tmp_path / "steady.zarr", noise_transverse=0.0, noise_streamwise=0.0, split=(0, 0, 1), frames=9)
    with pytest.raises(UsageError, match="inflow is steady"):
        ensemble(quiet, tmp_path / "f.zarr", lead=2)
    stateless = flow_store(tmp_path / "stateless.zarr", save_states=0, split=(0, 0, 1), frames=9)
    with pytest.raises(DataError, match="--save-states"):
        ensemble(stateless, tmp_path / "f.zarr", lead=2)
    early = flow_store(tmp_path / "early.zarr", warmup=0, split=(0, 0, 1), frames=9)
    with pytest.raises(UsageError, match="after the start of the flow"):
        ensemble(early, tmp_path / "f.zarr", lead=2)
    with pytest.raises(UsageError, match="is the dataset to forecast"):
        ensemble(early, early, lead=2, overwrite=True)
    with pytest.raises(DataError, match="settings"):
        ensemble(Path(forecast.encoding["source"]), tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()


def test_states_of_another_solver_are_refused(tmp_path, monkeypatch):
    """A state that does not give its frame would make an ensemble of another model."""
    fields = Simulation.fields
    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "fields", lambda *a: {n: 1.01 * f for n, f in fields(*a).items()})
        flow = flow_store(tmp_path / "flow.zarr", split=(0, 0, 1), frames=9)
    with pytest.raises(DataError, match="another version"):
        ensemble(flow, tmp_path / "f.zarr", lead=2, quiet=True)


def test_a_member_that_diverges_is_named(flow, tmp_path, monkeypatch):
    def diverged(self):
        raise lbm.NumericalError("the flow diverged")

    monkeypatch.setattr(Simulation, "check", diverged)
    with pytest.raises(lbm.NumericalError, match=r"member \d from frame 0 of trajectory 1: the flow diverged"):
        ensemble(flow, tmp_path / "f.zarr", lead=6, members=2, quiet=True)
    assert not xr.open_zarr(tmp_path / "f.zarr", consolidated=False).attrs["complete"]
