"""From a configuration to a dataset: trajectories run one per core, each written chunk by chunk.

Frame k of a run is sampled at tick (warmup + k) * every. After a chunk of frames the order is: data,
restart state (now and then), `frames_written`. Whatever a kill leaves of this is a dataset that
`resume` completes to the bits of an uninterrupted one: a run continues from its last state and
rewrites what came after with the same values.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import console, dataset, restart, units
from lbm.config import SimulateConfig
from lbm.errors import DataError, NumericalError, UsageError
from lbm.estimate import chunk_frames, cores, estimate, refuse_impossible

if TYPE_CHECKING:
    from lbm.flow import FlowParameters, Simulation

SLICE = 4e7  # cell updates between two looks at the stop flag: about a tenth of a second
SAVE_EVERY = 2.0  # seconds between restart states: what a kill can cost
UNITS = {
    "vorticity": ("vorticity dv/dx - du/dy", "1/tick"),
    "velocity_x": ("streamwise velocity", "cells/tick"),
    "velocity_y": ("transverse velocity", "cells/tick"),
    "density": ("density", "1"),
}


def simulate(
    config: SimulateConfig | None = None,
    *,
    output: Path | str = "flow.zarr",
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Simulate trajectories and write them as a dataset; what `lbm simulate` does.

    Give a `SimulateConfig`, or its fields as keywords (`simulate(reynolds=150, frames=100)`). `threads`
    trajectories run at the same time (default: one per core); their number never changes a bit. With
    `resume`, an unfinished dataset at `output` is continued with its own settings (those given must
    agree), a finished one is left alone and a missing one is begun. Returns the path. The first SIGINT
    or SIGTERM saves and leaves with `KeyboardInterrupt` or exit code 143. Raises `UsageError`,
    `NumericalError` (the frames before a divergence are kept), `DataError`, `ResourceError`.
    """
    path = Path(output)
    given = config if config is not None else _from_keywords(settings)
    threads = threads if threads is not None else cores()
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    if resume and overwrite:
        raise UsageError("--resume goes on with a dataset, --overwrite replaces it: give one of them")
    if resume and path.exists():
        config = stored_config(path)
        require_agreement(given, config, path)
        if dataset.read_attributes(path).get("complete") is True:
            console.say(f"{path} is already complete", quiet=quiet)
            return path
        writer = dataset.resume(path)
    else:
        config = given.resolved()
        dataset.check_output(path, overwrite=overwrite)
        refuse_impossible(config, estimate(config, threads), path)
        check(config, quiet=quiet)
        writer = create(config, path, overwrite=overwrite)
    began = time.monotonic()
    with writer:
        _run_all(config, writer, threads, quiet)
        writer.finish()
    console.say(summary(config, path, time.monotonic() - began), quiet=quiet)
    return path


def _from_keywords(settings: dict[str, Any]) -> SimulateConfig:
    from lbm.settings import resolve

    return resolve(SimulateConfig, file=None, sets=[], flags=settings)


