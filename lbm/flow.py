"""A channel flow past an obstacle: parameters, refusal of settings that cannot work, and the running simulation.

    parameters -> Simulation: advance(ticks), fields(names), state() / restore(state), check()

The flow enters from the left at U (1 + noise) and leaves at the right; lengths are in cells, times in ticks
(lattice units: speed of sound 1/sqrt(3), mean density 1). It starts with its streamlines already parted around
the obstacle (see `obstacles.parted_flow`): accelerating the whole column of fluid from rest would raise its
density by U / c_s, 17 % at U = 0.1. A seeded transverse pulse at the inlet breaks the symmetry. Everything random
is a function of (seed, trajectory, tick): same seed, same bits, for any number of threads and any split of a run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lbm import boundaries, kernels, obstacles
from lbm.errors import DataError, NumericalError, UsageError
from lbm.inflow import Inflow
from lbm.lattice import CX, CY, OPPOSITE, SOUND_SPEED, Q, W
from lbm.limits import MACH_LIMIT, problems
from lbm.reference import equilibrium
from lbm.units import mach, relaxation_rates

FIELDS = ("vorticity", "velocity_x", "velocity_y", "density")
OUTLET_GAIN = 0.05  # pull of the outlet's mean to that of a leaving wave, per tick; above 0.2 it overshoots


@dataclass(frozen=True)
class FlowParameters:
    """One trajectory's flow, in lattice units. Defaults: the vortex street of a cylinder at Re 200."""

    ny: int = 64
    nx: int = 128
    viscosity: float = 0.006
    bulk_viscosity: float = 0.05
    inflow_velocity: float = 0.1
    obstacle: str = "cylinder"  # or "none"
    diameter: float = 12.0
    centre: tuple[float, float] | None = None  # (x, y) in cells; None: (3/16 nx, half a cell above the middle)
    sides: str = "periodic"  # or "free-slip"
    noise_streamwise: float = 0.0  # standard deviation of the inlet's u, relative to inflow_velocity
    noise_transverse: float = 0.0  # the same of v
    noise_time: float = 300.0  # correlation time, ticks
    ramp: int | None = None  # ticks until the noise has its full strength; None: 10 D / U
    seed: int = 0
    trajectory: int = 0
    dtype: str = "float32"
    lambda_: float | None = None  # fixes the third-order rate, see `lbm.units.relaxation_rates`

    @property
    def position(self) -> tuple[float, float]:
        """Centre of the obstacle, (x, y) in cells: cell centres lie at whole numbers."""
        return (self.nx * 3 / 16, self.ny / 2) if self.centre is None else self.centre

    @property
    def ramp_ticks(self) -> int:
        """Ticks until the inlet noise has its full strength."""
        return math.ceil(10 * self.diameter / self.inflow_velocity) if self.ramp is None else self.ramp

    @property
    def reynolds(self) -> float:
        """Reynolds number of the obstacle, of the channel height where there is none."""
        length = self.ny if self.obstacle == "none" else self.diameter
        return self.inflow_velocity * length / self.viscosity


def check_parameters(p: FlowParameters) -> list[str]:
    """Warnings about a flow that will run but may disappoint; raises UsageError for one that cannot work."""
    errors, warnings = problems(p)
    if errors:
        raise UsageError("\n".join(errors))
    return warnings


