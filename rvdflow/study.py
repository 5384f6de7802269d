"""Run a study: train, forecast and score its cells one after another, remember each, and go on where it stopped.

    study.toml + flow.zarr  -->  runs/, forecasts/, scores/, cells/  -->  table (rvdflow.study_table)

A job is done when its record is written, which happens last; until then its run and its forecast resume as those of
`rvdflow train` and `rvdflow forecast` do. A job that fails for a reason of its own (a loss that is not finite, a
dataset without saved states) is recorded with that reason, and the study goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.errors import EvaluationError
from lbm import dataset as store
from lbm.console import say, warn
from lbm.errors import DataError, NumericalError, UsageError
from rvdflow import checkpoint
from rvdflow.frames import Frames, frame_variables
from rvdflow.plan import Plan, plan
from rvdflow.run_folder import differences
from rvdflow.study_config import Protocol, Study, described, read_study, run_config, sampler_config
from rvdflow.study_jobs import Folder, Job, chosen, write_json
from rvdflow.study_make import Failed, make_forecast, train_weights, training_of, weights_at

if TYPE_CHECKING:
    import xarray as xr

    from rvdflow.study_table import Table

OWN_FAULTS = (NumericalError, DataError, EvaluationError, Failed)  # of a cell; anything else ends the study


@dataclass(frozen=True)
class Workplace:
    """What all jobs of a study share."""

    study: Study
    data: Path
    opened: xr.Dataset
    sha256: str
    variables: tuple[str, ...]  # that hold frames
    cases: Plan
    folder: Folder
    device: str = "auto"
    threads: int | None = None
    quiet: bool = False

    def settings(self, job: Job) -> dict[str, Any]:
        """All that the outcome of a job depends on: what a record must agree with to be used."""
        protocol = self.study.protocol.model_dump(mode="json", exclude={"groups", "group_by"})
        found: dict[str, Any] = {"dataset_sha256": self.sha256, "protocol": protocol, "kind": job.cell.kind}
        cell = job.cell
        if job.seed is not None:
            trained = run_config(self.study, self.study.cell(cell.weights or cell.name), job.seed)
            found["run"] = described(trained)
            if cell.pooled:
                found["seeds"] = list(self.study.seeds)
            if cell.sampler:
                found["sampler"] = described(sampler_config(trained.model.sampler, cell))
        else:
            run = self.study.cell(cell.weights or cell.name).run
            if run is not None:
                found["checkpoint"] = checkpoint.read(checkpoint.find(run)).sha256
            if cell.sampler:
                found["sampler"] = cell.sampler
        if cell.method is not None:
            found["method"] = cell.method
        if cell.store is not None:
            found["store"] = str(cell.store)
        return found


def prepare(
    study: Study,
    data: Path,
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
    write: bool = True,
) -> Workplace:
    """Open the dataset and the folder of a study and write its study.json (unless `write` is not set).

    Raises UsageError (the folder holds something else, or a study with another dataset or protocol; a method that does
    not exist; cases or groups that the dataset does not have), DataError (the dataset).
    """
    from rvdflow.baselines import names

    for cell in study.cells:
        if cell.kind == "method" and cell.method not in names():
            raise UsageError(f"cell {cell.name}: method {cell.method!r} is not known: use {', '.join(names())}")
    opened = store.open_dataset(data, chunks=None)
    protocol = study.protocol
    frames = Frames(opened, frame_variables(opened))
    cases = plan(
        opened, frames, members=protocol.members, lead=protocol.lead, context=protocol.context, split=protocol.split,
        stride=protocol.stride, init_times=protocol.init_times, cases=protocol.cases, seed=protocol.seed,
    )  # fmt: skip
    _require_context(study, frames)
    place = Workplace(
        study, data, opened, store.digest(data), frames.variables, cases, Folder(folder), device, threads, quiet
    )
    about = {
        "study": study.model_dump(mode="json", by_alias=True),
        "data": str(data),
        "dataset_sha256": place.sha256,
        "trajectories": list(cases.trajectories),
        "init_times": list(cases.init_times),
        "groups": groups(protocol, opened, cases.trajectories),
        "pixels": frames.height * frames.width,
    }
    _agree(Folder(folder), about, write)
    return place


def _require_context(study: Study, frames: Frames) -> None:
    """UsageError where a cell's network would need more context than the protocol shows."""
    from rvdflow.build import describe_model

    for cell in study.cells:
        if cell.kind != "trained":
            continue
        config = run_config(study, cell, study.seeds[0])
        if config.system == "rvd":
            continue
        try:
            needs = describe_model(config, frames.frame_shape).context
        except UsageError as error:
            raise UsageError(f"cell {cell.name}: {error}") from None
        if needs > study.protocol.context:
            raise UsageError(
                f"cell {cell.name}: {config.system} needs {needs} frames of context, the protocol shows "
                f"{study.protocol.context}: raise protocol.context, or set model.context_frames of the cell"
            )


