"""The Simulation object: refusals, fields, restart, divergence."""

from dataclasses import replace

import numpy as np
import pytest

from lbm import limits
from lbm.errors import DataError, NumericalError, UsageError
from lbm.flow import FIELDS, FlowParameters, Simulation, check_parameters
from lbm.obstacles import Obstacle

NOISY = FlowParameters(noise_streamwise=0.06, noise_transverse=0.2, seed=5)


def cylinder(x=24.0, y=32.0, diameter=12.0, **options):
    return {"obstacles": (Obstacle("cylinder", (x, y), diameter), *options.pop("others", ())), **options}


REFUSED = {
    "Mach number 0.35": {"inflow_velocity": 0.2},
    "Mach number 0.72 expected": {"inflow_velocity": 0.14, "noise_transverse": 0.3, "viscosity": 0.01},
    "too low for this grid": {"viscosity": 1e-4},
    "too high for an explicit lattice": {"bulk_viscosity": 2.0},
    "2 cells from the inlet": cylinder(4.0),
    "4 from the outlet": cylinder(125.0),
    "inside the 64 cells": cylinder(y=60.0),
    "has no shape": cylinder(diameter=2.0),
    "of the channel": cylinder(40.0, 32.0, 40.0),
    "wanted one of cylinder": {"obstacles": (Obstacle("hexagon", (24.0, 32.0), 12.0),)},
    "wanted one of periodic": {"sides": "sticky"},
    "wanted one of float32": {"dtype": "float16"},
    "ny is 2, wanted at least 8": {"ny": 2},
    "viscosity is nan": {"viscosity": float("nan")},
    "viscosity is -0.1": {"viscosity": -0.1},
    "noise_time is 0": {"noise_time": 0},
    "noise_transverse is -1": {"noise_transverse": -1},
    "turn the flow back": {"noise_streamwise": 0.9},
    "seed is -1": {"seed": -1},
    "wanted one of open, periodic, walls": {"ends": "closed"},
    "wanted one of uniform, parabolic": {"profile": "linear"},
    "wanted one of mrt, trt, bgk, regularised": {"collision": "srt"},
    "wanted one of interpolated, half-way": {"walls": "curved"},
    "wanted one of convective, sponge": {"outlet": "pressure"},
    "body_force is .*wanted two numbers": {"body_force": (float("inf"), 0.0)},
    "needs no-slip sides": {"side_velocity": (0.0, 0.1)},
    "a parabolic inlet needs no-slip sides": {"profile": "parabolic"},
    "Mach number 0.35 of a side": {"sides": "no-slip", "side_velocity": (0.0, 0.2), "viscosity": 0.01},
    "is a property of the inlet": {"ends": "periodic", "noise_transverse": 0.1},
    "a sponge needs an outlet": {"ends": "walls", "outlet": "sponge"},
    "leaves too little": {"outlet": "sponge", "sponge_length": 100},
    "reaches into the sponge": cylinder(90.0, outlet="sponge", sponge_length=40),
    "one rate for both viscosities": {"collision": "bgk", "viscosity": 0.02},
    "collision 'bgk'.*or choose --collision mrt": {"collision": "bgk", "viscosity": 0.001, "bulk_viscosity": 0.001},
    "limit 6; relaxation time 0.5300 too close to 1/2": {"lambda_": 0.25, "viscosity": 0.01},
    "lambda fixes the third-order rate": {"collision": "regularised", "lambda_": 0.25},
    "lambda is 1e.09": {"lambda_": 1e9},
    "body force 0.5 is too strong": {"body_force": (0.5, 0.0)},
    "drives the channel to Mach": {
        **{"obstacles": (), "ends": "periodic", "sides": "no-slip", "body_force": (1e-3, 0.0)},
        "viscosity": 0.05,
    },
    "lambda_ is 0": {"lambda_": 0.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_cannot_work_are_refused_with_the_reason(message):
    with pytest.raises(UsageError, match=message):
        Simulation(FlowParameters(**REFUSED[message]))


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, None),
        ({"inflow_velocity": 0.15, "viscosity": 0.01}, "Mach number 0.26"),
        ({"viscosity": 0.0015}, "per cell"),
        (cylinder(diameter=20.0), "31% of the channel"),
    ],
)
def test_doubtful_settings_are_warned_of(options, warning):
    warnings = check_parameters(FlowParameters(**options))
    assert (warning is None) == (not warnings)
    assert all(warning in text for text in warnings)


def test_fields_are_float32_frames_with_the_obstacle_at_rest():
    simulation = Simulation(NOISY)
    for ticks in (500, 1):  # both layouts of the populations
        simulation.advance(ticks)
        fields = simulation.fields()
        assert tuple(fields) == FIELDS
        assert all(a.shape == (64, 128) and a.dtype == np.float32 and np.isfinite(a).all() for a in fields.values())
        for name, inside in (("vorticity", 0), ("velocity_x", 0), ("velocity_y", 0), ("density", 1)):
            assert (fields[name][simulation.solid] == inside).all()
        assert fields["velocity_x"][~simulation.solid].mean() == pytest.approx(0.1, rel=0.15)


