"""What a user says becomes one configuration, or one sentence: bounds, units, short forms, contradictions."""

import contextlib
import json
import tomllib

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import lbm
from lbm import dataset, layout, recording
from lbm.config import SimulateConfig
from lbm.errors import DataError, UsageError
from lbm.settings import resolve


def given_by_flags(**flags):
    return resolve(SimulateConfig, file=None, sets=[], flags=flags)


def given_by_toml(tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text)
    return resolve(SimulateConfig, file=file, sets=[], flags={})


def one_obstacle(**flags):
    (one,) = given_by_flags(**flags).resolved().obstacles
    return one


def test_the_short_form_and_the_table_say_the_same(tmp_path):
    table = '[[obstacles]]\nshape = "naca"\nprofile = "4412"\nsize = 24\ncentre = [40, 32]\nangle = -8\n'
    by_table = given_by_toml(tmp_path, table).resolved()
    by_text = given_by_flags(obstacle="naca:profile=4412,chord=24,centre=40,32,angle=-8").resolved()
    by_parts = given_by_flags(obstacle="naca:profile=4412", diameter=24.0, centre="40,32", angle=-8.0).resolved()
    assert by_table == by_text == by_parts


def test_an_obstacle_stands_where_nothing_else_is_said():
    """A quarter of the length from the inlet, half a cell above the axis (31.5), an eighth of the height wide."""
    one = one_obstacle(size="64x128")
    assert (one.shape, one.centre, one.size, one.angle, one.spin) == ("cylinder", (32.0, 32.0), 8.0, 0.0, 0.0)
    assert one_obstacle(size="256x512").size == 32


@pytest.mark.parametrize("word", ["size", "diameter", "side", "chord", "width"])
def test_people_name_the_size_of_a_shape_in_their_own_way(word):
    assert one_obstacle(obstacle=f"square:{word}=9").size == 9


def test_commas_within_a_value_do_not_end_it():
    one = one_obstacle(obstacle="polygon:vertices=-0.5,-0.5,0.5,-0.5,0,0.5,centre=30,20.5,size=12")
    assert one.vertices == ((-0.5, -0.5), (0.5, -0.5), (0.0, 0.5))
    assert one.centre == (30.0, 20.5)


def test_obstacles_keep_their_order_and_take_what_they_lack_from_the_short_form():
    texts = ["cylinder:centre=40,30,size=8", "ellipse:centre=70,40,aspect=0.5"]
    first, second = given_by_flags(obstacle=texts, diameter=12.0, angle=30.0).resolved().obstacles
    assert (first.shape, first.size, first.angle) == ("cylinder", 8.0, 30.0)
    assert (second.shape, second.size, second.aspect, second.angle) == ("ellipse", 12.0, 0.5, 30.0)


@pytest.mark.parametrize(
    ("flags", "length", "reynolds"),
    [
        ({"diameter": 16.0}, 16.0, 160.0),  # U L / nu = 0.1 L / 0.01
        ({"obstacle": ["cylinder:centre=30,64,size=8", "cylinder:centre=60,64,size=20"]}, 20.0, 200.0),
        ({"diameter": 16.0, "length": 32.0}, 32.0, 320.0),
        ({"obstacle": "none"}, None, None),
        ({"obstacle": "none", "length": 50.0}, 50.0, 500.0),
    ],
)
def test_the_reynolds_number_belongs_to_the_largest_obstacle_or_to_the_length_given(flags, length, reynolds):
    config = given_by_flags(**flags).resolved()
    assert config.length == length
    assert config.reynolds == (None if reynolds is None else pytest.approx(reynolds))


@settings(deadline=None)
@given(nu=st.floats(1e-3, 1), velocity=st.floats(0.01, 0.2), diameter=st.floats(4, 64), leave=st.integers(0, 2))
def test_any_two_of_viscosity_velocity_and_reynolds_give_the_third(nu, velocity, diameter, leave):
    three = {"viscosity": nu, "inflow_velocity": velocity, "reynolds": velocity * diameter / nu}
    two = {name: value for place, (name, value) in enumerate(three.items()) if place != leave}
    config = SimulateConfig(diameter=diameter, **two).resolved()
    for name, value in three.items():
        assert getattr(config, name) == pytest.approx(value, rel=1e-12)
    assert config.resolved() == config


SOME = st.fixed_dictionaries(
    {},
    optional={
        "reynolds": st.floats(20, 500),
        "obstacle": st.sampled_from(["cylinder", "square:size=9", "naca:profile=2412,angle=-5", "none"]),
        "sides": st.sampled_from(["periodic", "free-slip", "no-slip"]),
        "body_force": st.tuples(st.floats(-1e-5, 1e-5), st.floats(-1e-5, 1e-5)),
        "frame_size": st.sampled_from(["64x64", "128x128", "32x32"]),
        "every": st.integers(1, 200),
        "trajectories": st.integers(1, 30),
        "save_states": st.integers(0, 20),
        "sweep": st.fixed_dictionaries(
            {},
            optional={"bulk_viscosity": st.just("0.05,0.1"), "seed": st.just("0:3"), "noise_time": st.just("100,200")},
        ),
    },
)