def groups(protocol: Protocol, opened: xr.Dataset, trajectories: Sequence[int]) -> dict[str, list[int]]:
    """The trajectories of each group; {} where the study has none. UsageError when one is empty."""
    name = protocol.group_by
    if name is None:
        return {}
    if name not in opened.variables or opened[name].dims != ("trajectory",):
        there = [
            str(v) for v in opened.variables if opened[v].dims == ("trajectory",) and opened[v].dtype.kind in "fiu"
        ]
        raise UsageError(f"group_by {name!r}: the dataset has no such number of each run; it has {', '.join(there)}")
    values = np.asarray(opened[name].values, float)
    found = {
        group: [k for k in trajectories if any(low <= values[k] <= high for low, high in ranges)]
        for group, ranges in protocol.groups.items()
    }
    for group, runs in found.items():
        if not runs:
            there_is = sorted({float(values[k]) for k in trajectories})
            raise UsageError(
                f"groups.{group}: no {protocol.split} run has {name} in its ranges; it goes from {there_is[0]:g} "
                f"to {there_is[-1]:g}"
            )
    return found


def _agree(folder: Folder, about: dict[str, Any], write: bool) -> None:
    """Write study.json, unless the folder holds another study's results."""
    before = folder.about()
    if before is None:
        if folder.path.is_file() or (folder.path.is_dir() and any(folder.path.iterdir())):
            raise UsageError(f"{folder.path} exists and is not the folder of a study: name another one with -o")
    else:
        for key in ("dataset_sha256", "trajectories", "init_times"):
            if before.get(key) != about[key]:
                was, now = (str(a.get(key))[:40] for a in (before, about))
                raise UsageError(
                    f"{folder.path} holds a study with {key} {was}, now {now}: name another folder with -o"
                )
    if write and before != about:
        write_json(folder.path / "study.json", about)


