"""The solver against theory and published numbers: viscosities, sound, inlet, outlet, vortex shedding."""

import numpy as np
import pytest

from lbm import units
from lbm.flow import FlowParameters, Simulation
from lbm.lattice import SOUND_SPEED
from lbm.obstacles import Obstacle

PAIRS = [(0.05, 0.005), (0.01, 0.1), (0.002, 0.3)]


def periodic_box(density, u, v, viscosity, bulk_viscosity):
    ny, nx = density.shape
    p = FlowParameters(
        ny=ny, nx=nx, obstacles=(), ends="periodic", dtype="float64", inflow_velocity=1e-3,
        viscosity=viscosity, bulk_viscosity=bulk_viscosity,
    )  # fmt: skip
    simulation = Simulation(p)
    simulation.set_flow(density, u, v)
    return simulation


def after(simulation, ticks):
    """Density, u, v (double precision) after further ticks."""
    simulation.advance(ticks)
    return simulation._update_moments()


@pytest.mark.parametrize(("viscosity", "bulk_viscosity"), PAIRS)
def test_shear_wave_decays_with_the_shear_viscosity(viscosity, bulk_viscosity):
    n, amplitude, ticks = 128, 1e-3, 400
    wave = np.sin(2 * np.pi * np.arange(n) / n)[:, None] * np.ones(8)
    box = periodic_box(np.ones((n, 8)), amplitude * wave, 0 * wave, viscosity, bulk_viscosity)
    first = (after(box, ticks)[1] * wave).sum()  # past the first relaxation
    second = (after(box, ticks)[1] * wave).sum()
    measured = -np.log(second / first) / ((2 * np.pi / n) ** 2 * ticks)
    assert measured == pytest.approx(viscosity, rel=1e-3)  # lattice error is of the order k^2 = 0.0024, times 1/12


@pytest.mark.parametrize(("viscosity", "bulk_viscosity"), PAIRS)
def test_standing_sound_wave_decays_with_both_viscosities_and_rings_at_the_speed_of_sound(viscosity, bulk_viscosity):
    n, k = 128, 2 * np.pi / 128
    wave = np.cos(k * np.arange(n)) * np.ones((8, 1))
    box = periodic_box(1 + 1e-5 * wave, 0 * wave, 0 * wave, viscosity, bulk_viscosity)
    series = np.array([((after(box, 2)[0] - 1) * wave).sum() for _ in range(1000)])
    t = 2.0 * np.arange(1, 1001)
    # amplitude and phase of exp(-gamma t + i omega t) from the linear recurrence of a damped oscillation
    a, b = np.linalg.lstsq(np.stack([series[1:-1], series[:-2]], 1), series[2:], rcond=None)[0]
    root = np.roots([1, -a, -b])[0]
    gamma, omega = -np.log(abs(root)) / (t[1] - t[0]), abs(np.angle(root)) / (t[1] - t[0])
    assert gamma == pytest.approx((viscosity + bulk_viscosity) * k**2 / 2, rel=0.01)
    assert np.hypot(omega, gamma) == pytest.approx(SOUND_SPEED * k, rel=1e-3)


def undisturbed(nx, fields, ticks, every, **options):
    """Density, u, v of the first 120 columns every few ticks, for an empty channel of length nx."""
    ny = fields(nx)[0].shape[0]
    p = FlowParameters(ny=ny, nx=nx, obstacles=(), viscosity=0.006, bulk_viscosity=0.006, dtype="float64", **options)
    simulation, series = Simulation(p), []
    simulation.set_flow(*fields(nx))
    for _ in range(0, ticks, every):
        simulation.advance(every)
        series.append(simulation._update_moments()[:, :, :120].copy())
    return np.array(series)


def test_outlet_throws_back_half_a_percent_of_a_sound_wave():
    def pulse(nx):
        bump = 1e-3 * np.exp(-(((np.arange(nx) - 60) / 8) ** 2)) * np.ones((16, 1))
        return 1 + bump, 0.1 + SOUND_SPEED * bump, 0 * bump  # runs to the right only

    short, long = (undisturbed(nx, pulse, 300, 10) for nx in (128, 600))
    assert np.abs(short - long)[:, 0].max() < 0.005 * 1e-3


def test_outlet_lets_an_eddy_go():
    speed, radius = 0.05, 6.0

    def eddy(nx):
        y, x = np.mgrid[:64, :nx].astype(float)
        x, y = x - 60, y - 31.5
        bell = np.exp((1 - (x**2 + y**2) / radius**2) / 2) * speed / radius
        return 1 - 1.5 * (bell * radius) ** 2, 0.1 - bell * y, bell * x

    short, long = (undisturbed(nx, eddy, 1000, 20) for nx in (128, 256))
    error = np.abs(short - long)[:, 1:].max((0, 1, 2))  # by column, over all times
    assert error[:100].max() < 0.01 * speed
    assert error.max() < 0.02 * speed


