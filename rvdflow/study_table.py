"""The numbers of a study's table, from the scores in its folders.

Cells are compared on the same cases. Statistics are averaged over the seeds of a cell first and divided last
(`evaluation.summary`); intervals are those of a paired bootstrap over runs of the dataset, which says how much the
choice of test runs matters; the range over seeds says how much a training matters.

CRPS is the fair one, in standard deviations of the truth (of the group, where there are groups); a deterministic
forecast has its mean absolute error in that place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import summary
from evaluation.scores import read_scores
from lbm.errors import DataError, UsageError
from rvdflow.study_config import Study, kind_of
from rvdflow.study_jobs import Folder, Job, find_record, jobs

if TYPE_CHECKING:
    import xarray as xr

Interval = tuple[float | None, float | None, float | None]  # value, low, high; None where it says nothing
Range = tuple[float, float]
CASEWISE = ("crps", "variance", "squared_error", "truth_mean", "truth_mean_square")


@dataclass
class Row:
    """A cell in one group of runs. Numbers that do not apply, or are not there yet, are None."""

    cell: str
    kind: str
    what: str
    description: str
    group: str = ""
    seeds: list[int] = field(default_factory=list)  # those that are done
    missing: list[str] = field(default_factory=list)  # jobs that are not
    failed: dict[str, str] = field(default_factory=dict)  # job: reason
    crps: dict[int, float] = field(default_factory=dict)  # by lead
    mean_crps: Interval = (None, None, None)  # over all leads
    mean_crps_seeds: Range | None = None
    of_perfect: float | None = None  # mean CRPS, times that of the perfect model
    skill: float | None = None  # CRPSS: 1 - mean CRPS / that of the best reference, percent
    skill_first: float | None = None  # at the first lead, where another reference may be the best
    spread_skill: Range | None = None  # smallest and largest over leads
    outliers: float | None = None  # truths outside the ensemble, times what is expected
    change_first: Interval = (None, None, None)  # percent, first lead, of the cell compared with
    change: Interval = (None, None, None)  # percent, mean over leads
    change_seeds: Range | None = None
    minutes: float | None = None
    steps: int | None = None
    calls: float | None = None
    milliseconds: float | None = None  # per frame and member
    parameters: int | None = None


@dataclass
class Table:
    """What a study has shown so far."""

    title: str
    against: str
    leads: list[int]
    shown: list[int]  # the leads that the printed table has
    rows: list[Row]
    groups: dict[str, dict[str, Any]]  # group ("" for all runs): runs, cases, unit, best reference
    members: int
    units: str
    budget: str  # "" where nothing is trained
    seeds: list[int]

    def of(self, group: str) -> list[Row]:
        """The rows of a group."""
        return [row for row in self.rows if row.group == group]

    def json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)


@dataclass
class Entry:
    """A job, what is known of it, and its scores when it is done."""

    job: Job
    record: dict[str, Any] | None
    scores: xr.Dataset | None


def table(study: Study, folders: Sequence[Path]) -> Table:
    """The table of `study` from what its folders hold so far.

    Raises UsageError when nothing is done yet or folders do not belong together, DataError for damaged ones.
    """
    places = [Folder(Path(folder)) for folder in folders]
    about = _common(places)
    entries = [_entry(job, places) for job in jobs(study)]
    done = [entry for entry in entries if entry.scores is not None]
    if not done:
        failed = [f"{e.job.name} failed: {e.record['reason']}" for e in entries if e.record]
        raise UsageError(f"{', '.join(map(str, folders))}: no cell is done yet" + "".join(f"; {f}" for f in failed[:1]))
    leads = [int(k) for k in done[0].scores["lead_time"].values]  # type: ignore[index]
    known = {cell.name: [e for e in done if e.job.cell.name == cell.name] for cell in study.cells}
    groups: Mapping[str, list[int] | None] = about["groups"] or {"": None}
    rows, described = [], {}
    for group, runs in groups.items():
        part = _Group(study, known, leads, runs)
        described[group] = part.about
        rows += [part.row(_row(study, cell.name, entries, group)) for cell in study.cells]
    budget = ""
    if study.budget is not None:
        budget = f"{study.budget.steps} steps" if study.budget.steps else f"{study.budget.minutes:g} minutes"
    units = str(done[0].scores.attrs.get("units", ""))  # type: ignore[union-attr]
    return Table(
        study.title, study.against_cell, leads, [k for k in leads if k & (k - 1) == 0], rows, described,
        study.protocol.members, units, budget, list(study.seeds),
    )  # fmt: skip


def _common(places: Sequence[Folder]) -> dict[str, Any]:
    """study.json of the folders, which must be of one dataset and the same cases."""
    found = []
    for place in places:
        about = place.about()
        if about is None:
            raise UsageError(f"{place.path} is not the folder of a study: give one made by `rvdflow study`")
        found.append(about)
    for place, about in zip(places, found, strict=True):
        for key in ("dataset_sha256", "trajectories", "init_times"):
            if about[key] != found[0][key]:
                raise UsageError(f"{place.path} and {places[0].path} differ in {key}: join folders of one study")
    return found[0]


def _entry(job: Job, places: Sequence[Folder]) -> Entry:
    found = find_record(job, places)
    if found is None or found[1]["status"] != "done":
        return Entry(job, found[1] if found else None, None)
    place, record = found
    path = place.scores(job)
    if not path.exists():
        raise DataError(f"{path} is gone: delete {place.record_file(job)}, and run the study again")
    return Entry(job, record, read_scores(path))


def _row(study: Study, name: str, entries: Sequence[Entry], group: str) -> Row:
    """A row with all that does not follow from scores."""
    cell = study.cell(name)
    row = Row(name, cell.kind, kind_of(cell), cell.description, group)
    mine = [entry for entry in entries if entry.job.cell.name == name]
    for entry in mine:
        if entry.record is None:
            row.missing.append(entry.job.name)
        elif entry.record["status"] == "failed":
            row.failed[entry.job.name] = entry.record["reason"]
        elif entry.job.seed is not None:
            row.seeds.append(entry.job.seed)
    records = [entry.record for entry in mine if entry.record is not None and entry.scores is not None]
    row.minutes = _mean(r.get("training", {}).get("minutes") for r in records)
    steps = _mean(r.get("training", {}).get("steps") for r in records)
    row.steps = None if steps is None else round(steps)
    seconds = _mean(r["forecast"].get("seconds") for r in records)
    row.milliseconds = None if seconds is None else 1000 * seconds
    for record in records[:1]:
        row.calls, row.parameters = record["forecast"].get("calls"), record["forecast"].get("parameters")
    return row


def _mean(values: Any) -> float | None:
    there = [float(v) for v in values if v is not None]
    return sum(there) / len(there) if there else None


class _Group:
    """Comparisons among the cells on some runs of the dataset."""

    def __init__(self, study: Study, known: dict[str, list[Entry]], leads: list[int], runs: list[int] | None):
        self.leads, self.runs, self.against = leads, runs, study.against_cell
        self.entries = {name: entries for name, entries in known.items() if entries}
        self.by_seed = {
            (name, entry.job.seed): _slim(entry.scores, runs) for name, es in self.entries.items() for entry in es
        }
        self.joined = join({n: self._averaged(n) for n in self.entries})
        self.unit = summary.truth_deviation(self.joined) or 1.0
        mean = summary.value(self.joined, "crps", leads=leads)
        first = summary.value(self.joined, "crps", leads=leads[:1])
        self.mean, self.first = ({n: float(x.sel({"method": n})) for n in self.entries} for x in (mean, first))
        perfect = [c.name for c in study.cells if c.name in self.mean and (c.perfect or c.name in summary.CEILINGS)]
        references = [c.name for c in study.cells if c.name in self.mean and c.kind == "method"]
        self.perfect = perfect[0] if perfect else None
        self.best = min(references, key=self.mean.__getitem__) if references else None
        self.best_first = min(references, key=self.first.__getitem__) if references else None
        self.about = {
            "runs": int(self.joined.sizes["trajectory"]),
            "cases": int(self.joined["truth_mean"].notnull().any("lead_time").sum()),
            "unit": self.unit,
            "perfect": self.perfect,
            "best_reference": self.best,
            "best_reference_first": self.best_first,
        }
        self.changes: tuple[xr.Dataset, xr.Dataset] | None = None
        if self.against in self.mean:
            at_first = summary.difference(self.joined, "crps", self.against, leads=leads[:1])
            self.changes = at_first, summary.difference(self.joined, "crps", self.against, leads=leads)
        self.metric = summary.metric(self.joined, "crps", leads=leads) / self.unit
        self.by_lead = summary.value(self.joined, "crps") / self.unit
        self.ratio = summary.value(self.joined, "spread_skill_ratio")

    def _averaged(self, name: str) -> xr.Dataset:
        """Statistics of a cell, averaged over its seeds."""
        import xarray as xr

        parts = [self.by_seed[name, entry.job.seed] for entry in self.entries[name]]
        whole = xr.concat(parts, "seed", join="exact", data_vars="all") if len(parts) > 1 else parts[0]
        return whole.mean("seed") if "seed" in whole.dims else whole

    def row(self, row: Row) -> Row:
        """`row` with all that follows from scores."""
        name = row.cell
        if name not in self.mean:
            return row
        pick = {"method": name}
        row.crps = {k: float(self.by_lead.sel({**pick, "lead_time": k})) for k in self.leads}
        row.mean_crps = _interval(self.metric.sel(pick), ("value", "low", "high"))
        if self.perfect:
            row.of_perfect = self.mean[name] / self.mean[self.perfect]
        if self.best and self.best_first:
            row.skill = 100 * (1 - self.mean[name] / self.mean[self.best])
            row.skill_first = 100 * (1 - self.first[name] / self.first[self.best_first])
        ratios = self.ratio.sel(pick).values
        if np.isfinite(ratios).all():
            row.spread_skill = float(ratios.min()), float(ratios.max())
        row.outliers = _mean(_outliers(entry.scores, self.runs) for entry in self.entries[name])
        if self.changes and name != self.against:
            columns = ("relative", "relative_low", "relative_high")
            row.change_first, row.change = (_interval(c.sel(pick), columns) for c in self.changes)
        self._over_seeds(row)
        return row

    def _over_seeds(self, row: Row) -> None:
        """The ranges over seeds; each seed is compared with the same seed of the other cell where both have it."""
        means = {seed: self._mean_of(row.cell, seed) for seed in row.seeds}
        if len(means) < 2:
            return
        row.mean_crps_seeds = min(means.values()) / self.unit, max(means.values()) / self.unit
        if self.against not in self.mean or row.cell == self.against:
            return
        changes = []
        for seed, mean in means.items():
            same = (self.against, seed) in self.by_seed
            other = self._mean_of(self.against, seed) if same else self.mean[self.against]
            changes.append(100 * (mean / other - 1))
        row.change_seeds = min(changes), max(changes)

    def _mean_of(self, name: str, seed: int | None) -> float:
        return float(summary.value(self.by_seed[name, seed], "crps", leads=self.leads).sel({"method": name}))


def _slim(scores: Any, runs: list[int] | None) -> xr.Dataset:
    """What the table needs of some scores, of some runs."""
    kept = scores[[*CASEWISE, "members"]].drop_vars("block", errors="ignore")
    return kept if runs is None else kept.sel(trajectory=runs)


def join(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Scores of cells side by side (method = cell). DataError when they are of different cases or another truth."""
    import xarray as xr

    first_name, first = next(iter(parts.items()))
    truth = first[["truth_mean", "truth_mean_square"]]
    for name, part in parts.items():
        for other in ("trajectory", "init_time", "lead_time"):
            if part[other].values.tolist() != first[other].values.tolist():
                raise DataError(f"{name} and {first_name} were scored on another {other}: delete the scores of one")
        if not np.allclose(part["truth_mean"], truth["truth_mean"], rtol=1e-9, equal_nan=True):
            raise DataError(f"{name} and {first_name} were scored against different truths")
    own = [part.drop_vars(list(truth.data_vars)).assign_coords(method=[name]) for name, part in parts.items()]
    return xr.concat(own, "method", join="exact", data_vars="all").merge(truth) if len(own) > 1 else own[0].merge(truth)


def _outliers(scores: Any, runs: list[int] | None) -> float | None:
    """Share of truths below or above all members, divided by the 2 / (M + 1) of a calibrated ensemble of M."""
    members = int(scores["members"].values[0])
    if members < 2:
        return None
    counts = scores["rank_count"].isel(method=0)
    counts = (counts if runs is None else counts.sel(trajectory=runs)).sum(["trajectory", "lead_time"]).values
    return float((counts[0] + counts[members]) / counts.sum() * (members + 1) / 2)


def _interval(found: xr.Dataset, names: tuple[str, str, str]) -> Interval:
    value, low, high = (float(found[name]) for name in names)
    return tuple(None if not np.isfinite(x) else x for x in (value, low, high))  # type: ignore[return-value]
