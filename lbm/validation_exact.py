"""Flows whose solution is known in closed form: channel, vortices, shear and sound waves.

Everything here runs in double precision, and looks at the populations themselves: `Simulation.fields` rounds to
single precision, which would hide what is measured.
"""

from collections.abc import Sequence

import numpy as np

from lbm.flow import FlowParameters, Simulation
from lbm.lattice import SOUND_SPEED, W
from lbm.reference import moments
from lbm.units import viscosity_of
from lbm.validation_result import Outcome, Result, fitted_order

MAGIC = 3 / 16  # Lambda for which a half-way wall lies exactly half-way under a parabolic profile


def double_fields(simulation: Simulation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density and velocity (ny, nx) in double precision; half the body force belongs to the velocity (Guo 2002)."""
    populations = simulation.state()["populations"].astype(np.float64)
    density, u, v = moments(populations + W[:, None, None])
    ax, ay = simulation.parameters.body_force
    return density, u + ax / density / 2, v + ay / density / 2


def box(density: np.ndarray, u: np.ndarray, v: np.ndarray, viscosity: float, bulk_viscosity: float) -> Simulation:
    """A flow periodic in x and y, from given fields (ny, nx)."""
    ny, nx = density.shape
    p = FlowParameters(
        ny=ny, nx=nx, obstacles=(), sides="periodic", ends="periodic", dtype="float64",
        viscosity=viscosity, bulk_viscosity=bulk_viscosity, inflow_velocity=max(1e-6, float(np.hypot(u, v).max())),
    )  # fmt: skip
    simulation = Simulation(p)
    simulation.set_flow(density, u, v)
    return simulation


# ---------------------------------------------------------------------------------------------------------- channel


def poiseuille_error(height: int, tau: float, lambda_: float | None, speed: float = 0.01) -> float:
    """Largest error of the velocity between no-slip sides driven by a body force, relative to its maximum."""
    nu = viscosity_of(tau)
    p = FlowParameters(
        ny=height, nx=8, obstacles=(), sides="no-slip", ends="periodic", dtype="float64", viscosity=nu,
        bulk_viscosity=nu, inflow_velocity=speed, body_force=(8 * nu * speed / height**2, 0.0), collision="trt",
        lambda_=lambda_,
    )  # fmt: skip
    simulation = Simulation(p)
    y = np.arange(height) + 0.5
    exact = 4 * speed * y * (height - y) / height**2
    start = np.repeat(0.5 * exact[:, None], 8, axis=1)  # 32 decay times of the slowest mode: down to rounding
    simulation.set_flow(np.ones((height, 8)), start, 0 * start)
    simulation.advance(2 * int(32 * height**2 / (np.pi**2 * nu) / 2))
    return float(np.abs(double_fields(simulation)[1] - exact[:, None]).max() / speed)


def poiseuille(taus: Sequence[float] = (0.52, 0.6, 0.8, 1.0, 2.0, 3.0)) -> Outcome:
    """Poiseuille flow: exact to rounding for any relaxation time at Lambda = 3/16, second order otherwise."""
    source = "theory: Ginzburg & d'Humières (2003), Phys. Rev. E 68, 066614"
    results = [
        Result("Poiseuille", f"error of u / U, 16 cells, Λ = 3/16, τ = {t:g}", poiseuille_error(16, t, MAGIC), 0.0,
               source, tolerance=1e-12)
        for t in taus
    ]  # fmt: skip
    sizes = np.array([8, 16, 32])
    curves = {"sizes": sizes}
    for name, lambda_ in (("3/16", MAGIC), ("1/4", 0.25), ("1/12", 1 / 12)):
        curves[name] = np.array([poiseuille_error(int(n), 1.0, lambda_) for n in sizes])
    order = fitted_order(sizes, curves["1/4"])
    results.append(
        Result("Poiseuille", "order of the error, Λ = 1/4", order, 2.0, "theory: second-order walls", tolerance=0.02)
    )
    return Outcome(results, curves)


def couette() -> Outcome:
    """Channel whose upper side moves: the profile is linear."""
    height, speed = 20, 0.05
    p = FlowParameters(
        ny=height, nx=8, obstacles=(), sides="no-slip", side_velocity=(0.0, speed), ends="periodic", dtype="float64",
        viscosity=0.1, bulk_viscosity=0.1, inflow_velocity=speed,
    )  # fmt: skip
    simulation = Simulation(p)
    simulation.set_flow(np.ones((height, 8)), np.zeros((height, 8)), np.zeros((height, 8)))
    simulation.advance(2 * int(32 * height**2 / (np.pi**2 * 0.1) / 2))
    exact = speed * (np.arange(height) + 0.5) / height
    error = np.abs(double_fields(simulation)[1] - exact[:, None]).max() / speed
    return Outcome([Result("Couette", "error of u / U, moving side", float(error), 0.0, "theory: u = U y / H", 1e-12)])


# --------------------------------------------------------------------------------------------------------- vortices


def taylor_green_error(n: int, viscosity: float = 0.02, mach_size: float = 0.64) -> float:
    """Relative L2 error after the vortices have halved; u n = mach_size for every n (diffusive scaling)."""
    u0, k = mach_size / n, 2 * np.pi / n
    mean_u, mean_v = 0.5 * u0, 0.25 * u0  # carried across the lattice, so that advection is part of the test
    ticks = 2 * round(np.log(2) / (2 * k * k * viscosity) / 2)

    def exact(t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, x = k * np.mgrid[:n, :n].astype(float)
        x, y = x - k * mean_u * t, y - k * mean_v * t
        fade = np.exp(-2 * k * k * viscosity * t)
        pressure = -0.25 * (u0 * fade) ** 2 * (np.cos(2 * x) + np.cos(2 * y))
        return 1 + 3 * pressure, -u0 * fade * np.cos(x) * np.sin(y), u0 * fade * np.sin(x) * np.cos(y)

    density, u, v = exact(0)
    simulation = box(density, u + mean_u, v + mean_v, viscosity, viscosity)
    simulation.advance(ticks)
    _, u, v = double_fields(simulation)
    _, u_exact, v_exact = exact(ticks)
    error = np.hypot(u - mean_u - u_exact, v - mean_v - v_exact)
    return float(np.sqrt((error**2).mean() / (u_exact**2 + v_exact**2).mean()))


def taylor_green(sizes: Sequence[int] = (16, 32, 64, 128)) -> Outcome:
    """Decaying Taylor-Green vortices in a uniform stream: the error falls with the square of the resolution."""
    errors = np.array([taylor_green_error(n) for n in sizes])
    order = fitted_order(np.array(sizes), errors)
    source = "exact solution: Taylor & Green (1937)"
    return Outcome(
        [
            Result("Taylor-Green", f"order of the error, {sizes[0]} to {sizes[-1]} cells", order, 2.0, source,
                   interval=(1.9, 2.3)),
            Result("Taylor-Green", f"relative L2 error, {sizes[-1]} cells", float(errors[-1]), 0.0, source,
                   tolerance=1e-3),
        ],
        {"sizes": np.array(sizes), "errors": errors},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ waves


def shear_viscosity(viscosity: float, bulk_viscosity: float, n: int = 256) -> float:
    """Shear viscosity from the decay of a sine wave of u along y, after the first relaxation."""
    k, amplitude = 2 * np.pi / n, 1e-3
    wave = np.sin(k * np.arange(n))[:, None] * np.ones(8)
    simulation = box(np.ones((n, 8)), amplitude * wave, 0 * wave, viscosity, bulk_viscosity)
    ticks = 2 * int(max(100.0, 0.05 / (k * k * viscosity)) / 2)
    simulation.advance(200)
    before = (double_fields(simulation)[1] * wave).sum()
    simulation.advance(ticks)
    after = (double_fields(simulation)[1] * wave).sum()
    return float(-np.log(after / before) / (k * k * ticks))


def shear_waves() -> Outcome:
    """Shear waves of 256 cells. What is left is the lattice's k^4 term: at 128 cells the error is 4 times larger."""
    pairs = [(0.002, 0.3), (0.01, 0.1), (0.05, 0.005), (0.3, 0.03)]
    return Outcome(
        [
            Result("shear wave", f"ν, asked ν = {nu:g}, ν_b = {bulk:g}", shear_viscosity(nu, bulk), nu,
                   "theory: exp(-ν k² t)", tolerance=1e-3)
            for nu, bulk in pairs
        ]
    )  # fmt: skip


def sound_wave(viscosity: float, bulk_viscosity: float, n: int = 128) -> tuple[float, float]:
    """(nu + nu_b, speed of sound) from a standing wave of the density, by its linear recurrence."""
    k, every, samples = 2 * np.pi / n, 2, 1000
    wave = np.cos(k * np.arange(n)) * np.ones((8, 1))
    simulation = box(1 + 1e-5 * wave, 0 * wave, 0 * wave, viscosity, bulk_viscosity)
    series = np.empty(samples)
    for i in range(samples):
        simulation.advance(every)
        series[i] = ((double_fields(simulation)[0] - 1) * wave).sum()
    a, b = np.linalg.lstsq(np.stack([series[1:-1], series[:-2]], 1), series[2:], rcond=None)[0]
    root = np.roots([1, -a, -b])[0]  # exp((-gamma + i omega) every)
    gamma, omega = -np.log(abs(root)) / every, abs(np.angle(root)) / every
    return 2 * gamma / k**2, float(np.hypot(omega, gamma)) / k


def sound_waves() -> Outcome:
    """Damping and speed of standing sound waves, for bulk viscosities of 0.1 to 150 times the shear viscosity."""
    results = []
    for nu, bulk in [(0.05, 0.005), (0.05, 0.05), (0.01, 0.1), (0.002, 0.3)]:
        damping, speed = sound_wave(nu, bulk)
        label = f"ν = {nu:g}, ν_b = {bulk:g}"
        results.append(
            Result("sound wave", f"ν + ν_b, {label}", damping, nu + bulk, "theory: exp(-(ν + ν_b) k² t / 2)", 0.01)
        )
        results.append(Result("sound wave", f"speed of sound, {label}", speed, SOUND_SPEED, "theory: 1/√3", 1e-3))
    return Outcome(results)
