"""A sweep is the product of its lists: every combination once, every run with its own noise and one split."""

import contextlib
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lbm
from lbm import recording, sweep
from lbm.config import SimulateConfig
from lbm.errors import UsageError
from lbm.settings import resolve
from lbm.splits import SPLITS

VALUES = {
    "viscosity": st.floats(0.005, 0.5),
    "noise_time": st.floats(1, 1000),
    "diameter": st.floats(4, 60),
    "seed": st.integers(0, 10**9),
    "startup": st.integers(0, 10**6),
}
SWEEPS = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.lists(VALUES[name], min_size=1, max_size=5, unique=True) for name in names}
    )
)


def swept(**flags):
    return resolve(SimulateConfig, file=None, sets=[], flags=flags)


@settings(deadline=None, max_examples=60)
@given(SWEEPS, st.integers(1, 3))
def test_every_combination_appears_as_often_as_there_are_trajectories(lists, trajectories):
    config = SimulateConfig(sweep=lists, trajectories=trajectories).resolved()
    runs = sweep.runs(config)
    expected = [one for one in itertools.product(*lists.values()) for _ in range(trajectories)]
    assert len(runs) == config.runs == len(expected)
    for k, (run, values) in enumerate(zip(runs, expected, strict=True)):
        for name, value in zip(lists, values, strict=True):
            # a diameter becomes the size of the obstacle
            assert (run.obstacles[0].size if name == "diameter" else getattr(run, name)) == value
            assert sweep.column(config, name)[k] == value
        assert run.reynolds == pytest.approx(run.inflow_velocity * run.length / run.viscosity)
        assert sweep.column(config, "reynolds")[k] == pytest.approx(run.reynolds)


@settings(deadline=None, max_examples=60)
@given(SWEEPS, st.integers(1, 3))
def test_no_two_runs_share_their_random_numbers(lists, trajectories):
    config = SimulateConfig(sweep=lists, trajectories=trajectories).resolved()
    keys = [(run.seed, run._stream) for run in sweep.runs(config)]
    assert len(set(keys)) == len(keys)


@settings(deadline=None, max_examples=100)
@given(
    SWEEPS,
    st.integers(1, 4),
    st.sampled_from([(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.34, 0.33, 0.33), (0.0, 0.0, 1.0)]),
)
def test_splits_are_disjoint_and_complete(lists, trajectories, split):
    config = SimulateConfig(sweep=lists, trajectories=trajectories, split=split).resolved()
    labels = config.splits
    assert len(labels) == config.runs
    assert tuple(labels.count(name) for name in SPLITS) == config.split
    assert labels == config.resolved().splits


@settings(deadline=None)
@given(st.integers(10, 400))
def test_each_split_covers_the_range_of_a_sweep(number):
    """Gaps of the golden-ratio sequence are at most phi^3 = 4.24 times the mean one (three-gap theorem)."""
    config = SimulateConfig(sweep={"reynolds": [50 + k for k in range(number)]}).resolved()
    labels = config.splits
    for name in SPLITS:
        where = [k for k, label in enumerate(labels) if label == name]
        gaps = np.diff([-1, *where, number])
        assert gaps.max() <= math.ceil(4.24 * number / len(where))
    assert labels[0] == labels[-1] == "train"


@pytest.mark.parametrize("order", [("viscosity", "seed"), ("seed", "viscosity")])
def test_in_two_dimensions_no_split_misses_a_parameter(order):
    """10 x 10 runs, 10 of them for testing: a plain stride of 10 would test one value of one parameter only."""
    lists = {"viscosity": tuple(0.01 * (k + 1) for k in range(10)), "seed": tuple(range(10))}
    config = SimulateConfig(sweep={name: lists[name] for name in order}).resolved()
    tested = np.array(config.splits) == "test"
    for name in order:
        assert len(set(sweep.column(config, name)[tested])) >= 7


def test_held_out_runs_are_for_testing_and_others_still_share():
    config = swept(sweep={"reynolds": "80:400:20"}, held_out={"reynolds": "150:200"}).resolved()
    labels, reynolds = np.array(config.splits), sweep.column(config, "reynolds")
    inside = (reynolds >= 150) & (reynolds <= 200)
    assert inside.sum() == 3  # 160, 180, 200
    assert set(labels[inside]) == {"test"}
    assert config.split == tuple(float((labels[~inside] == name).sum()) for name in SPLITS)
    assert set(labels[~inside]) == set(SPLITS)


def test_runs_can_be_held_out_by_a_derived_number():
    """Re = 0.1 * 16 / nu: 320, 160, 80."""
    config = swept(sweep={"viscosity": "0.005,0.01,0.02"}, held_out={"reynolds": "100:200"}, split="1,0,0").resolved()
    assert config.splits == ["train", "test", "train"]


def test_one_warm_up_serves_all_runs():
    """75 D / U ticks of the largest obstacle: 75 * 20 / 0.1 / 128 = 117.2."""
    assert swept(sweep={"diameter": "8,20,12"}).resolved().warmup == 118


def test_a_swept_parameter_takes_the_place_of_the_given_one():
    config = swept(reynolds=100.0, viscosity=0.01, sweep={"viscosity": "0.01,0.02"}).resolved()
    # U = Re nu / D with D = 16
    assert [run.inflow_velocity for run in sweep.runs(config)] == pytest.approx([0.0625, 0.125])