@pytest.mark.parametrize(
    ("profile", "sides"), [("parabolic", "no-slip"), ("uniform", "no-slip"), ("uniform", "free-slip")]
)
def test_inlet_lets_in_exactly_the_asked_flow_rate(profile, sides):
    # steady flow: what enters passes every section, whatever the profile has become there
    p = FlowParameters(
        ny=16, nx=64, obstacles=(), sides=sides, profile=profile, viscosity=0.05, bulk_viscosity=0.3, dtype="float64",
        inflow_velocity=0.05,
    )  # fmt: skip
    density, u, _ = after(Simulation(p), 12_000)
    np.testing.assert_allclose((density * u).mean(0), p.inflow_velocity, rtol=1e-6)


def test_inlet_lets_in_the_asked_flow_rate_before_a_cylinder():
    p = FlowParameters(viscosity=0.01, dtype="float64")
    simulation, rate = Simulation(p), []
    simulation.advance(4000)
    for _ in range(500):
        density, u, _ = after(simulation, 10)
        rate.append((density * u)[:, 1].mean())
    assert np.mean(rate) == pytest.approx(p.inflow_velocity, rel=1e-3)


def strouhal(p, ticks, drop):
    """Shedding frequency from the transverse velocity one and a half diameters behind the cylinder."""
    simulation, series, every = Simulation(p), [], 20
    x, y = round(p.obstacles[0].centre[0] + 2 * p.reference_length), round(p.obstacles[0].centre[1])
    for _ in range(0, ticks, every):
        simulation.advance(every)
        series.append(simulation._update_moments()[2, y, x])
    signal = np.array(series[drop // every :])
    up = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    crossing = up + signal[up] / (signal[up] - signal[up + 1])
    period = np.diff(crossing).mean() * every
    assert signal.std() > 0.1 * p.inflow_velocity  # it sheds
    assert len(crossing) > 5
    return p.reference_length / (period * p.inflow_velocity)


def blockage_speed(p, drag=1.35):
    """Speed-up between the sides: solid and wake blockage of Allen & Vincenti (1944), NACA report 782."""
    blockage = p.reference_length / p.ny
    return 1 + drag / 4 * blockage + np.pi**2 / 12 * blockage**2


def reynolds_100(diameter, height):
    """Cylinder ten diameters behind the inlet: at four, the fixed inlet velocity raises the frequency by 6 %."""
    ny, nx = int(height * diameter), 22 * diameter
    return FlowParameters(
        ny=ny,
        nx=nx,
        obstacles=(Obstacle("cylinder", (10 * diameter, ny / 2), diameter),),
        viscosity=diameter / 1000,
        sides="free-slip",
    )


def test_cylinder_sheds_at_the_strouhal_number_of_experiments():
    p = reynolds_100(10, 10)
    assert p.reynolds == pytest.approx(100)
    measured = strouhal(p, 22_000, 14_000) / blockage_speed(p)
    assert measured == pytest.approx(units.strouhal(100), rel=0.05)  # half-way walls at D = 10


@pytest.mark.slow
def test_finer_cylinder_sheds_within_two_percent_of_experiments():
    p = reynolds_100(18, 20)
    assert units.strouhal(100) == pytest.approx(0.1643, abs=1e-4)  # Williamson (1988)
    assert strouhal(p, 39_600, 23_400) / blockage_speed(p) == pytest.approx(0.1643, rel=0.02)


def test_reynolds_forty_does_not_shed():
    p = FlowParameters(
        ny=96, nx=168, obstacles=(Obstacle("cylinder", (40, 48), 12),), viscosity=0.03, sides="free-slip"
    )
    simulation = Simulation(p)
    simulation.advance(14_000)
    early = np.abs(simulation._update_moments()[2, 48, 64])
    simulation.advance(10_000)
    assert np.abs(simulation._update_moments()[2, 48, 64]) < max(early, 0.02 * p.inflow_velocity)


def test_outlet_keeps_the_mean_density():
    p = FlowParameters(obstacles=(), noise_streamwise=0.06, noise_transverse=0.2, viscosity=0.01)
    simulation, mean = Simulation(p), []
    for _ in range(100):
        simulation.advance(300)
        mean.append(simulation.fields(["density"])["density"].mean() - 1)
    # noise of u makes plane waves of density u' / c_s, 1 % rms here; without the outlet's pull the mean drifts by 5 %
    rms = 0.06 * p.inflow_velocity / SOUND_SPEED
    assert np.std(mean) < rms
    assert abs(np.mean(mean)) < rms / 2