def test_vorticity_of_solid_rotation_is_twice_the_rate():
    simulation, rate = Simulation(FlowParameters(obstacles=(), ny=32, nx=48, dtype="float64")), 1e-3
    y, x = np.mgrid[:32, :48].astype(float)
    simulation.set_flow(np.ones((32, 48)), -rate * (y - 15.5), rate * (x - 23.5))
    vorticity = simulation.fields(["vorticity"])["vorticity"]
    np.testing.assert_allclose(vorticity[1:-1], 2 * rate, rtol=1e-5)  # rows 0 and -1 wrap around


def test_box_filter_is_the_mean_over_boxes():
    simulation = Simulation(NOISY)
    simulation.advance(300)
    fine, coarse = simulation.fields(), simulation.fields(frame_size=(32, 32))
    for name in FIELDS:
        boxes = fine[name].astype(float).reshape(32, 2, 32, 4).mean((1, 3))
        np.testing.assert_allclose(coarse[name], boxes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("frame_size", [(30, 64), (128, 128), (0, 64)])
def test_frame_size_must_divide_the_grid(frame_size):
    with pytest.raises(UsageError, match="must divide"):
        Simulation(NOISY).fields(["density"], frame_size)


def test_unknown_field_is_refused():
    with pytest.raises(UsageError, match="unknown field 'temperature'"):
        Simulation(NOISY).fields(["temperature"])


@pytest.mark.parametrize("tick", [640, 641])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_restored_simulation_continues_to_the_same_bits(tick, dtype):
    p = replace(NOISY, dtype=dtype)
    original, restored = Simulation(p), Simulation(p)
    original.advance(tick)
    restored.restore(original.state())
    for simulation in (original, restored):
        simulation.advance(501)
    assert restored.tick == original.tick
    for name, array in original.state().items():
        np.testing.assert_array_equal(restored.state()[name], array)
    for name, field in original.fields().items():
        np.testing.assert_array_equal(restored.fields()[name], field)


def test_state_restored_under_another_seed_has_another_future():
    first, other = Simulation(NOISY), Simulation(replace(NOISY, seed=99))
    first.advance(3000)
    other.restore(first.state())
    np.testing.assert_array_equal(first.fields()["vorticity"], other.fields()["vorticity"])
    for simulation in (first, other):
        simulation.advance(1000)
    assert np.abs(first.fields()["vorticity"] - other.fields()["vorticity"]).max() > 1e-3


def test_state_of_another_size_is_refused():
    state = Simulation(replace(NOISY, nx=96)).state()
    with pytest.raises(DataError, match="restart state: populations"):
        Simulation(NOISY).restore(state)
    state.pop("tick")
    with pytest.raises(DataError, match="restart state: tick is nothing"):
        Simulation(NOISY).restore(state)


def test_trajectories_differ_and_seeds_repeat():
    def frame(**changes):
        simulation = Simulation(replace(NOISY, **changes))
        simulation.advance(2000)
        return simulation.fields(["vorticity"])["vorticity"]

    base = frame()
    np.testing.assert_array_equal(frame(), base)
    for changes in ({"trajectory": 1}, {"seed": 6}):
        assert np.abs(frame(**changes) - base).max() > 1e-3


def test_symmetric_set_up_sheds_because_of_the_pulse():
    p = FlowParameters(**cylinder(y=31.5), dtype="float64", sides="free-slip")
    simulation = Simulation(p)
    simulation.advance(12_000)
    v = simulation.fields(["velocity_y"])["velocity_y"]
    assert np.abs(v[31:33, 60:]).max() > 0.03


def test_diverging_flow_is_reported_with_tick_and_advice(monkeypatch):
    # Lambda = 1/4 is unstable at this cell Reynolds number, which is refused beforehand unless one insists
    monkeypatch.setattr(limits, "LAMBDA_LIMIT", ((np.inf, np.inf),))
    simulation = Simulation(FlowParameters(viscosity=0.001, lambda_=0.25, trajectory=3))

    def run():
        for _ in range(100):
            simulation.advance(100)
            simulation.check()

    with pytest.raises(NumericalError, match=r"tick \d+ of trajectory 3.*raise --viscosity"):
        run()
    simulation.advance(2000)
    with pytest.raises(NumericalError, match="diverged before tick"):
        simulation.check()


def test_healthy_flow_passes_its_check():
    simulation = Simulation(NOISY)
    for _ in range(20):
        simulation.advance(500)
        simulation.check()
