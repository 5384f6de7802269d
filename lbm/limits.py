"""What a flow's parameters must satisfy before a tick is spent: reasons to refuse and reasons to warn."""

import functools
import math
from typing import TYPE_CHECKING

from lbm import obstacles
from lbm.boundaries import ENDS, PROFILES, SIDES
from lbm.units import COLLISIONS, mach

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

# Measured on 300 random wakes (D 5 - 24, blockage up to a third, noise up to 0.3 of U, 12,000 ticks each): within
# these limits 97 % ran to the end, and what diverged was above U / nu = 50; `Simulation.check` stops those.
MACH_LIMIT = 0.8  # local, of a running flow
LOCAL_MACH_LIMIT = 0.6  # as expected beforehand
INFLOW_MACH_LIMIT, INFLOW_MACH_WARNING = 0.3, 0.2
BODY_FORCE_LIMIT = 0.01  # a tick changes the velocity by as much
# U / nu per cell. Wakes with noise of 0.2 U ran 12,000 ticks to 150 with mrt, to 70 with bgk, to 35 regularised.
CELL_REYNOLDS_LIMIT = {"mrt": 100.0, "bgk": 50.0, "regularised": 35.0, "trt": 100.0}
# Where Lambda is fixed and there is an obstacle: cylinder, square and aerofoil ran to the first, not to the second of
# 12, 17 with Lambda = 1/12, of 8, 12 with 1/8 to 3/16, of 5, 8 with 1/4.
LAMBDA_LIMIT = ((0.1, 15.0), (0.2, 10.0), (math.inf, 6.5))


def problems(p: "FlowParameters") -> tuple[list[str], list[str]]:
    """Errors and warnings for a flow's parameters, each a sentence: got, wanted, what to do."""
    errors = _wrong_values(p)
    if errors:
        return errors, []
    pictures = any(o.shape == "image" for o in p.obstacles)  # whose files may change
    find = obstacles.problems if pictures else _obstacle_problems
    obstacle_errors, obstacle_warnings = find(p.obstacles, p.ny, p.nx, p.ends, p.sides)
    if obstacle_errors:  # what follows asks for the extent of the obstacles
        return obstacle_errors, []
    flow_errors, flow_warnings = _flow(p)
    return flow_errors + _boundaries(p), flow_warnings + obstacle_warnings


_obstacle_problems = functools.lru_cache(maxsize=256)(obstacles.problems)  # a sweep asks for each of its runs


def _wrong_values(p: "FlowParameters") -> list[str]:
    positive = ["viscosity", "bulk_viscosity", "inflow_velocity", "noise_time"]
    positive += [n for n in ("length", "lambda_") if getattr(p, n) is not None]
    choices = {
        "sides": SIDES,
        "ends": ENDS,
        "profile": PROFILES,
        "collision": COLLISIONS,
        "walls": ("interpolated", "half-way"),
        "outlet": ("convective", "sponge"),
        "dtype": ("float32", "float64"),
    }
    natural = ("noise_streamwise", "noise_transverse", "seed", "trajectory", "ramp_ticks", "startup", "sponge_cells")
    errors = [f"{n} is {getattr(p, n)}, wanted at least 8 cells" for n in ("ny", "nx") if not getattr(p, n) >= 8]
    errors += [
        f"{n} is {getattr(p, n)!r}, wanted one of {', '.join(allowed)}"
        for n, allowed in choices.items()
        if getattr(p, n) not in allowed
    ]
    errors += [
        f"{n} is {getattr(p, n)}, wanted a number above 0"
        for n in positive
        if not (getattr(p, n) > 0 and math.isfinite(getattr(p, n)))
    ]
    errors += [
        f"{n} is {getattr(p, n)}, wanted two numbers"
        for n in ("side_velocity", "body_force")
        if len(getattr(p, n)) != 2 or not all(math.isfinite(value) for value in getattr(p, n))
    ]
    if errors:
        return errors
    return [
        f"{n} is {getattr(p, n)}, wanted 0 or more"
        for n in natural
        if not (getattr(p, n) >= 0 and math.isfinite(getattr(p, n)))
    ]


def _flow(p: "FlowParameters") -> tuple[list[str], list[str]]:
    errors, warnings = _speed(p)
    cell = max(p.inflow_velocity, *(abs(u) for u in p.side_velocity)) / p.viscosity
    limit = _cell_limit(p)
    if cell > limit:
        plain = p.collision == "mrt" and p.lambda_ is None
        other = "" if plain else ", or choose --collision mrt without --magic"
        errors.append(
            f"viscosity {p.viscosity:g} is too low for this grid and collision {p.collision!r} (U / nu = {cell:.0f} "
            f"per cell, limit {limit:.0f}; relaxation time {0.5 + 3 * p.viscosity:.4f} too close to 1/2): raise "
            f"--viscosity to {p.viscosity * cell / limit:.2g} or more{other}"
        )
    elif cell > limit / 2:
        warnings.append(f"U / nu = {cell:.0f} per cell: the boundary layer is thinner than a cell, expect noise")
    for name in ("viscosity", "bulk_viscosity"):
        if getattr(p, name) > 1:
            errors.append(f"{name} {getattr(p, name):g} is too high for an explicit lattice (limit 1): lower it")
    if p.collision in ("bgk", "trt") and not math.isclose(p.bulk_viscosity, p.viscosity):
        errors.append(
            f"collision {p.collision!r} has one rate for both viscosities, got {p.viscosity:g} and bulk "
            f"{p.bulk_viscosity:g}: set --bulk-viscosity to {p.viscosity:g}, or choose --collision mrt or regularised"
        )
    if p.lambda_ is not None and p.lambda_ > 1:
        errors.append(f"lambda is {p.lambda_:g}, wanted up to 1 (3/16: exact half-way walls): lower --magic")
    if p.lambda_ is not None and p.collision not in ("mrt", "trt"):
        errors.append(f"lambda fixes the third-order rate of mrt and trt, collision is {p.collision!r}: leave it out")
    return errors, warnings


