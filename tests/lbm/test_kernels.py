"""The fused in-place kernel against the plain reference; collision laws; bits; vector code."""

from dataclasses import replace

import numpy as np
import pytest

from lbm import boundaries, flow, reference, units
from lbm.flow import FlowParameters, Simulation
from lbm.inflow import Inflow
from lbm.lattice import SOUND_SPEED, W

SMALL = FlowParameters(
    ny=33, nx=58, viscosity=0.01, bulk_viscosity=0.05, diameter=9.5, centre=(15.2, 16.3), ramp=60,
    noise_streamwise=0.06, noise_transverse=0.2, noise_time=30, seed=3, dtype="float64",
)  # fmt: skip
PERIODIC_BOX = {"sides": "periodic", "open_ends": False}


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
            absorbed = reference.absorption(f, SOUND_SPEED, flow.PRESSURE_RELAXATION)
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