def test_a_run_of_a_swept_seed_is_that_of_the_seed_alone():
    alone = recording.parameters(SimulateConfig(seed=3).resolved(), 0)
    config = swept(sweep={"seed": "0:5"}).resolved()
    assert recording.parameters(config, 3) == alone
    assert recording.parameters(sweep.runs(config)[3], 3) == alone


def test_runs_are_a_sequence_that_travels():
    config = swept(sweep={"viscosity": "0.01,0.02", "seed": "0:3"}).resolved()
    runs = sweep.runs(config)
    assert list(pickle.loads(pickle.dumps(runs))) == list(runs)
    assert runs[-1] == runs[5]
    assert runs[1:3] == [runs[1], runs[2]]
    with pytest.raises(IndexError):
        runs[6]


def test_a_command_line_sweep_adds_to_that_of_the_file(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[sweep]\nreynolds = [80, 90]\nseed = "0:2"\n[held_out]\nreynolds = [85, 95]\n')
    config = resolve(SimulateConfig, file=file, sets=["sweep.noise_time=100,200"], flags={"sweep": {"seed": "4:8"}})
    assert config.sweep == {"reynolds": (80.0, 90.0), "seed": (4, 5, 6, 7), "noise_time": (100.0, 200.0)}
    assert config.held_out == {"reynolds": ((85.0, 95.0),)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sweep": {"viscosty": "1"}}, "did you mean 'viscosity'"),
        ({"sweep": {"frames": "10,20"}}, "cannot sweep 'frames'"),
        ({"sweep": {"viscosity": "0.01,-1"}}, r"sweep of viscosity holds -1.0: .*greater than 0"),
        ({"sweep": {"seed": "1.5"}}, "valid integer"),
        ({"sweep": {"seed": "3:1"}}, "no numbers"),
        ({"sweep": {"seed": "0:10000000000"}}, "too many"),
        ({"sweep": {"seed": "0:x"}}, "range a:b"),
        ({"sweep": {"viscosity": "0.01:0.02"}}, "of integers"),
        ({"sweep": {"seed": "1,1"}}, "twice"),
        ({"sweep": {"seed": ""}}, "wanted a number"),
        ({"sweep": {"seed": "0:2000", "startup": "0:2000"}}, "more than 1,000,000 runs"),
        ({"sweep": {"seed": "0:4"}, "split": "3,2,1"}, "counts 6 runs, the sweep leaves 4"),
        ({"sweep": {"diameter": "8,9"}, "obstacle": "none"}, "there is no obstacle"),
        ({"held_out": {"reynolds": "1:2"}}, "there is none: give --sweep"),
        ({"sweep": {"reynolds": "80,90"}, "held_out": {"reynolds": "100:120"}}, r"holds out nothing.*80 to 90"),
        ({"sweep": {"reynolds": "80,90"}, "held_out": {"reynolds": "90:80"}}, "wanted low:high"),
        ({"sweep": {"reynolds": "80,90"}, "held_out": {"reynolds": "a"}}, "wanted low:high"),
        ({"sweep": {"reynolds": "80,90"}, "held_out": {"seed": "1:2"}}, "not swept"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused_in_one_line(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        swept(**flags).resolved()
    assert len(str(caught.value).splitlines()) == 1


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["seed", "reynolds", "x"]), st.text("0123456789:,.-e ", max_size=12), max_size=2)
)
def test_any_text_as_a_sweep_is_taken_or_refused_cleanly(lists):
    with contextlib.suppress(UsageError):
        swept(sweep=lists)


def test_the_first_combination_that_cannot_work_is_named_before_anything_is_made(tmp_path):
    lists = {"reynolds": "90,80", "seed": "0:3", "inflow_velocity": "0.1,0.3"}
    with pytest.raises(UsageError, match=r"^reynolds 90, inflow_velocity 0.3: Mach number 0.52"):
        lbm.simulate(output=tmp_path / "flow.zarr", sweep=lists)
    assert list(tmp_path.iterdir()) == []


def test_each_run_of_a_sweep_is_the_run_of_its_own_parameters(tmp_path):
    small = {"size": (32, 64), "viscosity": 0.02, "frames": 3, "every": 20, "warmup": 1}
    path = lbm.simulate(
        output=tmp_path / "flow.zarr", sweep={"diameter": "6,10", "angle": "0,45"}, obstacle="square", **small
    )
    ds = lbm.open_dataset(path)
    assert ds["diameter"].values.tolist() == [6, 6, 10, 10]
    assert ds["angle"].values.tolist() == [0, 45, 0, 45]
    assert ds["reynolds"].values == pytest.approx([30, 30, 50, 50])
    simulation = lbm.Simulation(recording.parameters(recording.stored_config(path), 3))
    np.testing.assert_array_equal(ds["solid"].values[3], simulation.solid)
    assert ds["solid"].values[2].sum() == 9 * 9  # centres within 5 cells of (16, 16), walls excluded
    simulation.advance(60)
    np.testing.assert_array_equal(ds["vorticity"].values[3, 2], simulation.fields(["vorticity"])["vorticity"])
