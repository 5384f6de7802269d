"""How one job of a study gets its weights and its forecast, and what both cost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbm import dataset as store
from lbm.console import Stop
from lbm.errors import DataError, FlowError
from rvdflow import checkpoint
from rvdflow.study_config import run_config, sampler_config
from rvdflow.study_jobs import Job, read_json, write_json

if TYPE_CHECKING:
    from rvdflow.forecaster import Forecaster
    from rvdflow.study import Workplace


class Failed(FlowError):
    """A job that cannot be done; the study goes on without it."""


def train_weights(place: Workplace, job: Job, *, afresh: bool) -> dict[str, Any]:
    """Train the weights of a job, unless they are there; returns {steps, minutes, skipped}, of a deep ensemble in all.

    `afresh` begins anew. Raises what `rvdflow.train.train` raises, `Failed` when the cell that trains them has failed.
    """
    cell = place.study.cell(job.cell.weights or job.cell.name)
    if job.cell.pooled:
        parts = [_train(place, job, Job(cell, seed), afresh=False) for seed in place.study.seeds]
        return {name: round(sum(part[name] for part in parts), 4) for name in parts[0]}
    return _train(place, job, Job(cell, job.seed), afresh=afresh)


def _train(place: Workplace, job: Job, trainer: Job, *, afresh: bool) -> dict[str, Any]:
    """Train the weights of `trainer` for `job`."""
    from rvdflow.train import train

    if trainer != job:
        record = place.folder.record(trainer)
        if record is not None and record["status"] == "failed" and record["stage"] == "training":
            raise Failed(f"the training of {trainer.name} failed")
    folder = place.folder.run(trainer.name)
    config = run_config(place.study, trainer.cell, trainer.seed or 0)
    there = (folder / "config.json").is_file()
    train(
        place.data, folder, config, device=place.device, threads=place.threads, resume=there and not afresh,
        overwrite=afresh, quiet=place.quiet,
    )  # fmt: skip
    return training_of(folder)


def weights_at(place: Workplace, job: Job) -> Path | None:
    """The run that a job draws from; None for a forecast without weights."""
    holder = place.study.cell(job.cell.weights or job.cell.name)
    return holder.run if holder.run is not None else place.folder.run(job.run) if job.run is not None else None


def training_of(run: Path) -> dict[str, Any]:
    """{steps, minutes, skipped} of a whole run, whose best weights may be earlier; of a checkpoint up to it."""
    final = run / "checkpoints" / "final.pt"
    meta = checkpoint.read(final if final.is_file() else checkpoint.find(run)).meta
    done = meta["optimiser"]
    minutes = round(float(meta["elapsed"]) / 60, 4)
    return {"steps": int(done["step"]), "minutes": minutes, "skipped": int(done["skipped"])}


def make_forecast(place: Workplace, job: Job, *, afresh: bool) -> dict[str, Any]:
    """Make the forecast of a job, or find that it is there; returns what it cost and what it is of.

    {members, calls (of the denoiser per frame), seconds (per frame and member), parameters}; None where that says
    nothing.
    """
    cell = job.cell
    if cell.kind == "store":
        if cell.store is None or not cell.store.exists():
            raise DataError(f"{cell.store}: no such forecast")
        return _about(store.read_attributes(cell.store)) | {"calls": None, "seconds": None}
    output = place.folder.forecast(job)
    output.parent.mkdir(parents=True, exist_ok=True)
    if cell.kind == "perfect":
        with _stopwatch(place, job, output):
            perfect_model(place, output)
        calls = None
    else:
        calls = _draw(place, job, output, afresh)
    return {"calls": calls, "seconds": _seconds(place, job)} | _about(store.read_attributes(output))


def _about(attributes: dict[str, Any]) -> dict[str, Any]:
    names = ("members", "parameters", "sampler", "sampler_steps", "checkpoint_sha256", "deterministic")
    return {name: attributes[name] for name in names if name in attributes}


def _draw(place: Workplace, job: Job, output: Path, afresh: bool) -> float | None:
    """Forecast with the forecaster of a job; returns the network calls per frame, None for a reference."""
    from rvdflow.forecast import forecast

    forecaster, cases = forecaster_of(place, job), place.cases
    try:
        calls = 0 if job.cell.method in ("mean", "mean-dressed") else calls_per_frame(forecaster)
    except ValueError as error:  # more steps than this model has noise levels
        raise Failed(str(error)) from error
    resume = output.exists() and not afresh
    with _stopwatch(place, job, output):
        forecast(
            forecaster, place.data, output, members=cases.members, lead=cases.lead, context=cases.context,
            split=place.study.protocol.split, init_times=cases.init_times, cases=place.study.protocol.cases,
            seed=cases.seed, resume=resume, overwrite=not resume, quiet=place.quiet,
        )  # fmt: skip
    return calls


def forecaster_of(place: Workplace, job: Job) -> Forecaster:
    """The forecaster that a job draws from: a reference, or weights with the sampler or method of the cell."""
    from rvdflow.baselines import dress, fit
    from rvdflow.network_forecaster import NetworkForecaster, ResidualDiffusionForecaster, load
    from rvdflow.pooled import Pooled

    cell, protocol = job.cell, place.study.protocol
    run = weights_at(place, job)
    if run is None:
        return fit(cell.method or "", place.opened, context=protocol.context, lead=protocol.lead)
    loaded = load(run, device=place.device, threads=place.threads)
    if cell.sampler:
        if loaded.sampler is None:
            raise Failed(f"{run} is a run of {loaded.method}: it has no sampler to choose")
        loaded.sampler = sampler_config(loaded.sampler, cell)
    if cell.method is None:
        return loaded
    if cell.pooled:
        runs = [place.folder.run(f"{cell.weights}-seed{seed}") for seed in place.study.seeds]
        return Pooled([load(each, device=place.device, threads=place.threads) for each in runs])
    plain: NetworkForecaster = loaded
    if cell.method != "dressed":
        if not isinstance(loaded, ResidualDiffusionForecaster):
            raise Failed(f"{run} is a run of {loaded.method}, which has no mean of its own")
        plain = loaded.mean()
    return plain if cell.method == "mean" else dress(plain, place.opened, context=protocol.context, lead=protocol.lead)


def calls_per_frame(forecaster: Forecaster) -> float | None:
    """How often the network is called for one frame of one member; None without a network."""
    from rvdflow.network_forecaster import NetworkForecaster
    from rvdflow.pooled import Pooled

    first = forecaster.parts[0] if isinstance(forecaster, Pooled) else forecaster
    return first.model.calls(first.sampler) if isinstance(first, NetworkForecaster) else None


def perfect_model(place: Workplace, output: Path) -> None:
    """The solver's own ensemble, by `lbm ensemble`. Failed with its last words when it cannot be made."""
    cases, protocol = place.cases, place.study.protocol
    arguments: list[object] = ["ensemble", "--from", place.data, "--members", cases.members, "--lead", cases.lead]
    arguments += ["--init-times", ",".join(map(str, cases.init_times)), "--split", protocol.split]
    arguments += ["--seed", cases.seed, "-o", output, "--quiet"]
    if place.threads is not None:
        arguments += ["--threads", place.threads]
    if output.exists():
        arguments.append("--resume")
    command = [sys.executable, "-m", "lbm", *map(str, arguments)]
    # Its own process group: the terminal's Ctrl-C reaches only us, and is passed on once.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0)
    with Stop(what="stopping: the ensemble saves its work") as stop:
        words, passed_on = "", False
        while True:
            try:
                words = process.communicate(timeout=0.1)[1]
                break
            except subprocess.TimeoutExpired:
                if stop.requested and not passed_on:
                    process.send_signal(stop.requested)
                    passed_on = True
        if stop.requested:
            stop.exit()
    if process.returncode:
        said = [line for line in words.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
        raise Failed(f"`lbm ensemble`: {said[0].removeprefix('error: ')}")


# ------------------------------------------------------------------ what a forecast takes


@contextmanager
def _stopwatch(place: Workplace, job: Job, output: Path) -> Iterator[None]:
    """Adds the seconds of this forecast, and the cases it wrote, to the job's timing file, whatever ends it."""
    before, began = written(output), time.perf_counter()
    try:
        yield
    finally:
        cases, seconds = written(output) - before, time.perf_counter() - began
        if cases > 0:
            known = read_json(place.folder.timing(job)) or {"cases": 0, "seconds": 0.0}
            total = {"cases": known["cases"] + cases, "seconds": round(known["seconds"] + seconds, 4)}
            write_json(place.folder.timing(job), total)


def written(output: Path) -> int:
    """Cases that a forecast store holds so far."""
    if not output.exists():
        return 0
    opened = store.open_dataset(output, allow_incomplete=True, chunks=None)
    return int((opened["cases_written"].values == 1).sum()) if "cases_written" in opened else 0


def _seconds(place: Workplace, job: Job) -> float | None:
    """Measured seconds per frame and member; None when no session of the forecast could note its time."""
    known = read_json(place.folder.timing(job))
    if not known or not known["cases"]:
        return None
    members = int(store.read_attributes(place.folder.forecast(job)).get("members", place.cases.members))
    return known["seconds"] / (known["cases"] * members * place.cases.lead)