def study(
    config: Path,
    data: Path,
    folder: Path,
    *,
    only: Iterable[str] = (),
    part: tuple[int, int] | None = None,
    joined: Sequence[Path] = (),
    retry: bool = False,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> Table:
    """Do what is left of the study in the TOML file `config` on the dataset `data`, in `folder`; returns the table.

    `only` names cells, `part` (K, N) takes every N-th family of a training and its forecasts; the folders `joined` hold
    other parts and enter the table. The table is written to `folder` too. Raises as `read_study`, `prepare` and `run`.
    """
    from rvdflow.study_report import report
    from rvdflow.study_table import table
    from rvdflow.study_text import write

    read = read_study(config)
    todo = chosen(read, only, part)
    place = prepare(read, data, folder, device=device, threads=threads, quiet=quiet)
    run(place, todo, retry=retry)
    found = table(read, [folder, *joined])
    write(found, folder)
    report(place, [place.folder, *map(Folder, joined)])
    return found


def run(place: Workplace, todo: Sequence[Job], *, retry: bool = False) -> list[Job]:
    """Do all jobs of `todo` that are not done; returns those that failed, now or before.

    `retry` does failed ones again from nothing. Raises UsageError when a job was done with other settings,
    ResourceError, and SystemExit 130 or 143 after a signal, once what is at hand is saved.
    """
    failed = []
    for number, job in enumerate(todo, 1):
        settings = place.settings(job)
        record = _agreed(place.folder, job, settings)
        heading = f"[{number}/{len(todo)}] {job.name}"
        if record is not None and (record["status"] == "done" or not retry):
            say(f"{heading}: {record['status']} already", quiet=place.quiet)
        else:
            say(heading, quiet=place.quiet)
            record = {**_attempt(place, job, afresh=record is not None), "settings": settings}
            place.folder.write_record(job, record)
        if record["status"] == "failed":
            warn(f"{job.name} failed: {record['reason']}", quiet=place.quiet)
            failed.append(job)
    return failed


def _agreed(folder: Folder, job: Job, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a job, None where there is none; UsageError when it is of other settings."""
    record = folder.record(job)
    if record is None or record["settings"] == settings:
        return record
    first = differences(record["settings"], settings)[:2]
    raise UsageError(
        f"{job.name} was made with other settings ({'; '.join(first)}): give the changed cell a new name, or delete "
        f"{folder.record_file(job)}, its run and its forecast"
    )


def _attempt(place: Workplace, job: Job, *, afresh: bool) -> dict[str, Any]:
    """Do one job; its record, which says what came of it."""
    record: dict[str, Any] = {"cell": job.cell.name, "seed": job.seed, "status": "done"}
    stage = "training"
    try:
        if job.seed is not None:
            record["training"] = train_weights(place, job, afresh=afresh and job.cell.kind == "trained")
        elif (run := weights_at(place, job)) is not None:
            record["training"] = training_of(run)
        stage = "forecast"
        try:
            record["forecast"] = make_forecast(place, job, afresh=afresh)
        except UsageError as error:  # what these weights, which are another's, cannot do
            raise Failed(str(error)) from error
        stage = "scores"
        with _timed(record, "scores_seconds"):
            score(place, job)
    except OWN_FAULTS as error:
        kind = type(error).__name__ if not isinstance(error, Failed) else "FlowError"
        record |= {"status": "failed", "stage": stage, "error": kind, "reason": " ".join(str(error).split())}
    return record


@contextmanager
def _timed(record: dict[str, Any], key: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    record[key] = round(time.perf_counter() - began, 3)


def score(place: Workplace, job: Job) -> Path:
    """Score the forecast of a job on the cases of the protocol: fair CRPS, spread, ranks; returns the store."""
    from evaluation.scores import write_scores
    from evaluation.verification import verify

    forecast = store.open_dataset(forecast_store(place.folder, job))
    made_from = forecast.attrs.get("dataset_sha256")
    if made_from and made_from != place.sha256:
        raise DataError(f"the forecast was made from another dataset (SHA-256 {str(made_from)[:12]}...)")
    forecast = only_cases(forecast, place.cases)
    scores = verify(
        place.opened, {job.cell.name: forecast}, variable=place.study.protocol.variable, families=["points"],
        threads=place.threads,
    )  # fmt: skip
    if int(scores.attrs["cases"]) != len(place.cases.cases):
        raise DataError(f"the forecast holds {scores.attrs['cases']} of the {len(place.cases.cases)} cases")
    return write_scores(scores, place.folder.scores(job), overwrite=True)


def forecast_store(folder: Folder, job: Job) -> Path:
    """The forecast of a job: its own, or that which the cell names."""
    return job.cell.store if job.cell.store is not None else folder.forecast(job)


def only_cases(forecast: xr.Dataset, cases: Plan) -> xr.Dataset:
    """The part of a forecast that the protocol asks for. DataError when it lacks any of it."""
    wanted = {
        "trajectory": list(cases.trajectories),
        "init_time": list(cases.init_times),
        "lead_time": list(range(1, cases.lead + 1)),
    }
    for name, values in wanted.items():
        if name not in forecast.dims:
            raise DataError(f"not a forecast: it has no dimension {name}")
        missing = sorted(set(values) - set(forecast[name].values.tolist()))
        if missing:
            raise DataError(
                f"the forecast has no {name} {', '.join(map(str, missing[:5]))}: make it for the protocol's"
            )
    changed = {name: values for name, values in wanted.items() if forecast[name].values.tolist() != values}
    return forecast.sel(changed) if changed else forecast


def outcome(place: Workplace, job: Job) -> str:
    """ "done", "failed", "begun" or "to do"."""
    record = place.folder.record(job)
    if record is not None:
        return str(record["status"])
    begun = job.run is not None and job.cell.kind == "trained" and place.folder.run(job.run).exists()
    return "begun" if begun or place.folder.forecast(job).exists() else "to do"
