"""From a configuration to a finished dataset: check, allocate, run what is left, sum up.

`lbm.trajectory` takes one run to its end, `lbm.schedule` decides who runs which.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lbm import console, dataset, schedule, sweep
from lbm.config import SimulateConfig
from lbm.errors import NumericalError, UsageError
from lbm.estimate import cores, estimate, refuse_impossible
from lbm.recording import check, create, parameters, require_agreement, stored_config, summary


def simulate(
    config: SimulateConfig | None = None,
    *,
    output: Path | str = "flow.zarr",
    threads: int | None = None,
    scheduler: str = "threads",
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Simulate trajectories and write them as a dataset; what `lbm simulate` does.

    Give a `SimulateConfig`, or its fields as keywords (`simulate(reynolds=150, frames=100)`). `threads`
    trajectories run at the same time (default: one per core), in threads, in `processes` or on a dask cluster
    (`scheduler="tcp://host:8786"`, whose workers must share the file system of `output`); none of this changes a bit.
    With `resume`, an unfinished dataset at `output` is continued with its own settings (those given must
    agree), a finished one is left alone and a missing one is begun. Returns the path. The first SIGINT
    or SIGTERM saves and leaves with `KeyboardInterrupt` or exit code 143. Raises `UsageError`,
    `NumericalError` (the frames before a divergence are kept, the other runs are finished), `DataError`,
    `ResourceError`.
    """
    path = Path(output)
    given = config if config is not None else _from_keywords(settings)
    threads = threads if threads is not None else cores()
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    schedule.check_scheduler(scheduler)
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
        schedule.reach(scheduler, path.parent)
        writer = dataset.resume(path)
    else:
        config = given.resolved()
        dataset.check_output(path, overwrite=overwrite)
        refuse_impossible(config, estimate(config, threads), path)
        check(config, quiet=quiet)
        schedule.reach(scheduler, path.parent)
        writer = create(config, path, overwrite=overwrite)
    began = time.monotonic()
    with writer:
        if "://" not in scheduler:
            _compile(config)
        _run_all(config, writer, scheduler, threads, quiet)
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
        if value is not None and value != {}:
            lines.append(f"{name} = {_toml(value)}")
    lines.append(
        f"# memory {console.size(report['memory_bytes'])}, disk {console.size(report['disk_bytes'])}, "
        f"about {console.duration(report['seconds'])}"
    )
    return "\n".join([*lines, *(f"# warning: {text}" for text in report["warnings"])])


def _toml(value: Any) -> str:
    """A value on one line of TOML; what is None in a table is left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)


def _from_keywords(settings: dict[str, Any]) -> SimulateConfig:
    from lbm.settings import resolve

    return resolve(SimulateConfig, file=None, sets=[], flags=settings)


def _compile(config: SimulateConfig) -> None:
    """Make numba compile now: during a run, a signal would have to wait for it."""
    from lbm.flow import Simulation

    simulation = Simulation(parameters(config, 0))
    simulation.advance(1)
    simulation.fields(config.fields, config.frame_size or config.size)


def _run_all(config: SimulateConfig, writer: dataset.Writer, scheduler: str, threads: int, quiet: bool) -> None:
    """Run every trajectory that is not finished, then write what the dataset says about all of them."""
    runs = sweep.runs(config)
    done = np.asarray(writer.array("frames_written")[...])
    left = [int(number) for number in np.flatnonzero(done < config.frames)]
    bar = _Bar(runs, done, left)
    with console.Stop() as stop, bar.show(quiet):
        if left:
            with schedule.crew(scheduler, threads, runs, writer, left) as crew:
                diverged = schedule.run(crew, left, bar.report, stop, quiet=quiet)
    if stop.requested == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.requested:
        stop.exit()
    if left and diverged:
        more = f"; {len(diverged) - 1} more of {len(runs)} runs diverged" if len(diverged) > 1 else ""
        raise NumericalError(f"{diverged[0]}{more}")
    _summarise(writer)


class _Bar:
    """Progress in frames, those of the warm-up included, so that the time left is right from the start."""

    def __init__(self, runs: Sequence[SimulateConfig], done: np.ndarray, left: list[int]) -> None:
        first = runs[0]
        self.every, self.each = first.every, (first.warmup or 0) + first.frames
        self.shown = {
            number: 0 if done[number] == 0 else self.each - first.frames + int(done[number]) for number in left
        }
        self.total = len(runs) * self.each
        self.begun = self.total - len(left) * self.each + sum(self.shown.values())
        self._lock = threading.Lock()

    def show(self, quiet: bool) -> console.Progress:
        self.progress = console.progress(self.total, "simulate", unit="frames", quiet=quiet, done=self.begun)
        return self.progress

    def report(self, number: int, ticks: int) -> None:
        """A run has come to a tick; what it repeats after an interruption is not counted twice."""
        with self._lock:
            new = min(ticks // self.every, self.each) - self.shown[number]
            if new > 0:
                self.shown[number] += new
                self.progress.advance(new)


def _summarise(writer: dataset.Writer) -> None:
    """Mean Strouhal number over the runs that shed, and its standard error, into the attributes."""
    if not writer.has("strouhal"):
        return
    numbers, errors = (np.asarray(writer.array(name)[...]) for name in ("strouhal", "strouhal_uncertainty"))
    sheds = np.isfinite(numbers)
    if sheds.any():
        error = float(np.sqrt(np.sum(errors[sheds] ** 2)) / sheds.sum())
        writer.update_attributes({"strouhal": float(numbers[sheds].mean()), "strouhal_uncertainty": error})
