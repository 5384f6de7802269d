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

from lbm import console, dataset, restart
from lbm.config import SimulateConfig
from lbm.errors import DataError, NumericalError, UsageError
from lbm.estimate import chunk_frames, cores, estimate, refuse_impossible
from lbm.recording import check, create, parameters, require_agreement, stored_config, summary

if TYPE_CHECKING:
    from lbm.flow import Simulation

SLICE = 4e7  # cell updates between two looks at the stop flag: about a tenth of a second
SAVE_EVERY = 2.0  # seconds between restart states: what a kill can cost


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
        if dataset.read_attributes(path).get("versions") != dataset.provenance()["versions"]:
            console.warn(f"{path} was begun with other software versions: the last bits may differ", quiet=quiet)
        writer = dataset.resume(path)
    else:
        config = given.resolved()
        dataset.check_output(path, overwrite=overwrite)
        refuse_impossible(config, estimate(config, threads), path)
        check(config, quiet=quiet)
        writer = create(config, path, overwrite=overwrite)
    began = time.monotonic()
    with writer:
        _compile(config)
        _run_all(config, writer, threads, quiet)
        writer.finish()
    console.say(summary(config, path, time.monotonic() - began), quiet=quiet)
    return path


def dry_run(
    config: SimulateConfig,
    output: Path | str,
    *,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """What `simulate` would do, as a dictionary: the resolved settings, the cost, the warnings.

    Raises what `simulate` would raise before its first tick.
    """
    path = Path(output)
    if resume and path.exists():
        stored = stored_config(path)
        require_agreement(config, stored, path)
        config = stored
    else:
        config = config.resolved()
        dataset.check_output(path, overwrite=overwrite)
    threads = threads if threads is not None else cores()
    cost = estimate(config, threads)
    refuse_impossible(config, cost, path)
    return {
        "output": str(path),
        "threads": threads,
        "config": config.model_dump(mode="json"),
        "memory_bytes": int(cost.memory),
        "disk_bytes": int(cost.disk),
        "seconds": round(cost.seconds, 1),
        "warnings": check(config),
    }


def dry_run_text(report: dict[str, Any]) -> str:
    """The report of `dry_run` for people; the settings are TOML that `--config` accepts."""
    lines = [f"# {report['output']}, {report['threads']} threads"]
    for name, value in report["config"].items():
        if value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    lines.append(
        f"# memory {console.size(report['memory_bytes'])}, disk {console.size(report['disk_bytes'])}, "
        f"about {console.duration(report['seconds'])}"
    )
    return "\n".join([*lines, *(f"# warning: {text}" for text in report["warnings"])])


def _from_keywords(settings: dict[str, Any]) -> SimulateConfig:
    from lbm.settings import resolve

    return resolve(SimulateConfig, file=None, sets=[], flags=settings)


def _compile(config: SimulateConfig) -> None:
    """Make numba compile now: during a run, a signal would have to wait for it."""
    from lbm.flow import Simulation

    simulation = Simulation(parameters(config, 0))
    simulation.advance(1)
    simulation.fields(config.fields, config.frame_size or config.size)


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