def _cell_limit(p: "FlowParameters") -> float:
    """Largest U / nu that a collision operator stands."""
    lambda_ = 0.25 if p.collision == "trt" and p.lambda_ is None else p.lambda_
    if lambda_ is None or not p.obstacles:
        return CELL_REYNOLDS_LIMIT[p.collision]
    return next(limit for up_to, limit in LAMBDA_LIMIT if lambda_ <= up_to)


def _speed(p: "FlowParameters") -> tuple[list[str], list[str]]:
    """The flow where it is fastest: at the inlet, on moving sides, beside obstacles in gusts."""
    errors, warnings = [], []
    peak = 1.5 if p.profile == "parabolic" and p.ends == "open" else 1.0
    m = mach(max(peak * p.inflow_velocity, *(abs(u) for u in p.side_velocity)))
    what = "the inflow" if m == mach(peak * p.inflow_velocity) else "a side"
    name = "--inflow-velocity" if what == "the inflow" else "--side-velocity"
    if m > INFLOW_MACH_LIMIT:
        errors.append(
            f"Mach number {m:.2f} of {what} is too high for a weakly compressible lattice "
            f"(limit {INFLOW_MACH_LIMIT}): lower {name} to {INFLOW_MACH_LIMIT / mach(peak):.3f} or less"
        )
    elif m > INFLOW_MACH_WARNING:
        warnings.append(
            f"Mach number {m:.2f} of {what} is high: flow around obstacles is up to twice as fast "
            "and sound becomes part of the answer; --inflow-velocity 0.1 is a good value"
        )
    noise = max(p.noise_streamwise, p.noise_transverse)
    if noise > 0.5:
        errors.append("noise above 0.5 of the inflow velocity would turn the flow back at the inlet: lower it")
    if p.obstacles and p.ends == "open":
        blockage = min(obstacles.blockage(p.obstacles, p.ny), 0.5)
        local = 1.5 * m * (1 + 2 * noise) / (1 - blockage)  # half of the random wakes were faster at some time
        if m <= INFLOW_MACH_LIMIT and local > LOCAL_MACH_LIMIT:
            errors.append(
                f"Mach number {local:.2f} expected beside the obstacle in gusts is too high for a weakly compressible "
                f"lattice (limit {LOCAL_MACH_LIMIT}): lower --inflow-velocity, the noise or --diameter"
            )
    return errors, warnings


def _boundaries(p: "FlowParameters") -> list[str]:
    """Boundary settings that contradict each other, and a body force that would drive the flow too fast."""
    errors, force = [], math.hypot(*p.body_force)
    channel = p.ends == "periodic" and p.sides == "no-slip" and not p.obstacles
    speed = abs(p.body_force[0]) * p.ny**2 / (8 * p.viscosity) if channel else 0.0  # of the parabola it drives
    if force > BODY_FORCE_LIMIT:
        errors.append(f"body force {force:g} is too strong (limit {BODY_FORCE_LIMIT} cells/tick^2): lower --body-force")
    elif mach(speed) > INFLOW_MACH_LIMIT:
        errors.append(
            f"body force {p.body_force[0]:g} drives the channel to Mach {mach(speed):.2f} (F H^2 / 8 nu, limit "
            f"{INFLOW_MACH_LIMIT}): --body-force {p.body_force[0] * INFLOW_MACH_LIMIT / mach(speed):.2g} or less"
        )
    if any(p.side_velocity) and p.sides != "no-slip":
        errors.append(f"side velocity {p.side_velocity} needs no-slip sides, they are {p.sides!r}: --sides no-slip")
    if p.profile == "parabolic" and p.sides != "no-slip":
        errors.append(f"a parabolic inlet needs no-slip sides, they are {p.sides!r}: --sides no-slip")
    if p.ends != "open":
        for name in ("noise_streamwise", "noise_transverse", "startup"):
            if getattr(p, name):
                errors.append(f"{name} is a property of the inlet, ends are {p.ends!r}: leave it out")
        if p.outlet == "sponge":
            errors.append(f"a sponge needs an outlet, ends are {p.ends!r}: leave it out")
    if p.sponge_cells > p.nx // 2:
        errors.append(
            f"a sponge of {p.sponge_cells} cells leaves too little of {p.nx}: --sponge-length up to {p.nx // 2}"
        )
    elif p.sponge_cells and any(obstacles.bounds(o)[1] > p.nx - p.sponge_cells - 2 for o in p.obstacles):
        errors.append(
            f"an obstacle reaches into the sponge (the last {p.sponge_cells} cells): move it or shorten the sponge"
        )
    return errors
