"""The work of a study cut into jobs, and the folder that remembers which of them are done.

    FOLDER/study.json               the study, its dataset and its cases
    FOLDER/runs/NAME-seedS          a normal run folder for each training
    FOLDER/forecasts/NAME-seedS.zarr
    FOLDER/scores/NAME-seedS.zarr
    FOLDER/cells/NAME-seedS.json    written last: what was done, or why it failed
    FOLDER/table.md, .tex, .json, .png, .svg

A cell without weights (a reference, a store, the perfect model) is one job called NAME, without a seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbm.errors import DataError, UsageError
from rvdflow.checkpoint import replace_file
from rvdflow.study_config import Cell, Study


@dataclass(frozen=True)
class Job:
    """One forecast to be made and scored, and for a trained cell the training before it.

    `seed` is None where the study trains nothing for it.
    """

    cell: Cell
    seed: int | None

    @property
    def name(self) -> str:
        return self.cell.name if self.seed is None else f"{self.cell.name}-seed{self.seed}"

    @property
    def run(self) -> str | None:
        """Name of the study's run folder whose weights are used; None for a forecast without."""
        return None if self.seed is None else f"{self.cell.weights or self.cell.name}-seed{self.seed}"


@dataclass(frozen=True)
class Folder:
    """Where the files of a study lie."""

    path: Path

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def forecast(self, job: Job) -> Path:
        return self.path / "forecasts" / f"{job.name}.zarr"

    def scores(self, job: Job) -> Path:
        return self.path / "scores" / f"{job.name}.zarr"

    def timing(self, job: Job) -> Path:
        return self.path / "forecasts" / f"{job.name}.timing.json"

    def record_file(self, job: Job) -> Path:
        return self.path / "cells" / f"{job.name}.json"

    def record(self, job: Job) -> dict[str, Any] | None:
        """What is known of a job that was done or failed, None of any other. DataError when it is damaged."""
        return read_json(self.record_file(job))

    def write_record(self, job: Job, record: dict[str, Any]) -> None:
        write_json(self.record_file(job), record)

    def about(self) -> dict[str, Any] | None:
        """study.json, None where there is none."""
        return read_json(self.path / "study.json")


def jobs(study: Study) -> list[Job]:
    """All jobs: seed by seed, so that every cell has its first training before any has its second.

    Weights come before what is drawn from them, and all that needs no training before everything. What is drawn from
    the weights of all seeds together is one job, with the last of them.
    """
    ordered = [c for c in study.cells if c.kind == "trained"]
    names = {c.name for c in ordered}
    free = [Job(c, None) for c in study.cells if c.name not in names and c.weights not in names]
    seeded = []
    for seed in study.seeds:
        for cell in ordered:
            seeded.append(Job(cell, seed))
            seeded += [Job(c, seed) for c in study.cells if c.weights == cell.name and not c.pooled]
            if seed == study.seeds[-1]:
                seeded += [Job(c, seed) for c in study.cells if c.weights == cell.name and c.pooled]
    return free + seeded


def chosen(study: Study, only: Iterable[str] = (), part: tuple[int, int] | None = None) -> list[Job]:
    """The jobs of the cells named by `only` (default: all), or every N-th family of them for `part` (K, N).

    A family is a training and all that is drawn from its weights, or, where trainings of several seeds are pooled, all
    of them: it is never divided. UsageError for a name that is no cell.
    """
    wanted, names = list(only), [cell.name for cell in study.cells]
    for name in wanted:
        if name not in names:
            raise UsageError(f"--only {name}: no such cell; there are {', '.join(names)}")
    listed = [job for job in jobs(study) if not wanted or job.cell.name in wanted]
    if part is None:
        return listed
    pooled = {cell.weights for cell in study.cells if cell.pooled}

    def family(job: Job) -> str:
        holder = job.cell.weights or job.cell.name
        return holder if holder in pooled else job.run or job.name

    mine = set(list(dict.fromkeys(map(family, listed)))[part[0] - 1 :: part[1]])
    return [job for job in listed if family(job) in mine]


def parse_part(text: str | None) -> tuple[int, int] | None:
    """ "2/3" as (2, 3). UsageError for anything that is not a part of a whole."""
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--part wants K/N with K from 1 to N, such as 2/3; got {text[:40]!r}")
    return int(first), int(second)


def find_record(job: Job, folders: Sequence[Folder]) -> tuple[Folder, dict[str, Any]] | None:
    """Where a job was done, else where it failed, else None. UsageError when two folders disagree on its settings."""
    found = [(folder, record) for folder in folders if (record := folder.record(job)) is not None]
    for folder, record in found[1:]:
        if record["settings"] != found[0][1]["settings"]:
            raise UsageError(
                f"{job.name} was made with other settings in {folder.path} than in {found[0][0].path}: "
                "join folders of one study"
            )
    done = [entry for entry in found if entry[1]["status"] == "done"]
    return next(iter(done or found), None)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file. DataError when it holds anything else."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:80]}): delete it and run again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not written by `rvdflow study`: delete it and run again")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
