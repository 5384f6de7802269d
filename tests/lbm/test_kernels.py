"""The fused in-place kernel against the plain reference; collision laws; bits; vector code."""

import platform
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numba
import numpy as np
import pytest

from lbm import boundaries, flow, kernels, reference, units
from lbm.flow import FlowParameters, Simulation
from lbm.inflow import Inflow
from lbm.lattice import CX, CY, OPPOSITE, SOUND_SPEED, W

SMALL = FlowParameters(
    ny=33, nx=58, viscosity=0.01, bulk_viscosity=0.05, diameter=9.5, centre=(15.2, 16.3), ramp=60,
    noise_streamwise=0.06, noise_transverse=0.2, noise_time=30, seed=3, dtype="float64",
)  # fmt: skip


def run_reference(p: FlowParameters, ticks: int) -> np.ndarray:
    """Moments (3, ny, nx) after `ticks` by the oracle."""
    rates = units.relaxation_rates(p.viscosity, p.bulk_viscosity, p.lambda_)
    profile, inflow = boundaries.inlet_profile(p.ny, p.sides), Inflow(p).next(0, ticks)
    simulation = Simulation(p)
    solid = simulation.solid
    f = reference.equilibrium(*simulation._update_moments().copy())
    f[:, solid] = W[:, None]
    for tick in range(ticks):
        if tick % 2 == 0:
            absorbed = reference.absorption(f, p.inflow_velocity, SOUND_SPEED, flow.OUTLET_GAIN)
        outlet = (p.inflow_velocity, absorbed)
        f = reference.step(f, rates, solid, sides=p.sides, inflow=inflow[tick], profile=profile, outlet=outlet)
    density, u, v = reference.moments(f)
    return np.stack([density, np.where(solid, 0, u), np.where(solid, 0, v)])


@pytest.mark.parametrize("sides", ["periodic", "free-slip"])
@pytest.mark.parametrize("obstacle", ["cylinder", "none"])
@pytest.mark.parametrize("ticks", [200, 201])
def test_fused_kernel_equals_reference(sides, obstacle, ticks):
    p = replace(SMALL, sides=sides, obstacle=obstacle)
    simulation = Simulation(p)
    simulation.advance(ticks)
    expected = run_reference(p, ticks)
    assert np.abs(expected[1:]).max() > 0.05  # the flow has started
    np.testing.assert_allclose(simulation._update_moments(), expected, rtol=0, atol=1e-12)


def test_collision_conserves_mass_and_momentum():
    rng = np.random.default_rng(0)
    f = (rng.standard_normal((9, 500)) * 0.02 * W[:, None]).astype(np.float64)
    after, start = f.ravel().copy(), np.arange(9, dtype=np.uint64) * np.uint64(500)
    collide(after, start, np.uint64(500), 1.9, 1.3, 1.7)
    after = after.reshape(9, 500)[OPPOSITE]  # the even tick leaves the result of q in slot -c_q
    assert np.abs(after - f).max() > 1e-4
    for invariant in (np.ones(9), CX, CY):
        np.testing.assert_allclose(invariant @ after, invariant @ f, rtol=0, atol=1e-15)


@numba.njit
def collide(f, a, n, sv, sb, sq):
    kernels.collide_segment(f, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], n, sv, sb, sq)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sides", ["periodic", "free-slip"])
def test_any_split_of_ticks_gives_the_same_bits(dtype, sides):
    p = replace(SMALL, dtype=dtype, sides=sides)
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


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
@pytest.mark.parametrize("kernel", [kernels.even_row, kernels.odd_row])
@pytest.mark.parametrize(("dtype", "suffix"), [("float32", "ps"), ("float64", "pd")])
def test_hot_loop_is_vector_code(kernel, dtype, suffix):
    p = replace(SMALL, dtype=dtype)
    g = boundaries.geometry(Simulation(p).solid, sides=p.sides, open_ends=True, dtype=p.dtype)
    fresh = numba.njit(kernel.py_func, **{**kernels.OPTIONS, "cache": False})  # a cached one has no assembly
    fresh(np.zeros(9 * int(g.plane), dtype), g, np.uint64(3), np.ones(3, dtype))
    assembly = fresh.inspect_asm(fresh.signatures[0])
    # a collision makes some 80 additions, subtractions and multiplications: all of them on [xyz]mm vectors
    packed = re.findall(rf"\bv?(?:add|sub|mul|fn?m(?:add|sub)\d+){suffix}\b", assembly)
    assert len(packed) >= 60