@settings(deadline=None)
@given(SOME)
@example({"sweep": {"seed": "0:3"}, "trajectories": 2})
def test_a_resolved_configuration_is_its_own_resolution_and_survives_json(flags):
    if flags.get("obstacle") == "none":
        flags.pop("reynolds", None)
    config = given_by_flags(**flags).resolved()
    assert config.resolved() == config
    assert SimulateConfig.model_validate(json.loads(config.text())).resolved() == config


def test_the_solver_gets_what_was_asked_for():
    config = given_by_flags(
        size="64x128", sides="no-slip", side_velocity="0,0.05", inlet="parabolic", startup=500, body_force="1e-6,0",
        collision="trt", magic=0.1875, walls="half-way", outlet="sponge", sponge_length=20, length=30.0, seed=7,
        obstacle="ellipse:size=12,aspect=0.5,angle=20,centre=30,31", bulk_viscosity=0.01, noise_time=50.0,
    ).resolved()  # fmt: skip
    p = recording.parameters(config, 3)
    assert (p.ny, p.nx, p.sides, p.side_velocity, p.profile, p.startup) == (
        64,
        128,
        "no-slip",
        (0.0, 0.05),
        "parabolic",
        500,
    )
    assert (p.body_force, p.collision, p.lambda_, p.walls) == ((1e-6, 0.0), "trt", 0.1875, "half-way")
    assert (p.outlet, p.sponge_length, p.length, p.seed, p.trajectory, p.noise_time) == ("sponge", 20, 30.0, 7, 3, 50.0)
    (o,) = p.obstacles
    assert (o.shape, o.size, o.aspect, o.angle, o.centre) == ("ellipse", 12.0, 0.5, 20.0, (30.0, 31.0))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"obstacle": "elephant"}, "'cylinder', 'ellipse'"),
        ({"obstacle": "naca:profil=0012"}, r"unknown key .*did you mean 'obstacle.profile'"),
        ({"obstacle": "naca:profile=12"}, "--obstacle: got '12'"),
        ({"obstacle": "square:corners=5"}, "a square has no corners: that belongs to polygon"),
        ({"obstacle": "cylinder:size"}, "wanted shape:key=value"),
        ({"obstacle": "cylinder:size=3,diameter=4"}, "size is given twice"),
        ({"obstacle": "cylinder:size=-3"}, "greater than 0"),
        ({"obstacle": "cylinder:size=nan"}, "--obstacle"),
        ({"obstacle": "polygon:vertices=0,0,1"}, "even number"),
        ({"obstacle": "polygon:vertices=0,0,1,1"}, "2 vertices make no polygon"),
        ({"obstacle": "image"}, "an image needs a file"),
        ({"obstacle": ["none", "square"]}, "'none' stands alone"),
        ({"obstacle": ["square", "square"]}, "obstacle 1 of 2 has no centre"),
        ({"obstacle": "square:size=9", "diameter": 8.0}, "diameter is given, but every obstacle has its own"),
        ({"reynolds": 50.0, "obstacle": "none"}, "needs an obstacle or --length"),
        ({"reynolds": 50.0, "viscosity": 0.01, "inflow_velocity": 0.1}, r"contradicts.*length 16, which give 160"),
        ({"body_force": "1e-6"}, "--body-force"),
        ({"side_velocity": "inf,0"}, "finite"),
        ({"ends": "closed"}, "'open', 'periodic' or 'walls'"),
        ({"collision": "mtr"}, "'mrt'"),
        ({"forces_every": 48}, "48 does not divide every 128: take 32"),
        ({"forces_every": -1}, "--forces-every"),
        ({"save_states": -1}, "--save-states"),
        ({"magic": 0.0}, "--magic"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        given_by_flags(**flags).resolved()
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_key_in_a_table_of_obstacles_gets_the_nearest_one(tmp_path):
    with pytest.raises(
        UsageError, match=r"config.toml: unknown key 'obstacles.0.profle'; did you mean 'obstacles.profile'"
    ):
        given_by_toml(tmp_path, '[[obstacles]]\nshape = "naca"\nprofle = "0012"\n')


def test_both_forms_of_obstacles_at_once_are_refused(tmp_path):
    with pytest.raises(UsageError, match="both given"):
        given_by_toml(tmp_path, 'obstacle = "cylinder"\n[[obstacles]]\nshape = "square"\n')


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(st.text(max_size=12), max_size=3))
def test_any_text_as_an_obstacle_is_taken_or_refused_cleanly(text):
    with contextlib.suppress(UsageError):
        given_by_flags(obstacle=text).resolved()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # 128 ticks a frame x 2 numbers x 4 bytes = 1024 of 65536 bytes a frame: 1.6 %
        ({"size": "128x128"}, 1),
        # 32x64 pixels are 8192 bytes, 2 % of them 20 samples; 64 / 4 = 16 is the first divisor below
        ({"size": "64x128", "frame_size": "32x64", "every": 64}, 4),
        ({"size": "64x128", "frame_size": "32x64", "every": 64, "forces_every": 1}, 1),
        ({"size": "128x128", "forces_every": 0}, 0),
        ({"size": "128x128", "obstacle": "none"}, 0),
    ],
)
def test_forces_are_recorded_as_often_as_costs_little(flags, expected):
    assert given_by_flags(**flags).resolved().forces_every == expected


