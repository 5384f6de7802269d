"""The fused in-place kernel against the plain reference; collision laws; bits; vector code."""

import platform
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numba
import numpy as np
import pytest

from lbm import boundaries, kernels, reference, units
from lbm.flow import OUTLET_GAIN, FlowParameters, Simulation
from lbm.inflow import Inflow
from lbm.lattice import CX, CY, OPPOSITE, SOUND_SPEED, W
from lbm.obstacles import Obstacle

CYLINDER = Obstacle("cylinder", (15.2, 16.3), 9.5)
SMALL = FlowParameters(
    ny=33, nx=58, viscosity=0.01, bulk_viscosity=0.05, obstacles=(CYLINDER,), ramp=60,
    noise_streamwise=0.06, noise_transverse=0.2, noise_time=30, seed=3, dtype="float64",
)  # fmt: skip
STILL = replace(SMALL, noise_streamwise=0, noise_transverse=0)
TURNING = (replace(CYLINDER, spin=0.01), Obstacle("cylinder", (30.4, 10.1), 6.3))
FLOWS = {
    "periodic sides": SMALL,
    "free-slip sides": replace(SMALL, sides="free-slip"),
    "no-slip sides": replace(SMALL, sides="no-slip", profile="parabolic", inflow_velocity=0.06),
    "moving side": replace(SMALL, sides="no-slip", side_velocity=(-0.02, 0.05)),
    "no obstacle": replace(SMALL, obstacles=()),
    "half-way walls": replace(SMALL, walls="half-way"),
    "two cylinders, one turning": replace(SMALL, obstacles=TURNING),
    "sponge": replace(SMALL, outlet="sponge", sponge_length=12),
    "start from rest": replace(SMALL, startup=300),
    "body force": replace(SMALL, body_force=(2e-5, -1e-5)),
    "two relaxation times": replace(SMALL, collision="trt", viscosity=0.02, bulk_viscosity=0.02),
    "one relaxation time": replace(SMALL, collision="bgk", viscosity=0.02, bulk_viscosity=0.02, sides="free-slip"),
    "regularised": replace(SMALL, collision="regularised"),
    "Lambda": replace(SMALL, lambda_=3 / 16, viscosity=0.02),
    "periodic ends": replace(STILL, ends="periodic", sides="no-slip", body_force=(5e-5, 0)),
    "box": replace(STILL, ends="walls", sides="no-slip", side_velocity=(0, 0.1), obstacles=TURNING),
    "slippery box": replace(STILL, ends="walls", sides="free-slip", body_force=(5e-5, 2e-5)),
    "periodic box": replace(STILL, ends="periodic", obstacles=TURNING, body_force=(1e-5, 2e-5)),
}


def circle_fraction(obstacles):
    """Share of a link outside a circle, by the quadratic formula."""

    def fraction(y, x, q, body):
        o = obstacles[body]
        px, py, dx, dy = x - o.centre[0], y - o.centre[1], -CX[q], -CY[q]
        a, b, c = dx * dx + dy * dy, px * dx + py * dy, px * px + py * py - o.size**2 / 4
        return (-b - np.sqrt(b * b - a * c)) / a

    return fraction


def surface_velocity(obstacles):
    def velocity(y, x, body):
        o = obstacles[body]
        return -o.spin * (y - o.centre[1]), o.spin * (x - o.centre[0])

    return velocity


def oracle(p: FlowParameters) -> reference.Flow:
    y, x = np.mgrid[: p.ny, : p.nx]
    body = np.full((p.ny, p.nx), -1)
    for number, o in enumerate(p.obstacles):
        body[np.hypot(x - o.centre[0], y - o.centre[1]) < o.size / 2] = number
    return reference.Flow(
        body=body,
        fraction=circle_fraction(p.obstacles) if p.walls == "interpolated" else lambda *_: 0.5,
        wall_velocity=surface_velocity(p.obstacles),
        sides=p.sides,
        ends=p.ends,
        side_velocity=p.side_velocity,
        profile=boundaries.inlet_profile(p.ny, p.sides, p.profile),
        rates=units.relaxation_rates(p.viscosity, p.bulk_viscosity, p.lambda_, p.collision),
        force=p.body_force,
        sponge=boundaries.sponge(p.sponge_cells),
    )