class Simulation:
    """A running flow. `tick` counts from 0; `solid` is the obstacle's mask, (ny, nx) bool.

    One thread each: several simulations run side by side in threads, since the kernels release the GIL.
    """

    def __init__(self, p: FlowParameters):
        check_parameters(p)
        self.parameters, self.tick = p, 0
        self.solid = obstacles.mask(p.obstacle, p.ny, p.nx, centre=p.position, diameter=p.diameter)
        self._geometry = boundaries.geometry(self.solid, sides=p.sides, open_ends=True, dtype=p.dtype)
        rates = relaxation_rates(p.viscosity, p.bulk_viscosity, p.lambda_)
        self._rates = np.array(rates, p.dtype)
        self._outlet = np.array([p.inflow_velocity, SOUND_SPEED, OUTLET_GAIN], p.dtype)
        self._inflow = Inflow(p)
        self._f = aligned_zeros(9 * int(self._geometry.plane), p.dtype)
        u, v = obstacles.parted_flow(p.obstacle, p.ny, p.nx, centre=p.position, diameter=p.diameter)
        self.set_flow(np.ones_like(u), p.inflow_velocity * u, p.inflow_velocity * v)
        self._held = np.zeros(2)
        self._moments = np.empty((3, p.ny, p.nx), p.dtype)
        self._moments_tick = -1

    def set_flow(self, density: np.ndarray, velocity_x: np.ndarray, velocity_y: np.ndarray) -> None:
        """Start again at tick 0 from given fields (ny, nx), in local equilibrium."""
        populations = equilibrium(density, velocity_x, velocity_y) - W[:, None, None]
        boundaries.interior(self._f, self._geometry)[:] = populations
        self.tick, self._moments_tick, self._inflow = 0, -1, Inflow(self.parameters)

    def advance(self, ticks: int) -> None:
        """Advance by any number of ticks. The result does not depend on how a run is split into calls."""
        inflow = self._inflow.next(self.tick, ticks).astype(self.parameters.dtype)
        kernels.advance(self._f, self._held, self._geometry, self._rates, self._outlet, inflow, self.tick)
        self.tick += ticks

    def fields(self, names: Sequence[str] = FIELDS, frame_size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """Fields of the present tick, float32 (ny, nx), or box-filtered to `frame_size` (ny', nx').

        "vorticity" (d_x v - d_y u, per tick), "velocity_x", "velocity_y" (cells per tick), "density" (mean 1).
        Inside obstacles velocity and vorticity are 0 and the density is 1.
        """
        for name in names:
            if name not in FIELDS:
                raise UsageError(f"unknown field {name!r}: choose from {', '.join(FIELDS)}")
        density, u, v = self._update_moments()
        sources = {"density": density, "velocity_x": u, "velocity_y": v}
        if "vorticity" in names:
            sources["vorticity"] = np.empty_like(density)
            wrap_y = self.parameters.sides == "periodic"
            kernels.vorticity(u, v, self.solid, not self._geometry.outlet, wrap_y, sources["vorticity"])
        return {name: self._frame(sources[name], frame_size) for name in names}

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a bit-exact continuation needs, as plain arrays (copies)."""
        return {
            "tick": np.array(self.tick, np.int64),
            "populations": self._f.copy(),
            "outlet": self._held.copy(),
            "noise": self._inflow.noise.copy(),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a `state()` of a simulation of the same size and precision.

        Noise after this tick belongs to *this* simulation's (seed, trajectory): restoring one state into simulations
        of several seeds makes a perfect-model ensemble.
        """
        for name, array in self.state().items():
            got = state.get(name)
            if got is None or got.shape != array.shape or got.dtype != array.dtype:
                what = "nothing" if got is None else f"{got.dtype} {got.shape}"
                raise DataError(f"restart state: {name} is {what}, wanted {array.dtype} {array.shape}")
        self.tick = int(state["tick"])
        self._f[:], self._held[:] = state["populations"], state["outlet"]
        self._inflow.noise[:] = state["noise"]
        self._moments_tick = -1

    def check(self) -> None:
        """Raise NumericalError when the flow has diverged or is about to: not finite, too fast, mass drifting."""
        density, u, v = self._update_moments()
        with np.errstate(all="ignore"):  # a diverged flow overflows
            speed = math.sqrt(float((u * u + v * v).max()))
            low, high, mean = float(density.min()), float(density.max()), float(density.mean())
        advice = "raise --viscosity, or lower --inflow-velocity or the noise"
        where = f"tick {self.tick} of trajectory {self.parameters.trajectory}"
        if not (math.isfinite(speed) and math.isfinite(low) and math.isfinite(high)):
            raise NumericalError(f"the flow diverged before {where}: {advice}")
        if mach(speed) > MACH_LIMIT:
            got = f"local Mach number {mach(speed):.2f} (limit {MACH_LIMIT})"
            raise NumericalError(f"the flow is too fast for the lattice at {where}: {got}: {advice}")
        if low < 0.5 or high > 1.5 or abs(mean - 1) > 0.2:
            got = f"density between {low:.2f} and {high:.2f}, mean {mean:.2f} (started at 1)"
            raise NumericalError(f"the flow is diverging at {where}: {got}: {advice}")

    def _update_moments(self) -> np.ndarray:
        if self._moments_tick != self.tick:
            kernels.moments(self._f, self._geometry, self._offsets(), self.solid, self._moments)
            self._moments_tick = self.tick
        return self._moments

    def _offsets(self) -> np.ndarray:
        """Where population q waits for the next tick: in its own slot, or in slot -c_q at x - c_q."""
        plane, stride = int(self._geometry.plane), int(self._geometry.stride)
        q = np.arange(Q)
        odd = OPPOSITE * plane - CY * stride - CX
        return (odd if self.tick % 2 else q * plane).astype(np.uint64)

    def _frame(self, field: np.ndarray, frame_size: tuple[int, int] | None) -> np.ndarray:
        if frame_size is None or tuple(frame_size) == field.shape:
            return field.astype(np.float32)
        if any(n < 1 or full % n for n, full in zip(frame_size, field.shape, strict=True)):
            raise UsageError(f"frame size {tuple(frame_size)} must divide the grid {field.shape}")
        out = np.empty(frame_size, np.float32)
        kernels.box_mean(field, out)
        return out


def aligned_zeros(size: int, dtype: Any) -> np.ndarray:
    """Zeros that start on a 64-byte boundary, so that rows are aligned for the widest vectors."""
    item = np.dtype(dtype).itemsize
    buffer = np.zeros(size + 64 // item, dtype)
    skip = -buffer.ctypes.data % 64 // item
    return buffer[skip : skip + size]