@settings(deadline=None)
@given(every=st.integers(1, 60), divisor=st.integers(1, 60), frames=st.integers(1, 9), warmup=st.integers(0, 3))
def test_force_samples_end_at_the_last_frame_and_are_equally_spaced(every, divisor, frames, warmup):
    config = SimulateConfig(every=every * divisor, forces_every=divisor, frames=frames, warmup=warmup).resolved()
    ticks = layout.force_ticks(config)
    frame_ticks = (warmup + range(frames)[-1]) * config.every
    assert len(ticks) == (frames if warmup else frames - 1) * every
    if len(ticks):
        assert ticks[-1] == frame_ticks
        assert ticks[0] > 0
        assert set(ticks[1:] - ticks[:-1]) <= {divisor}


def test_datasets_written_before_these_settings_still_resolve(tmp_path):
    """The configuration as version 0.1 recorded it: one cylinder, half-way walls, no forces."""
    old = {
        "viscosity": 0.006, "bulk_viscosity": 0.06, "inflow_velocity": 0.1, "reynolds": 200.0, "obstacle": "cylinder",
        "diameter": 12.0, "centre": [24.0, 32.0], "size": [64, 128], "frame_size": [32, 64], "frames": 400, "every": 64,
        "warmup": 150, "trajectories": 28, "split": [16.0, 4.0, 8.0], "seed": 0, "fields": ["vorticity"],
        "sides": "periodic", "noise_streamwise": 0.06, "noise_transverse": 0.2, "noise_time": 300.0, "dtype": "float32",
    }  # fmt: skip
    path = tmp_path / "flow.zarr"
    dataset.create(path, variables={}, coords={}, sizes={}, attrs={"config": json.dumps(old)}).close()
    config = recording.stored_config(path)
    p = recording.parameters(config, 5)
    assert (p.walls, config.forces_every, config.save_states, config.runs) == ("half-way", 0, 0, 28)
    assert (p.viscosity, p.reynolds, p.trajectory) == (0.006, pytest.approx(200), 5)
    (o,) = p.obstacles
    assert (o.shape, o.size, o.centre) == ("cylinder", 12.0, (24.0, 32.0))
    recording.require_agreement(SimulateConfig(diameter=12.0, centre=(24.0, 32.0)), config, path)
    with pytest.raises(UsageError, match="begun with obstacles"):
        recording.require_agreement(SimulateConfig(size=(64, 128), diameter=10.0), config, path)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**20), 10**20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.sampled_from(["seed", "reynolds", "shape", "size"]), some)
    ),
    max_leaves=6,
)
PLAUSIBLE = st.fixed_dictionaries({}, optional={
    "viscosity": st.floats(0, 10), "inflow_velocity": st.floats(0, 1), "reynolds": st.floats(0, 1e9),
    "length": st.floats(0, 1e9), "diameter": st.floats(0, 1e6), "every": st.integers(1, 10**9),
    "sweep": st.fixed_dictionaries({}, optional={"viscosity": st.lists(st.floats(0, 10), max_size=3, unique=True)}),
    "held_out": st.fixed_dictionaries({}, optional={"reynolds": st.just([[0, 1e9]])}), "spin": st.floats(-1, 1),
})  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(SimulateConfig.model_fields)), ANYTHING, max_size=4) | PLAUSIBLE)
@example({"inflow_velocity": 5e-324})
@example({"viscosity": 5e-324, "length": 1e9})
def test_any_table_is_resolved_or_refused_cleanly(table):
    with contextlib.suppress(UsageError):
        config = given_by_flags(**table).resolved()
        assert config.resolved() == config
        if config.runs < 1000:
            assert len(config.splits) == config.runs