def run_reference(p: FlowParameters, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """(moments (3, ny, nx) after `ticks`, forces (ticks, obstacles, 2)) by the oracle."""
    inflow, flow, forces = Inflow(p).next(0, ticks), oracle(p), []
    simulation = Simulation(p)
    density, u, v = simulation._update_moments().copy()
    half = (3 * W * (CX * p.body_force[0] + CY * p.body_force[1]) / 2)[:, None, None]
    f = reference.equilibrium(density, u, v) - half
    f[:, flow.body >= 0] = W[:, None]
    absorbed = None
    for tick in range(ticks):
        if tick % 2 == 0:
            absorbed = reference.absorption(f, inflow[tick, 2], SOUND_SPEED, OUTLET_GAIN)
        f, force = reference.step(f, flow, inflow=inflow[tick], absorbed=absorbed)
        forces.append(force[: len(p.obstacles)])
    density, u, v = reference.moments(f)
    u, v = u + p.body_force[0] / 2 / density, v + p.body_force[1] / 2 / density
    return np.where(flow.body >= 0, np.array([1, 0, 0])[:, None, None], [density, u, v]), np.array(forces)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("ticks", [150, 151])
def test_fused_kernel_equals_reference(name, ticks):
    p = FLOWS[name]
    simulation = Simulation(p)
    forces = simulation.advance(ticks)
    expected, expected_forces = run_reference(p, ticks)
    assert np.abs(expected[1:]).max() > 0.002  # something flows
    np.testing.assert_allclose(simulation._update_moments(), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-13)


def test_fused_kernel_equals_reference_after_a_thousand_ticks():
    p = replace(FLOWS["no-slip sides"], obstacles=TURNING)
    simulation = Simulation(p)
    forces = simulation.advance(1000)
    expected, expected_forces = run_reference(p, 1000)
    np.testing.assert_allclose(simulation._update_moments(), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bands_give_the_bits_of_one_thread(name, dtype):
    p = replace(FLOWS[name], dtype=dtype)
    serial, bands = Simulation(p), Simulation(p, threads=3)
    assert bands._bands == 3
    for ticks in (101, 1, 2, 3, 50):
        np.testing.assert_array_equal(serial.advance(ticks), bands.advance(ticks))
    for key, expected in serial.state().items():
        np.testing.assert_array_equal(bands.state()[key], expected, err_msg=key)


def test_collision_conserves_mass_and_momentum():
    rng = np.random.default_rng(0)
    f = (rng.standard_normal((9, 500)) * 0.02 * W[:, None]).astype(np.float64)
    after, start = f.ravel().copy(), np.arange(9, dtype=np.uint64) * np.uint64(500)
    collide(after, start, np.uint64(500), np.array([1.9, 1.3, 1.7, 1.0, 0, 0]))
    after = after.reshape(9, 500)[OPPOSITE]  # the even tick leaves the result of q in slot -c_q
    assert np.abs(after - f).max() > 1e-4
    for invariant in (np.ones(9), CX, CY):
        np.testing.assert_allclose(invariant @ after, invariant @ f, rtol=0, atol=1e-15)


@numba.njit
def collide(f, a, n, rates):
    kernels.collide_segment(f, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], n, rates, False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["periodic sides", "no-slip sides", "two cylinders, one turning", "sponge"])
def test_any_split_of_ticks_gives_the_same_bits(dtype, name):
    p = replace(FLOWS[name], dtype=dtype)
    whole, split = Simulation(p), Simulation(p)
    whole.advance(5001)  # past a block of noise
    rng, left = np.random.default_rng(1), 5001
    while left:
        ticks = min(left, int(rng.choice([1, 2, 3, 64, 501])))
        split.advance(ticks)
        left -= ticks
    for name, expected in whole.state().items():
        np.testing.assert_array_equal(split.state()[name], expected, err_msg=name)


def test_simulations_in_threads_give_the_bits_of_one_thread():
    def run(trajectory):
        simulation = Simulation(replace(SMALL, trajectory=trajectory))
        simulation.advance(400)
        return simulation.state()["populations"]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, range(3)))
    for trajectory, populations in enumerate(together):
        np.testing.assert_array_equal(populations, run(trajectory))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_row_that_prefetches_gives_the_bits_of_one_that_does_not(dtype):
    simulation = Simulation(replace(SMALL, dtype=dtype))
    simulation.advance(101)
    g, rates = simulation._geometry, simulation._rates
    plain, ahead = simulation._f.copy(), simulation._f.copy()
    for y in range(1, g.grid.ny + 1):  # also rows cut by the cylinder, whose segments are no multiple of a piece
        kernels.odd_row(plain, g.grid, g.rows, np.uint64(y), rates)
        kernels.odd_row_ahead(ahead, g.grid, g.rows, np.uint64(y), rates)
    assert np.abs(plain - simulation._f).max() > 1e-4
    np.testing.assert_array_equal(ahead, plain)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
@pytest.mark.parametrize(
    "kernel",
    [kernels.even_row, kernels.odd_row, kernels.odd_row_ahead, kernels.general_even_row, kernels.general_odd_row],
)
@pytest.mark.parametrize(("dtype", "suffix"), [("float32", "ps"), ("float64", "pd")])
def test_hot_loop_is_vector_code(kernel, dtype, suffix):
    p = replace(SMALL, dtype=dtype)
    g = Simulation(p)._geometry
    fresh = numba.njit(kernel.py_func, **{**kernels.OPTIONS, "cache": False})  # a cached one has no assembly
    fresh(np.zeros(9 * int(g.grid.plane), dtype), g.grid, g.rows, np.uint64(3), np.ones(6, dtype))
    assembly = fresh.inspect_asm(fresh.signatures[0])
    # a collision makes some 80 additions, subtractions and multiplications: all of them on [xyz]mm vectors
    packed = re.findall(rf"\bv?(?:add|sub|mul|fn?m(?:add|sub)\d+){suffix}\b", assembly)
    assert len(packed) >= 60
