"""A flow in a box: parameters, refusal of settings that cannot work, and the running simulation.

    parameters -> Simulation: advance(ticks) -> forces, fields(names), state() / restore(state), check()

With open ends the flow enters from the left and leaves at the right; lengths are in cells, times in ticks
(lattice units: speed of sound 1/sqrt(3), mean density 1). It starts with its streamlines already parted around
the obstacles (see `obstacles.parted_flow`): accelerating the whole column of fluid from rest would raise its
density by U / c_s, 17 % at U = 0.1; `startup` does it slowly where a start from rest is wanted. A seeded transverse
pulse at the inlet breaks the symmetry. Everything random is a function of (seed, trajectory, tick): same seed, same
bits, for any number of threads and any split of a run.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lbm import boundaries, kernels, obstacles
from lbm.errors import DataError, NumericalError, UsageError
from lbm.inflow import Inflow
from lbm.lattice import CX, CY, OPPOSITE, SOUND_SPEED, Q, W
from lbm.limits import MACH_LIMIT, problems
from lbm.obstacles import Obstacle
from lbm.reference import equilibrium
from lbm.units import mach, relaxation_rates

FIELDS = ("vorticity", "velocity_x", "velocity_y", "density")
OUTLET_GAIN = 0.05  # pull of the outlet's mean to that of a leaving wave, per tick; above 0.2 it overshoots
BAND_ROWS = 8  # fewer rows are not worth a thread


@dataclass(frozen=True)
class FlowParameters:
    """One trajectory's flow, in lattice units. Defaults: the vortex street of a cylinder at Re 200."""

    ny: int = 64
    nx: int = 128
    viscosity: float = 0.006
    bulk_viscosity: float = 0.05  # equal to the viscosity with collision "bgk" and "trt"
    inflow_velocity: float = 0.1  # mean over the inlet; the scale U where there is none
    obstacles: tuple[Obstacle, ...] = (Obstacle("cylinder", (24.0, 32.0), 12.0),)
    length: float | None = None  # reference length L; None: size of the largest obstacle, ny where there is none
    sides: str = "periodic"  # or "free-slip", "no-slip"
    side_velocity: tuple[float, float] = (0.0, 0.0)  # along x, of the no-slip sides at the bottom and the top
    ends: str = "open"  # inlet on the left, outlet on the right; or "periodic", "walls" (no-slip)
    profile: str = "uniform"  # of the inlet, or "parabolic"; both let in exactly U ny
    startup: int = 0  # ticks in which the inflow rises from rest; 0: starts in motion
    body_force: tuple[float, float] = (0.0, 0.0)  # per volume, that is acceleration at density 1
    collision: str = "mrt"  # or "trt", "bgk", "regularised", see `lbm.units.relaxation_rates`
    lambda_: float | None = None  # fixes the third-order rate of "mrt" and "trt"
    walls: str = "interpolated"  # walls of obstacles at their exact place, or "half-way" between cells
    outlet: str = "convective"  # or "sponge": convective behind an absorbing layer
    sponge_length: int | None = None  # of that layer; None: nx / 8
    noise_streamwise: float = 0.0  # standard deviation of the inlet's u, relative to inflow_velocity
    noise_transverse: float = 0.0  # the same of v
    noise_time: float = 300.0  # correlation time, ticks
    ramp: int | None = None  # ticks until the noise has its full strength; None: 10 L / U
    seed: int = 0
    trajectory: int = 0
    dtype: str = "float32"

    @property
    def reference_length(self) -> float:
        """Length L of the Reynolds number and of force coefficients, cells."""
        if self.length is not None:
            return self.length
        return max((o.size for o in self.obstacles), default=float(self.ny))

    @property
    def ramp_ticks(self) -> int:
        """Ticks until the inlet noise has its full strength."""
        return math.ceil(10 * self.reference_length / self.inflow_velocity) if self.ramp is None else self.ramp

    @property
    def sponge_cells(self) -> int:
        """Length of the absorbing layer, 0 without one."""
        if self.outlet != "sponge" or self.ends != "open":
            return 0
        return self.nx // 8 if self.sponge_length is None else self.sponge_length

    @property
    def reynolds(self) -> float:
        """Reynolds number U L / nu."""
        return self.inflow_velocity * self.reference_length / self.viscosity


def check_parameters(p: FlowParameters) -> list[str]:
    """Warnings about a flow that will run but may disappoint; raises UsageError for one that cannot work."""
    errors, warnings = problems(p)
    if errors:
        raise UsageError("\n".join(errors))
    return warnings


