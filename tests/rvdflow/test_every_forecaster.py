"""What holds for every forecaster there is: references, residual video diffusion, and the other systems."""

import numpy as np
import pytest

import rvdflow
from lbm import dataset as store
from rvdflow.baselines import METHODS, fit, names
from rvdflow.methods import METHODS as SYSTEMS
from rvdflow.train import train
from rvdflow.train_config import RunConfig, merge

NETWORKS = ("rvd", "one-step", "mean", *SYSTEMS)
DETERMINISTIC = {
    "mean", "convgru", "retrogan", "futuregan", *(name for name, kind in METHODS.items() if kind.deterministic)
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", [*names(), *NETWORKS])
LEAD = 3


@pytest.fixture(scope="module")
def data(build, tmp_path_factory):
    """Frames of 32 x 64 pixels around an obstacle, and the same with another future of the test run."""
    folder = tmp_path_factory.mktemp("frames")

    def later(frames):
        frames[-1, 10:] += 0.01

    size = {"size": (32, 64), "times": 32}
    return build(folder / "a.zarr", **size), build(folder / "b.zarr", **size, change=later)


@pytest.fixture(scope="module")
def forecaster(data, tiny, system_config, tmp_path_factory):
    """The forecaster of that name, fitted, or trained for two steps."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def config(name):
        if name in SYSTEMS:
            return system_config(name, steps=2, validations=0)
        whole = tiny(steps=2, validations=0).model_dump()
        objective = {"model": {"objective": "crps" if name == "one-step" else "diffusion"}, "preset": None}
        return RunConfig.model_validate(merge(whole, objective))

    def find(name):
        if name not in made and name in names():
            made[name] = fit(name, store.open_dataset(data[0], chunks=None), lead=LEAD)
        elif name == "mean":
            made[name] = find("rvd").mean()
        elif name not in made:
            train(data[0], folder / name, config(name), threads=1, quiet=True)
            made[name] = rvdflow.load(folder / name, threads=1)
            made[name].identity = None  # it is also shown another dataset
        return made[name]

    return find


@pytest.fixture(scope="module")
def draw(data, forecaster):
    """Draws from a forecaster: `draw("analog", members=2)`, (init_time, member, lead_time, y, x)."""

    def find(name, which=0, **options):
        settings = {"members": 4, "lead": LEAD, "init_times": [5, 9]}
        opened = store.open_dataset(data[which], chunks=None)
        return forecaster(name).forecast(opened, **settings | options)["vorticity"].values[0]

    return find


@EVERY
def test_forecasts_have_as_many_members_and_leads_as_asked_for_and_are_finite(name, draw):
    found = draw(name)
    assert found.shape == (2, 1 if name in DETERMINISTIC else 4, LEAD, 32, 64)
    assert np.isfinite(found).all()


@EVERY
def test_the_seed_decides_what_is_random_and_nothing_else(name, draw):
    first, again, other = (draw(name, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (name not in DETERMINISTIC | {"analog"})  # whose members are the nearest pasts


@EVERY
def test_a_member_does_not_depend_on_what_else_is_drawn(name, draw):
    few, many = draw(name, init_times=[9], members=2), draw(name, members=6)[1:]
    few, many = few[:, :, :2], many[:, : few.shape[1], :2]  # rounding grows in roll-outs of untrained networks
    np.testing.assert_allclose(many, few, atol=2e-5 * np.abs(few).max())


@EVERY
def test_members_differ_where_there_are_several(name, draw):
    assert name in DETERMINISTIC or (draw(name).std(axis=1).max(axis=(1, 2, 3)) > 0).all()


@EVERY
def test_a_deterministic_forecaster_says_so(name, forecaster, data):
    made = forecaster(name)
    result = made.forecast(store.open_dataset(data[0], chunks=None), members=3, lead=1, init_times=[9])
    assert made.deterministic == bool(result.attrs["deterministic"]) == (name in DETERMINISTIC)
    system = {"one-step": "rvd"}.get(name, name)
    assert made.method == result.attrs["method"] == system


@EVERY
def test_any_horizon_from_one_frame_to_more_than_a_training_clip(name, draw):
    for lead in (1, 20):
        found = draw(name, lead=lead, members=2, init_times=[5])
        assert found.shape[2] == lead
        assert np.isfinite(found).all()


@EVERY
def test_the_future_of_a_case_does_not_change_its_forecast(name, draw):
    options = {"init_times": [5]}
    np.testing.assert_array_equal(draw(name, 0, **options), draw(name, 1, **options))
