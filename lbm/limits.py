"""What a flow's parameters must satisfy before a tick is spent: reasons to refuse and reasons to warn."""

import math
from typing import TYPE_CHECKING

from lbm import obstacles
from lbm.boundaries import SIDES
from lbm.units import mach

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

# Measured on 300 random wakes (D 5 - 24, blockage up to a third, noise up to 0.3 of U, 12,000 ticks each): within
# these limits 97 % ran to the end, and what diverged was above U / nu = 50; `Simulation.check` stops those.
MACH_LIMIT = 0.8  # local, of a running flow
LOCAL_MACH_LIMIT = 0.6  # as expected beforehand
INFLOW_MACH_LIMIT, INFLOW_MACH_WARNING = 0.3, 0.2
CELL_REYNOLDS_LIMIT, CELL_REYNOLDS_WARNING = 100.0, 50.0  # U / nu


def problems(p: "FlowParameters") -> tuple[list[str], list[str]]:
    """Errors and warnings for a flow's parameters, each a sentence: got, wanted, what to do."""
    errors = _wrong_values(p)
    if errors:
        return errors, []
    flow_errors, flow_warnings = _flow(p)
    obstacle_errors, obstacle_warnings = _obstacle(p)
    return flow_errors + obstacle_errors, flow_warnings + obstacle_warnings


def _wrong_values(p: "FlowParameters") -> list[str]:
    positive = ("viscosity", "bulk_viscosity", "inflow_velocity", "diameter", "noise_time")
    choices = {"obstacle": obstacles.OBSTACLES, "sides": SIDES, "dtype": ("float32", "float64")}
    natural = ("noise_streamwise", "noise_transverse", "seed", "trajectory", "ramp_ticks")
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
    if errors:
        return errors
    return [
        f"{n} is {getattr(p, n)}, wanted 0 or more"
        for n in natural
        if not (getattr(p, n) >= 0 and math.isfinite(getattr(p, n)))
    ]


def _flow(p: "FlowParameters") -> tuple[list[str], list[str]]:
    errors, warnings, m = [], [], mach(p.inflow_velocity)
    limit = INFLOW_MACH_LIMIT / mach(1)
    if m > INFLOW_MACH_LIMIT:
        errors.append(
            f"Mach number {m:.2f} of the inflow is too high for a weakly compressible lattice "
            f"(limit {INFLOW_MACH_LIMIT}): lower --inflow-velocity to {limit:.3f} or less"
        )
    elif m > INFLOW_MACH_WARNING:
        warnings.append(
            f"Mach number {m:.2f} of the inflow is high: flow around the obstacle is up to twice as fast "
            "and sound becomes part of the answer; --inflow-velocity 0.1 is a good value"
        )
    noise, blockage = max(p.noise_streamwise, p.noise_transverse), 0.0
    if p.obstacle != "none":
        blockage = min(p.diameter / p.ny, 0.5)
    local = 1.5 * m * (1 + 2 * noise) / (1 - blockage)  # half of the random wakes were faster at some time
    if m <= INFLOW_MACH_LIMIT and local > LOCAL_MACH_LIMIT:
        errors.append(
            f"Mach number {local:.2f} expected beside the obstacle in gusts is too high for a weakly compressible "
            f"lattice (limit {LOCAL_MACH_LIMIT}): lower --inflow-velocity, the noise or --diameter"
        )
    cell = p.inflow_velocity / p.viscosity
    if cell > CELL_REYNOLDS_LIMIT:
        errors.append(
            f"viscosity {p.viscosity:g} is too low for this grid (U / nu = {cell:.0f} per cell, limit "
            f"{CELL_REYNOLDS_LIMIT:.0f}; relaxation time too close to 1/2): raise --viscosity to "
            f"{p.inflow_velocity / CELL_REYNOLDS_LIMIT:.2g} or more"
        )
    elif cell > CELL_REYNOLDS_WARNING:
        warnings.append(f"U / nu = {cell:.0f} per cell: the boundary layer is thinner than a cell, expect noise")
    for name in ("viscosity", "bulk_viscosity"):
        if getattr(p, name) > 1:
            errors.append(f"{name} {getattr(p, name):g} is too high for an explicit lattice (limit 1): lower it")
    if max(p.noise_streamwise, p.noise_transverse) > 0.5:
        errors.append("noise above 0.5 of the inflow velocity would turn the flow back at the inlet: lower it")
    return errors, warnings


def _obstacle(p: "FlowParameters") -> tuple[list[str], list[str]]:
    if p.obstacle == "none":
        return [], []
    errors, warnings, (x, y), radius = [], [], p.position, p.diameter / 2
    if p.diameter < 4:
        errors.append(f"diameter {p.diameter:g} is below 4 cells: an obstacle that small has no shape")
    if not (x - radius >= 2 and x + radius <= p.nx - 4):
        errors.append(
            f"the obstacle reaches from x = {x - radius:g} to {x + radius:g}, wanted 2 cells from the "
            f"inlet and 4 from the outlet of {p.nx} cells: move the centre or lower --diameter"
        )
    if not (y - radius >= 1 and y + radius <= p.ny - 2):
        errors.append(
            f"the obstacle reaches from y = {y - radius:g} to {y + radius:g}, wanted inside the {p.ny} "
            "cells across: move the centre or lower --diameter"
        )
    blockage = p.diameter / p.ny
    if blockage > 0.5:
        errors.append(f"the obstacle fills {blockage:.0%} of the channel (limit 50 %): lower --diameter")
    elif blockage > 0.2:
        warnings.append(f"the obstacle fills {blockage:.0%} of the channel: flow beside it is noticeably faster")
    return errors, warnings