def parameters(config: SimulateConfig, trajectory: int) -> FlowParameters:
    """The solver's parameters for one trajectory of a resolved configuration."""
    from lbm.flow import FlowParameters

    ny, nx = config.size
    return FlowParameters(
        ny=ny,
        nx=nx,
        viscosity=_known(config.viscosity),
        bulk_viscosity=config.bulk_viscosity,
        inflow_velocity=_known(config.inflow_velocity),
        obstacle=config.obstacle,
        diameter=_known(config.diameter),
        centre=config.centre,
        sides=config.sides,
        noise_streamwise=config.noise_streamwise,
        noise_transverse=config.noise_transverse,
        noise_time=config.noise_time,
        seed=config.seed,
        trajectory=trajectory,
        dtype=config.dtype,
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the configuration has open values: call its resolved() first")
    return value


def check(config: SimulateConfig, *, quiet: bool = True) -> list[str]:
    """Refuse unstable settings (`UsageError`); return, and print, warnings about doubtful ones."""
    from lbm.flow import check_parameters

    warnings = list(check_parameters(parameters(config, 0)))
    if config.reynolds is not None and config.inflow_velocity is not None and config.diameter is not None:
        period = units.shedding_period(config.reynolds, config.inflow_velocity, config.diameter)
        if period / config.every < 4:
            warnings.append(
                f"one shedding period (about {period:.0f} ticks) has only {period / config.every:.1f} frames; "
                f"4 are needed to follow it: lower --every to {max(1, int(period / 4))} or less"
            )
    for text in warnings:
        console.warn(text, quiet=quiet)
    return warnings


def stored_config(path: Path) -> SimulateConfig:
    """The resolved configuration a dataset was created with. Raises `DataError`."""
    text = dataset.read_attributes(path).get("config")
    try:
        return SimulateConfig.model_validate(json.loads(str(text))).resolved()
    except ValueError as error:
        raise DataError(f"{path} has no usable simulation settings: {str(error).splitlines()[0]}") from None


def require_agreement(given: SimulateConfig, stored: SimulateConfig, path: Path) -> None:
    """Raise `UsageError` when a setting that was given differs from that of the dataset to resume."""
    if not given.model_fields_set:
        return
    wanted = given.resolved()
    for name in sorted(given.model_fields_set):
        ours, theirs = getattr(wanted, name), getattr(stored, name)
        if ours != theirs and getattr(given, name) is not None:
            raise UsageError(
                f"{path} was begun with {name} = {theirs}, now it is {ours}: resume with the same settings, "
                "or begin anew with --overwrite"
            )


def create(config: SimulateConfig, path: Path, *, overwrite: bool = False) -> dataset.Writer:
    """Allocate the dataset of a resolved configuration. Raises `UsageError`, `ResourceError`."""
    from lbm.flow import Simulation

    runs, frames, (ny, nx) = config.trajectories or 1, config.frames, config.frame_size or config.size
    factor = config.size[0] // ny
    cells = np.asarray(Simulation(parameters(config, 0)).solid, bool)
    # A pixel is solid when all of its cells are: what the others average is partly flow.
    solid = cells.reshape(ny, factor, nx, factor).all(axis=(1, 3))
    chunks = (1, chunk_frames(config), ny, nx)
    variables: dict[str, dataset.Variable] = {
        str(name): dataset.Variable(
            ("trajectory", "time", "y", "x"),
            "float32",
            {"long_name": UNITS[name][0], "units": UNITS[name][1]},
            chunks,
        )
        for name in config.fields
    }
    variables["solid"] = dataset.Variable(
        ("trajectory", "y", "x"),
        "bool",
        {"long_name": "inside the obstacle"},
        (1, ny, nx),
        values=np.broadcast_to(solid, (runs, ny, nx)),
    )
    return dataset.create(
        path,
        variables=variables,
        coords=_coordinates(config),
        sizes={"trajectory": runs, "time": frames, "y": ny, "x": nx},
        attrs={
            "title": f"Flow past {'a cylinder' if config.obstacle == 'cylinder' else 'nothing'} in two dimensions",
            "source": "lattice-Boltzmann simulation (D2Q9, multiple relaxation times)",
            "history": "created by lbm simulate",
            "config": config.text(),
            "frame_interval": config.every,
            "frame_interval_units": "ticks",
            "cells_per_pixel": factor,
            "seed": config.seed,
        },
        overwrite=overwrite,
    )


def _coordinates(config: SimulateConfig) -> dict[str, dataset.Coordinate]:
    runs, frames, warmup = config.trajectories or 1, config.frames, config.warmup or 0

    def table(value: float | None, name: str, unit: str) -> dataset.Coordinate:
        number = np.nan if value is None else value
        return "trajectory", np.full(runs, number), {"long_name": name, "units": unit}

    return {
        "trajectory": ("trajectory", np.arange(runs), {"long_name": "independent run"}),
        "time": ("time", np.arange(frames), {"long_name": "frame"}),
        "tick": (
            "time",
            (warmup + np.arange(frames)) * config.every,
            {"long_name": "lattice step the frame was sampled at", "units": "ticks"},
        ),
        "split": ("trajectory", np.array(config.splits), {"long_name": "what the run is for"}),
        "viscosity": table(config.viscosity, "shear viscosity", "cells^2/tick"),
        "bulk_viscosity": table(config.bulk_viscosity, "bulk viscosity (two-dimensional)", "cells^2/tick"),
        "inflow_velocity": table(config.inflow_velocity, "mean inflow velocity", "cells/tick"),
        "reynolds": table(config.reynolds, "Reynolds number U D / nu", "1"),
        "seed": ("trajectory", np.full(runs, config.seed), {"long_name": "seed; streams differ by trajectory"}),
    }


def _run_all(config: SimulateConfig, writer: dataset.Writer, threads: int, quiet: bool) -> None:
    """Run every trajectory that is not finished, `threads` at a time."""
    done = [int(n) for n in np.asarray(writer.array("frames_written")[...])]
    left = [run for run, frames in enumerate(done) if frames < config.frames]
    halt = threading.Event()
    total = len(done) * config.frames
    with (
        console.Stop() as stop,
        console.progress(total, "simulate", unit="frames", quiet=quiet, done=sum(done)) as bar,
        ThreadPoolExecutor(min(threads, max(1, len(left)))) as pool,
    ):
        jobs = [pool.submit(_Run(config, writer, run, halt).run, bar.advance) for run in left]
        try:
            _watch(jobs, halt, stop)
        finally:
            halt.set()
            for job in jobs:
                job.cancel()
    if stop.requested == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.requested:
        stop.exit()


def _watch(jobs: list[Future[None]], halt: threading.Event, stop: console.Stop) -> None:
    pending = set(jobs)
    while pending and not stop.requested:
        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        for job in finished:
            job.result()
    halt.set()


class _Run:
    """One trajectory on its way to the dataset."""

    def __init__(self, config: SimulateConfig, writer: dataset.Writer, trajectory: int, halt: threading.Event) -> None:
        self.config, self.writer, self.trajectory, self.halt = config, writer, trajectory, halt
        self.shape = config.frame_size or config.size
        self.chunk = chunk_frames(config)
        self.slice = max(1, int(SLICE / (config.size[0] * config.size[1])))

    @property
    def state_file(self) -> Path:
        return self.writer.scratch / f"trajectory-{self.trajectory}.npz"

    def run(self, advance: Callable[[int], None]) -> None:
        """Simulate to the end, or until `halt` is set; `advance` counts new frames."""
        if self.halt.is_set():
            return
        simulation = self._begin()
        shown = self.acknowledged
        try:
            while self.frames < self.config.frames:
                if not self._advance_to(simulation, self._tick(self.frames)):
                    self._flush()
                    return self._save(simulation)
                self._sample(simulation)
                if self.frames > shown:  # frames repeated after a kill are not counted twice
                    advance(self.frames - shown)
                    shown = self.frames
                if self.frames % self.chunk == 0 or self.frames == self.config.frames:
                    self._flush()
                    if self.frames < self.config.frames and time.monotonic() - self.saved > SAVE_EVERY:
                        self._save(simulation)
        except NumericalError as error:
            self._flush()
            raise NumericalError(f"{error} (its {self.frames} good frames are kept)") from error
        self.state_file.unlink(missing_ok=True)
        return None

    def _begin(self) -> Simulation:
        """A new simulation, or one in the state it was stopped in, with the frames of its open chunk."""
        from lbm.flow import Simulation

        simulation = Simulation(parameters(self.config, self.trajectory))
        self.saved = time.monotonic()
        self.acknowledged = int(np.asarray(self.writer.array("frames_written")[self.trajectory]))
        self.frames = 0
        self.unwritten = False
        self.buffer = {name: np.full((self.chunk, *self.shape), np.nan, np.float32) for name in self.config.fields}
        saved = restart.load(self.state_file)
        if saved is None:
            return simulation
        state, frames = saved
        try:
            simulation.restore(state)
        except (DataError, KeyError, ValueError, TypeError):
            return Simulation(parameters(self.config, self.trajectory))  # from another version: begin anew
        self.frames = frames
        start = frames - frames % self.chunk
        for name, buffer in self.buffer.items():
            buffer[: frames - start] = self.writer.array(name)[self.trajectory, start:frames]
        return simulation

    def _tick(self, frame: int) -> int:
        return ((self.config.warmup or 0) + frame) * self.config.every

    def _advance_to(self, simulation: Simulation, tick: int) -> bool:
        """Advance to a tick in slices; False when asked to stop on the way."""
        while simulation.tick < tick:
            if self.halt.is_set():
                return False
            simulation.advance(min(self.slice, tick - simulation.tick))
            if tick - simulation.tick >= self.slice:
                simulation.check()  # long intervals: a divergence ends soon, not at the next frame
        return not self.halt.is_set()

    def _sample(self, simulation: Simulation) -> None:
        simulation.check()
        fields = simulation.fields(self.config.fields, self.shape)
        for name, buffer in self.buffer.items():
            buffer[self.frames % self.chunk] = fields[name]
        self.frames += 1
        self.unwritten = True

    def _flush(self) -> None:
        """Write the open chunk as far as it goes, then acknowledge it (never less than before)."""
        if not self.unwritten:
            return
        start = (self.frames - 1) // self.chunk * self.chunk
        part = slice(start, self.frames)
        for name, buffer in self.buffer.items():
            self.writer.write(name, buffer[: self.frames - start], trajectory=self.trajectory, time=part)
        self.acknowledged = max(self.acknowledged, self.frames)
        self.writer.mark(trajectory=self.trajectory, time=slice(start, self.acknowledged))
        self.unwritten = False

    def _save(self, simulation: Simulation) -> None:
        restart.save(self.state_file, simulation.state(), self.frames)
        self.saved = time.monotonic()


def summary(config: SimulateConfig, path: Path, seconds: float) -> str:
    """One line about a finished dataset."""
    ny, nx = config.frame_size or config.size
    counts = ", ".join(f"{config.splits.count(name)} {name}" for name in ("train", "validation", "test"))
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        f"{path}: {config.trajectories} trajectories ({counts}) of {config.frames} frames {ny}x{nx}, "
        f"{console.size(total)}, took {console.duration(seconds)}"
    )