class Simulation:
    """A running flow. `tick` counts from 0; `solid` is the obstacles' mask, (ny, nx) bool.

    `threads` work on bands of rows of this one run, to the same bits. Several simulations run side by side in
    threads, since the kernels release the GIL: where there are as many runs as cores, that is faster.
    """

    def __init__(self, p: FlowParameters, threads: int = 1):
        check_parameters(p)
        self.parameters, self.tick = p, 0
        body = obstacles.bodies(p.obstacles, p.ny, p.nx)
        self.solid = body >= 0
        rates = relaxation_rates(p.viscosity, p.bulk_viscosity, p.lambda_, p.collision)
        self._geometry = boundaries.geometry(
            body, sides=p.sides, ends=p.ends, dtype=p.dtype, obstacles=p.obstacles,
            interpolated=p.walls == "interpolated", side_velocity=p.side_velocity, profile=p.profile,
            sponge_length=p.sponge_cells, general=rates[3] != 1 or p.body_force != (0.0, 0.0),
        )  # fmt: skip
        self._half_force = np.array(p.body_force, p.dtype) / 2
        self._rates = np.array([*rates, *self._half_force], p.dtype)
        self._outlet = np.array([SOUND_SPEED, OUTLET_GAIN], p.dtype)
        self._f = aligned_zeros(9 * int(self._geometry.grid.plane), p.dtype)
        self._held = np.zeros(2)
        self._partial = np.zeros((2, p.ny + 2, max(1, len(p.obstacles)), 2))
        self._moments, self._work = np.empty((3, p.ny, p.nx), p.dtype), np.empty((4, p.nx), p.dtype)
        plane, stride = int(self._geometry.grid.plane), int(self._geometry.grid.stride)
        # Where population q waits for an even or odd tick: in its own slot, or in slot -c_q at x - c_q.
        waits = np.arange(Q) * plane, OPPOSITE * plane - CY * stride - CX
        self._offsets = np.array(waits).astype(np.uint64)
        self._bands = max(1, min(threads, p.ny // BAND_ROWS))
        self._pool = ThreadPoolExecutor(self._bands - 1) if self._bands > 1 else None
        self.set_flow(*_start(p))

    def set_flow(self, density: np.ndarray, velocity_x: np.ndarray, velocity_y: np.ndarray) -> None:
        """Start again at tick 0 from given fields (ny, nx), in local equilibrium."""
        half = self._half_force.astype(float)
        populations = equilibrium(density, velocity_x, velocity_y) - W[:, None, None]
        populations -= (3 * W * (CX * half[0] + CY * half[1]))[:, None, None]
        boundaries.set_populations(self._f, self._geometry.grid, 0, populations)
        self.tick, self._moments_tick, self._inflow = 0, -1, Inflow(self.parameters)
        self._held[:] = 0

    def advance(self, ticks: int) -> np.ndarray:
        """Advance by any number of ticks. The result does not depend on how a run is split into calls.

        Returns the force on each obstacle during each tick, (ticks, obstacles, 2) float64, lattice units, relative to
        an ambient pressure of density 1. Drag and lift coefficients are 2 F / (U^2 L).
        """
        p = self.parameters
        inflow = self._inflow.next(self.tick, ticks).astype(p.dtype)
        forces = np.zeros((ticks, max(1, len(p.obstacles)), 2))
        progress = np.zeros(8 * (self._bands + 1), np.int64)

        def work(band: int) -> None:
            kernels.advance(
                self._f, self._held, self._geometry, self._rates, self._outlet, inflow, self.tick, forces,
                self._partial, band, self._bands, progress,
            )  # fmt: skip

        if self._pool is None:
            work(0)
        else:
            try:
                others = [self._pool.submit(work, band) for band in range(1, self._bands)]
                work(0)
                for other in others:
                    other.result()
            except BaseException:
                progress[8 * self._bands] = 1  # calls off the bands that wait for one that never came
                raise
        self.tick += ticks
        return forces[:, : len(p.obstacles)]

    def fields(self, names: Sequence[str] = FIELDS, frame_size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """Fields of the present tick, float32 (ny, nx), or box-filtered to `frame_size` (ny', nx').

        "vorticity" (d_x v - d_y u, per tick), "velocity_x", "velocity_y" (cells per tick), "density" (mean 1).
        Inside obstacles velocity and vorticity are 0 and the density is 1.
        """
        for name in names:
            if name not in FIELDS:
                raise UsageError(f"unknown field {name!r}: choose from {', '.join(FIELDS)}")
        p, (density, u, v) = self.parameters, self._update_moments()
        sources = {"density": density, "velocity_x": u, "velocity_y": v}
        if "vorticity" in names:
            sources["vorticity"] = np.empty_like(density)
            walls = np.array(p.side_velocity if p.sides == "no-slip" else (np.nan, np.nan), p.dtype)
            wraps = p.ends == "periodic", p.sides == "periodic"
            kernels.vorticity(u, v, self.solid, *wraps, walls, sources["vorticity"])
        return {name: self._frame(sources[name], frame_size) for name in names}

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a bit-exact continuation needs, as plain arrays (copies).

        "tick" (); "populations" (9, ny, nx), deviations from the weights, before the collision of that tick, 0 inside
        obstacles; "outlet" (2,) what the outlet holds for two ticks; "noise" (2,) of the inflow.
        """
        populations = boundaries.populations(self._f, self._geometry.grid, self.tick).copy()
        populations[:, self.solid] = 0
        return {
            "tick": np.array(self.tick, np.int64),
            "populations": populations,
            "outlet": self._held.copy(),
            "noise": self._inflow.noise.copy(),
        }

    def restore(self, state: Mapping[str, np.ndarray], *, seed: int | None = None) -> None:
        """Continue from a `state()` of a simulation of the same size and precision.

        Noise after this tick belongs to *this* simulation's (seed, trajectory), or to another `seed`: restoring one
        state with several seeds makes a perfect-model ensemble.
        """
        p = self.parameters
        wanted = {
            "tick": ((), np.dtype(np.int64)),
            "populations": ((Q, p.ny, p.nx), np.dtype(p.dtype)),
            "outlet": ((2,), np.dtype(float)),
            "noise": ((2,), np.dtype(float)),
        }
        for name, (shape, dtype) in wanted.items():
            got = state.get(name)
            if got is None or got.shape != shape or got.dtype != dtype:
                what = "nothing" if got is None else f"{got.dtype} {got.shape}"
                raise DataError(f"restart state: {name} is {what}, wanted {dtype} {shape}")
        if seed is not None:
            self.parameters = replace(self.parameters, seed=seed)
            self._inflow = Inflow(self.parameters)
        self.tick = int(state["tick"])
        boundaries.set_populations(self._f, self._geometry.grid, self.tick, state["populations"])
        self._held[:], self._inflow.noise[:] = state["outlet"], state["noise"]
        self._moments_tick = -1

    def finite(self) -> bool:
        """A glance: False when one in 307 values is not finite, which a NaN, spreading a cell per tick, soon hits."""
        return bool(np.isfinite(self._f[::307]).all())

    def check(self) -> None:
        """Raise NumericalError when the flow has diverged or is about to: not finite, too fast, mass drifting."""
        fastest, low, high, mean = kernels.extremes(self._update_moments(), self._work)
        speed = math.sqrt(fastest)
        advice = "raise --viscosity, or lower --inflow-velocity, the noise or --body-force"
        where = f"tick {self.tick} of trajectory {self.parameters.trajectory}"
        if not (math.isfinite(mean) and math.isfinite(speed)):
            raise NumericalError(f"the flow diverged before {where}: {advice}")
        if mach(speed) > MACH_LIMIT:
            got = f"local Mach number {mach(speed):.2f} (limit {MACH_LIMIT})"
            raise NumericalError(f"the flow is too fast for the lattice at {where}: {got}: {advice}")
        if low < 0.5 or high > 1.5 or abs(mean - 1) > 0.2:
            got = f"density between {low:.2f} and {high:.2f}, mean {mean:.2f} (started at 1)"
            raise NumericalError(f"the flow is diverging at {where}: {got}: {advice}")

    def _update_moments(self) -> np.ndarray:
        if self._moments_tick != self.tick:
            kernels.moments(
                self._f, self._geometry.grid, self._offsets[self.tick % 2], self.solid, self._half_force, self._moments
            )
            self._moments_tick = self.tick
        return self._moments

    def _frame(self, field: np.ndarray, frame_size: tuple[int, int] | None) -> np.ndarray:
        if frame_size is None or tuple(frame_size) == field.shape:
            return field.astype(np.float32)
        if any(n < 1 or full % n for n, full in zip(frame_size, field.shape, strict=True)):
            raise UsageError(f"frame size {tuple(frame_size)} must divide the grid {field.shape}")
        out = np.empty(frame_size, np.float32)
        kernels.box_mean(field, out)
        return out


def _start(p: FlowParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density and velocity (ny, nx) at tick 0: parted around the obstacles, or at rest."""
    rest = np.zeros((p.ny, p.nx))
    if p.ends != "open" or p.startup > 0:
        return rest + 1, rest, rest
    u, v = obstacles.parted_flow(p.obstacles, p.ny, p.nx)
    speed = p.inflow_velocity * boundaries.inlet_profile(p.ny, p.sides, p.profile)[1::2, :1]
    return rest + 1, speed * u, speed * v


def aligned_zeros(size: int, dtype: Any) -> np.ndarray:
    """Zeros that start on a 64-byte boundary, so that rows are aligned for the widest vectors."""
    item = np.dtype(dtype).itemsize
    buffer = np.zeros(size + 64 // item, dtype)
    skip = -buffer.ctypes.data % 64 // item
    return buffer[skip : skip + size]
