"""One trajectory on its way to the dataset: frames, forces, saved states, and the state it restarts from.

Frame k is sampled at tick (warmup + k) * every. After a chunk of frames come, now and then, the restart state and then
`frames_written`. Whatever a kill leaves of this is a dataset that a later run completes to the bits of an undisturbed
one: it continues from the last restart state and rewrites what came after with the same values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lbm import restart
from lbm.config import SimulateConfig
from lbm.errors import DataError, NumericalError
from lbm.recording import parameters
from lbm.series import Series
from lbm.strouhal import strouhal_number
from lbm.writer import Writer

if TYPE_CHECKING:
    from lbm.flow import Simulation

SLICE = 4e7  # cell updates between two looks at the orders: about a tenth of a second
GLANCE_TICKS = 100  # what is not finite any more is found within so many ticks
CHECK_TICKS = 1000  # a flow too fast, or of drifting mass, within so many, and before every frame
PENDING_TICKS = 4096  # of forces, before they are sorted into their chunks
MARK_EVERY = 0.25  # seconds between acknowledgements of frames
SAVE_EVERY = 2.0  # seconds between restart states: what a kill can cost

GO, STOP, LEAVE = "go", "stop", "leave"  # orders: go on; save and stop; stop without touching the dataset


class Trajectory:
    """Trajectory `number` of a dataset; `config` is its own resolved configuration.

    `order` is asked about every tenth of a second. `report(ticks)` is told how far the run is.
    """

    def __init__(
        self,
        config: SimulateConfig,
        writer: Writer,
        number: int,
        *,
        threads: int = 1,
        order: Callable[[], str] = lambda: GO,
        report: Callable[[int], None] = lambda ticks: None,
    ) -> None:
        self.config, self.writer, self.number, self.order, self.report = config, writer, number, order, report
        self.threads = threads
        self.shape = config.frame_size or config.size
        self.slice = max(2, min(GLANCE_TICKS, int(SLICE / (config.size[0] * config.size[1])) // 2 * 2))
        self.state_file = writer.scratch / f"trajectory-{number}.npz"

    def run(self) -> bool:
        """Simulate to the end (True), or until an order stops it. Raises `NumericalError`: the good frames are kept."""
        if self.order() != GO:
            return False
        self._begin()
        try:
            while self.frames < self.config.frames:
                if not self._advance_to(self._tick(self.frames)):
                    return False if self.order() == LEAVE else self._stop()
                self._sample()
                if self.frames % self.chunk == 0 or self.frames == self.config.frames:
                    if self.order() == LEAVE:
                        return False
                    self._acknowledge()
        except NumericalError as error:
            self._flush()
            self._mark()
            raise NumericalError(f"{error} (its {self.frames} good frames are kept)") from error
        self.state_file.unlink(missing_ok=True)
        return True

    def _begin(self) -> None:
        """A new simulation, or one in the state it was stopped in, with the chunks that were open then."""
        writer, number = self.writer, self.number
        self.flow = _simulation(self.config, number, self.threads)
        self.fields = {name: Series(writer, name, number, "time") for name in self.config.fields}
        self.chunk = next(iter(self.fields.values())).chunk
        self.forces = _Forces(writer, number, self.flow)
        self.states = _States(writer, number)
        self._series = [*self.fields.values(), *self.forces.series.values(), *self.states.series.values()]
        self.frames, self.checked, self.glanced, self.saved = 0, 0, 0, time.monotonic()
        self.said = self.saved
        self.acknowledged = self.marked = int(np.asarray(writer.array("frames_written")[number]))
        if saved := restart.load(self.state_file):
            state, frames = saved
            try:
                self.flow.restore(state)
            except (DataError, KeyError, ValueError, TypeError):  # from another version: begin anew
                self.flow = _simulation(self.config, number, self.threads)
            else:
                self._continue_from(frames)
                return
        self.forces.skip_the_past()

    def _continue_from(self, frames: int) -> None:
        self.frames = frames
        self.checked = self.glanced = self.flow.tick
        for series in self.fields.values():
            series.start(frames)
        self.forces.start(self.flow.tick)
        self.states.start(frames)

    def _tick(self, frame: int) -> int:
        return ((self.config.warmup or 0) + frame) * self.config.every

    def _advance_to(self, tick: int) -> bool:
        """Advance to a tick in slices of equal, even length; False when ordered to stop on the way."""
        while self.flow.tick < tick:
            if self.order() != GO:
                return False
            gap = tick - self.flow.tick
            ticks = min(gap, 2 * math.ceil(gap / (2 * math.ceil(gap / self.slice))))
            self.forces.append(self.flow.tick, self.flow.advance(ticks))
            self.report(self.flow.tick)
            if self.flow.tick < tick and self.flow.tick + self.slice > self.glanced + GLANCE_TICKS:
                self._glance()
        return self.order() == GO

    def _glance(self) -> None:
        """A hundredth of the cost of a check, so that divergence ends soon, not at the next frame."""
        self.glanced = self.flow.tick
        if self.glanced >= self.checked + CHECK_TICKS or not self.flow.finite():
            self._check()

    def _check(self) -> None:
        self.flow.check()
        self.checked = self.glanced = self.flow.tick

    def _sample(self) -> None:
        self._check()
        fields = self.flow.fields(self.config.fields, self.shape)
        self.states.append(self.frames, self.flow)
        self.frames += 1
        if self.frames == self.config.frames:  # everything else lies on disk before the last chunk is acknowledged
            self.forces.finish(self._tick(0))
        for name, series in self.fields.items():
            series.append(fields[name][None])

    def _acknowledge(self) -> None:
        now = time.monotonic()
        if self.frames == self.config.frames:
            self._mark()
        elif now - self.saved > SAVE_EVERY:
            self._save()
            self._mark()
        elif now - self.said > MARK_EVERY:
            self._mark()

    def _mark(self) -> None:
        """Advance `frames_written` (never back: frames repeated after a kill were acknowledged before)."""
        self.acknowledged = max(self.acknowledged, self.frames)
        if self.acknowledged > self.marked:
            self.writer.mark(trajectory=self.number, time=slice(0, self.acknowledged))
            self.marked = self.acknowledged
        self.said = time.monotonic()

    def _flush(self) -> None:
        self.forces.settle()
        for series in self._series:
            series.flush()

    def _save(self) -> None:
        self._flush()
        restart.save(self.state_file, self.flow.state(), self.frames)
        self.saved = time.monotonic()

    def _stop(self) -> bool:
        self._save()
        self._mark()
        return False


def _simulation(config: SimulateConfig, number: int, threads: int) -> Simulation:
    from lbm.flow import Simulation

    p = parameters(config, number)
    return Simulation(p, threads=threads) if threads > 1 else Simulation(p)


class _Forces:
    """Drag and lift coefficients, 2 F / (U^2 L), at the ticks of `force_time`, where the dataset has them."""

    NAMES = ("drag_coefficient", "lift_coefficient")  # along x and y

    def __init__(self, writer: Writer, number: int, flow: Simulation) -> None:
        self.writer, self.number = writer, number
        self.series = {name: Series(writer, name, number, "force_time") for name in self.NAMES if writer.has(name)}
        self.ticks = np.asarray(writer.array("force_time")[...]) if self.series else np.empty(0, int)
        self.pending: list[np.ndarray] = []
        self.pending_from = 0
        p = flow.parameters if self.series else None
        self.velocity, self.length = (p.inflow_velocity, p.reference_length) if p else (1.0, 1.0)

    def start(self, tick: int) -> None:
        for series in self.series.values():
            series.start(int(np.searchsorted(self.ticks, tick, "right")))

    def skip_the_past(self) -> None:
        """Ticks before the first one, where there is no warm-up, stay NaN."""
        past = int(np.searchsorted(self.ticks, 0, "right"))
        for series in self.series.values():
            series.append(np.full((past, *series.row_shape), np.nan, np.float32))

    def append(self, tick: int, forces: np.ndarray) -> None:
        """Forces (ticks, bodies, 2) of the ticks that begin at `tick`, in lattice units."""
        if not self.series:
            return
        if not self.pending:
            self.pending_from = tick
        self.pending.append(forces)
        if tick + len(forces) - self.pending_from >= PENDING_TICKS:
            self.settle()

    def settle(self) -> None:
        """Pass on what is pending (many slices at once: each costs as much Python as a chunk)."""
        if not self.pending:
            return
        forces, tick = np.concatenate(self.pending), self.pending_from
        self.pending.clear()
        first, last = np.searchsorted(self.ticks, [tick, tick + len(forces)], "right")
        chosen = forces[self.ticks[first:last] - tick - 1] * (2 / (self.velocity**2 * self.length))
        for axis, (name, series) in enumerate(self.series.items()):
            values = chosen[..., axis]
            separate = "body" in self.writer.dims(name)
            with np.errstate(over="ignore", invalid="ignore"):  # a diverging flow
                series.append((values if separate else values.sum(axis=1)).astype(np.float32))

    def finish(self, first_tick: int) -> None:
        """Write what is left, and the Strouhal number of the lift from `first_tick` on."""
        self.settle()
        for series in self.series.values():
            series.flush()
        if "lift_coefficient" not in self.series or not self.writer.has("strouhal"):
            return
        lift = np.asarray(self.writer.array("lift_coefficient")[self.number], float)[..., self.ticks >= first_tick]
        interval = float(np.median(np.diff(self.ticks))) if len(self.ticks) > 1 else 1.0
        number, uncertainty = strouhal_number(lift, interval, length=self.length, velocity=self.velocity)
        self.writer.write("strouhal", np.float64(number), trajectory=self.number)
        self.writer.write("strouhal_uncertainty", np.float64(uncertainty), trajectory=self.number)


class _States:
    """The solver's state at the frames of `state_time`, from which ensembles start, where the dataset has them."""

    NAMES = (("populations", "populations"), ("state_outlet", "outlet"), ("state_noise", "noise"))

    def __init__(self, writer: Writer, number: int) -> None:
        names = [(name, key) for name, key in self.NAMES if writer.has(name)]
        self.series = {key: Series(writer, name, number, "state_time") for name, key in names}
        self.frames = np.asarray(writer.array("state_time")[...]) if self.series else np.empty(0, int)

    def start(self, frames: int) -> None:
        for series in self.series.values():
            series.start(int(np.searchsorted(self.frames, frames, "left")))

    def append(self, frame: int, flow: Simulation) -> None:
        """Keep the state of the tick at which `frame` is sampled, if it is one of those asked for."""
        if frame in self.frames:
            state = flow.state()
            for key, series in self.series.items():
                series.append(state[key][None])