def test_an_unfinished_dataset_of_the_old_settings_is_completed_with_them(tmp_path):
    """The stored settings lose everything that version 0.1 did not know; what is then simulated has half-way walls."""
    small = {"size": (32, 64), "viscosity": 0.02, "frames": 3, "every": 10, "warmup": 1, "trajectories": 2}
    config = SimulateConfig(**small, walls="half-way", forces_every=0).resolved()
    path = tmp_path / "old.zarr"
    recording.create(config, path).close()
    root = json.loads((path / "zarr.json").read_text())
    known = {"viscosity", "bulk_viscosity", "inflow_velocity", "reynolds", "size", "frame_size", "frames", "every",
             "warmup", "trajectories", "split", "seed", "fields", "sides", "dtype"}  # fmt: skip
    old = {name: value for name, value in json.loads(config.text()).items() if name in known}
    root["attributes"]["config"] = json.dumps(old | {"obstacle": "cylinder", "diameter": 8.0, "centre": [16.0, 16.0]})
    (path / "zarr.json").write_text(json.dumps(root))
    lbm.simulate(output=path, resume=True)
    fresh = lbm.simulate(config, output=tmp_path / "fresh.zarr")
    xr.testing.assert_equal(lbm.open_dataset(path), lbm.open_dataset(fresh))


def test_some_of_the_settings_are_enough_to_resume(tmp_path):
    flags = {"size": (32, 64), "diameter": 6.0, "every": 20, "trajectories": 4, "reynolds": 30.0, "frames": 50}
    stored = SimulateConfig(**flags, split=(0.5, 0.25, 0.25)).resolved()
    for said in ({}, {"diameter": 6.0}, {"reynolds": 30.0}, {"split": (0.5, 0.25, 0.25)}, {"every": 20}):
        recording.require_agreement(SimulateConfig(**said), stored, tmp_path)
    wrong = {"diameter": (7.0, "obstacles"), "centre": ((16.0, 15.0), "obstacles"), "reynolds": (31.0, "reynolds"),
             "split": ((1.0, 0.0, 0.0), "split")}  # fmt: skip
    for name, (value, named) in wrong.items():
        with pytest.raises(UsageError, match=f"begun with {named} ="):
            recording.require_agreement(SimulateConfig(**{name: value}), stored, tmp_path)


def test_a_picture_that_has_changed_is_noticed(tmp_path):
    picture = np.full((12, 12), 255, np.uint8)
    picture[2:10, 2:10] = 0
    Image.fromarray(picture).save(tmp_path / "shape.png")
    config = SimulateConfig(
        size=(32, 64), frames=3, trajectories=1, obstacle=f"image:width=10,file={tmp_path / 'shape.png'}"
    ).resolved()
    recording.create(config, tmp_path / "flow.zarr").close()
    recording.require_agreement(SimulateConfig(), config, tmp_path / "flow.zarr")
    picture[2:6, 2:6] = 255
    Image.fromarray(picture).save(tmp_path / "shape.png")
    with pytest.raises(DataError, match=r"another picture than .*shape\.png"):
        recording.require_agreement(SimulateConfig(), config, tmp_path / "flow.zarr")


@pytest.mark.parametrize(
    "text", ["[1, 2]", "null", "{", '{"sweep": 3}', '{"obstacles": [{"shape": 4}]}', "[" * 100_000]
)
def test_damaged_settings_of_a_dataset_are_bad_data(tmp_path, text):
    path = tmp_path / "flow.zarr"
    dataset.create(path, variables={}, coords={}, sizes={}, attrs={"config": text}).close()
    with pytest.raises(DataError, match="no usable simulation settings"):
        recording.stored_config(path)


def test_a_dataset_says_what_its_obstacles_are(tmp_path):
    config = SimulateConfig(
        size=(32, 64), frames=2, obstacle=["cylinder:centre=20,16,size=6", "square:centre=40,16,size=6"], save_states=1
    ).resolved()
    recording.create(config, tmp_path / "flow.zarr").close()
    ds = lbm.open_dataset(tmp_path / "flow.zarr", allow_incomplete=True)
    assert ds["drag_coefficient"].dims == ("trajectory", "body", "force_time")
    assert ds["populations"].dims == ("trajectory", "state_time", "q", "cell_y", "cell_x")
    assert ds["state_time"].values.tolist() == [0, 1]
    assert ds["solid"].values[0, 16, [20, 40, 60]].tolist() == [True, True, False]
    assert "2 obstacles" in ds.attrs["title"]


def test_shipped_sweeps_survive_the_dry_run(tmp_path):
    """What --dry-run prints is TOML that gives the same configuration again."""
    from lbm import runner

    flags = {"obstacle": "naca:size=20", "sweep": {"reynolds": "80:200:40"}, "held_out": {"reynolds": "110:130"}}
    config = given_by_flags(**flags)
    text = runner.dry_run_text(runner.dry_run(config, tmp_path / "flow.zarr"))
    assert tomllib.loads(text)["sweep"] == {"reynolds": [80.0, 120.0, 160.0]}
    assert given_by_toml(tmp_path, text).resolved() == config.resolved()
