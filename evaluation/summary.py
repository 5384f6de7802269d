"""Metrics of scored methods, with intervals: what `verify` stored becomes what a reader wants to know.

    statistic (per case and lead)  --sum over cases of a run-->  per-run sums  --average, then divide-->  metric

    crps                CRPS, fair unless a protocol says otherwise (absolute error for one member) lower is better
    crpss               1 - crps / crps of the reference                                    1 is perfect, 0 no gain
    rmse                sqrt(mean squared error of the ensemble mean)                       lower is better
    spread              sqrt((M + 1)/M * mean variance of the members)                      should equal rmse
    spread_skill_ratio  spread / rmse; the factor (M + 1)/M makes 1 the value of a reliable ensemble of M members
                        (Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1)
    bias                mean of ensemble mean minus truth                                   0 is best

and the other names of `evaluation.metrics.METRICS`, which holds the formulas. Intervals come from a paired bootstrap
over runs (trajectories): whole runs are drawn with replacement, the same draw for every method, since windows of one
run are too alike to count as independent. Sums are resampled, never fields, so a thousand resamples cost
milliseconds. The percentiles are those of `evaluation.percentiles`: wider for few runs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation import metrics
from evaluation.errors import EvaluationError
from evaluation.layout import MEANS
from evaluation.metrics import METRICS, SKILL
from evaluation.percentiles import expanded_level
from evaluation.resampling import resampled_means, resampling_counts
from evaluation.skill import skill_score

MINIMUM_RUNS = 3  # fewer runs cannot be resampled to an interval that means anything
SURE_RUNS = 6  # with fewer an interval is rough, and equal methods would be told apart far more often than 5 %
TRIVIAL = ("climatology", "persistence", "damped-persistence")
REFERENCES = (*TRIVIAL, "linear-extrapolation", "advection", "dmd", "linear-inverse", "analog")
CEILINGS = ("perfect-model",)  # what nobody can beat: the same equations, from disturbed states
DRESSED = "-dressed"  # a reference with this ending is one too
AT_ONCE = 4_000_000  # numbers of resampled metrics held at a time
Pick = Mapping[str, Any]
Calculation = Callable[[xr.Dataset], xr.DataArray]


def metric(
    scores: xr.Dataset,
    name: str,
    *,
    reference: str | None = None,
    leads: Sequence[int] | None = None,
    pick: Pick | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Metric `name` of every method as `value`, `low`, `high` (method, lead_time), and what else it depends on.

    With `leads` these leads are averaged first and lead_time is gone from the result. The skills, `crpss` and
    `brier_skill`, need a `reference` (default: the one stored in `scores`). `pick` selects thresholds, windows,
    scales, modes ... before anything is computed: {"threshold": 0.02}. `low` and `high` bound the central `level`
    interval of a paired bootstrap over runs, NaN with fewer than three runs. NaN where a metric does not apply.
    Units: `metrics.units_of`; those of the variable for errors, none for skills and ratios.
    """
    runs, cases = _reduced(scores, name, leads, pick)
    calculate = _formula(scores, name, reference)
    parts = []
    for drawn in _draws(runs, cases, calculate, resamples, seed):
        known = drawn.isel(resample=0)
        low, high = _interval(drawn.values, level, cases.size)
        parts.append(xr.Dataset({"value": known, "low": known.copy(data=low), "high": known.copy(data=high)}))
    return parts[0] if len(parts) == 1 else xr.concat(parts, dim="lead_time")


def value(
    scores: xr.Dataset,
    name: str,
    *,
    reference: str | None = None,
    leads: Sequence[int] | None = None,
    pick: Pick | None = None,
) -> xr.DataArray:
    """The `value` of `metric` alone, without the work of an interval."""
    return _whole(*_reduced(scores, name, leads, pick), _formula(scores, name, reference))


def difference(
    scores: xr.Dataset,
    name: str,
    against: str,
    *,
    leads: Sequence[int] | None = None,
    pick: Pick | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Metric `name` of every method minus that of the method `against`, on the same cases: is it really better?

    The result has, on (method, lead_time, ...): `value`, `low`, `high` of the difference in the unit of the metric,
    `relative`, `relative_low`, `relative_high` in percent of the absolute value of `against`, `reference` (the metric
    of `against`), and `sign`: 1 where the interval of the difference lies above zero, -1 below, 0 where it holds
    zero, there is none, or there are fewer than `SURE_RUNS` runs. Runs are resampled in pairs: what makes a run hard
    for both methods cancels, so that a difference is often sure where the intervals of the two methods overlap.
    """
    if name in SKILL:
        raise EvaluationError(f"take the difference of {SKILL[name]}: a skill is a difference already")
    if against not in scores["method"].values:
        raise EvaluationError(f"{against!r} is not among the methods ({', '.join(map(str, scores['method'].values))})")
    calculate = _formula(scores, name, None)

    runs, cases = _reduced(scores, name, leads, pick)
    parts = []
    for drawn in _draws(runs, cases, calculate, resamples, seed):
        other = drawn.sel({"method": [against]})
        gap, like = drawn.values - other.values, drawn.isel(resample=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            percent = 100 * gap / np.where(other.values == 0, np.nan, np.abs(other.values))
        bounds = [*_interval(gap, level, cases.size), *_interval(percent, level, cases.size)]
        low, high = bounds[:2]
        columns = {
            "value": gap[0],
            "low": low,
            "high": high,
            "relative": percent[0],
            "relative_low": bounds[2],
            "relative_high": bounds[3],
            "sign": np.where(low > 0, 1, np.where(high < 0, -1, 0)) * (cases.size >= SURE_RUNS),
        }
        part = xr.Dataset({k: like.copy(data=v) for k, v in columns.items()})
        parts.append(part.assign(reference=other.isel(resample=0, method=0, drop=True)))
    return parts[0] if len(parts) == 1 else xr.concat(parts, dim="lead_time")


def run_means(
    scores: xr.Dataset, names: Sequence[str], leads: Sequence[int] | None = None
) -> tuple[xr.Dataset, xr.DataArray]:
    """Statistics averaged over the cases of each run (method, trajectory, lead_time), and the cases of each run.

    With `leads` these are averaged too, and lead_time is gone. What is stored as a sum is divided by the cases.
    """
    cases = scores["truth_mean"].notnull().any("lead_time").sum("init_time").reset_coords(drop=True)
    lacking = [name for name in names if name not in scores]
    if lacking:
        raise EvaluationError(f"{', '.join(lacking)} is not in the scores: it was not asked for, or not available")
    means = scores[list(names)].reset_coords(drop=True)
    for name in names:
        if "init_time" in means[name].dims:
            means[name] = means[name].mean("init_time")
        elif name not in MEANS:
            means[name] = means[name] / cases.where(cases > 0)
    means = means.drop_vars("init_time", errors="ignore")
    if leads is not None and "lead_time" in means.dims:
        missing = sorted(set(leads) - set(scores["lead_time"].values.tolist()))
        if missing:
            raise EvaluationError(f"leads {missing} were not scored; scored: {scores['lead_time'].values.tolist()}")
        means = means.sel(lead_time=list(leads)).mean("lead_time", skipna=False)
    return means, cases


def _reduced(
    scores: xr.Dataset, name: str, leads: Sequence[int] | None, pick: Pick | None
) -> tuple[xr.Dataset, xr.DataArray]:
    if name not in METRICS:
        raise EvaluationError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    runs, cases = run_means(scores, METRICS[name].uses, leads)
    here = {k: v for k, v in (pick or {}).items() if k in runs.dims}
    runs = runs.sel(here, method="nearest") if here else runs
    reduce = METRICS[name].reduce
    reduced = reduce(runs, scores) if reduce is not None else runs
    rest = {k: v for k, v in (pick or {}).items() if k not in here}
    unknown = [k for k in rest if k not in reduced.dims]
    if unknown:
        raise EvaluationError(
            f"{name} does not depend on {', '.join(unknown)}, only on {', '.join(map(str, runs.dims))}"
        )
    return (reduced.sel(rest) if rest else reduced), cases


def _draws(
    runs: xr.Dataset, cases: xr.DataArray, calculate: Calculation, resamples: int, seed: int
) -> Iterator[xr.DataArray]:
    """What `calculate` makes of means over runs, on `resample`: first of the runs as they are, then of resamples.

    With few runs only the first. Lead by lead where all leads at once would take much memory.
    """
    blocks = int(cases.size)
    counts = np.ones((1, blocks), np.int64)
    if blocks >= MINIMUM_RUNS:
        counts = np.concatenate([counts, resampling_counts(blocks, resamples, seed)])
    size = max(int(v.size) // blocks for v in runs.values())
    parts = [runs]
    if "lead_time" in runs.dims and size * len(counts) > AT_ONCE:
        parts = [runs.isel(lead_time=[i]) for i in range(runs.sizes["lead_time"])]
    for part in parts:
        yield calculate(resampled_means(part, counts, weights=cases)).transpose("resample", "method", ...)


def _interval(drawn: np.ndarray, level: float, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the interval from rows of resamples, the first row being the estimate; NaN where there are none."""
    if len(drawn) == 1:
        return np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    tail = (1 - expanded_level(level, runs)) / 2
    low, high = np.quantile(drawn[1:], [tail, 1 - tail], axis=0)
    return low, high


def _whole(means: xr.Dataset, cases: xr.DataArray, calculate: Calculation) -> xr.DataArray:
    once = np.ones((1, cases.size), np.int64)
    return calculate(resampled_means(means, once, weights=cases)).isel(resample=0)


def _formula(scores: xr.Dataset, name: str, reference: str | None) -> Calculation:
    formula = METRICS[name].formula
    if name not in SKILL:
        return lambda m: formula(m, scores)
    against = reference or scores.attrs.get("reference", "")
    if against not in scores["method"].values:
        methods = ", ".join(map(str, scores["method"].values))
        raise EvaluationError(f"reference {against!r} is not among the methods ({methods})")

    def skill(means: xr.Dataset) -> xr.DataArray:
        own = formula(means, scores)
        return skill_score(own, own.sel({"method": against}, drop=True).broadcast_like(own))

    return skill


def truth_deviation(scores: xr.Dataset) -> float:
    """Standard deviation of the truth over all scored cases, leads and fluid cells: the natural unit of errors."""
    return float(np.sqrt(scores["truth_mean_square"].mean() - scores["truth_mean"].mean() ** 2))


@dataclass(frozen=True)
class Terms:
    """What things are called: a simulated flow has runs and cells, natural video has clips and pixels."""

    video: bool
    run: str
    cell: str
    picture: str  # what events, values and spectra are of

    @property
    def runs(self) -> str:
        """More than one of them."""
        return f"{self.run}s"

    @property
    def cells(self) -> str:
        """More than one of them."""
        return f"{self.cell}s"


def terms(scores: xr.Dataset) -> Terms:
    """The words for what was verified."""
    name = str(scores.attrs["variable_long_name"])
    if not scores.attrs.get("channels"):
        return Terms(False, "run", "cell", name)
    return Terms(True, "clip", "pixel", str(scores.attrs.get("picture", name)))


def error_unit(scores: xr.Dataset) -> tuple[float, str]:
    """What errors are told in, and its name: standard deviations of the truth; grey levels where they are in these."""
    if scores.attrs.get("verification_protocol") or scores.attrs["units"] == "grey levels":
        return 1.0, str(scores.attrs["units"])
    return truth_deviation(scores) or 1.0, "standard deviations of the truth"


def estimator(scores: xr.Dataset) -> str:
    """Which estimator the CRPS is of: "fair", or "classical" under a published protocol."""
    return str(scores.attrs.get("estimator", "fair"))


def names_of(scores: xr.Dataset) -> list[str]:
    """The methods, in the order of the scores."""
    return [str(m) for m in scores["method"].values]


def deterministic(scores: xr.Dataset) -> list[str]:
    """The methods that give one value and no distribution: marked so, or with one member."""
    members = scores["members"]
    single = members <= 1
    if "deterministic" in scores:
        single = single | (scores["deterministic"] > 0)
    return [n for n in names_of(scores) if bool(single.sel({"method": n}))]


def ensembles(scores: xr.Dataset) -> list[str]:
    """The methods that give a distribution: more than one member, and not marked deterministic."""
    return [n for n in names_of(scores) if n not in deterministic(scores)]


def is_reference(name: str) -> bool:
    """Whether a method of this name is one of the known reference forecasts, or one of them dressed."""
    return name.removesuffix(DRESSED) in REFERENCES


def candidates(scores: xr.Dataset) -> list[str]:
    """The methods to be judged: those that are neither a known reference nor a ceiling.

    Where there is none, all but the trivial references and the ceiling, or else all.
    """
    names = names_of(scores)
    below = [n for n in names if n not in CEILINGS]
    judged = [n for n in below if not is_reference(n)] or [n for n in below if n not in TRIVIAL]
    return judged or below or names


def ceilings(scores: xr.Dataset) -> list[str]:
    """The methods nobody can beat, such as an ensemble of the true equations."""
    return [n for n in names_of(scores) if n in CEILINGS and n not in candidates(scores)]


def references(scores: xr.Dataset) -> list[str]:
    """The methods skill is shown against: the stored reference, climatology and persistence where present, and
    the best (lowest CRPS over all leads) of the other known references when none of these is judged itself."""
    names = names_of(scores)
    stored = str(scores.attrs.get("reference") or "")
    found = [n for n in (stored, "climatology", "persistence") if n in names]
    rest = [n for n in names if is_reference(n) and n not in found and n not in candidates(scores)]
    if rest:
        leads = scores["lead_time"].values.tolist()
        crps = value(scores, "crps", leads=leads).sel({"method": rest})
        found += [str(crps["method"].values[int(crps.argmin("method"))])] if bool(crps.notnull().all()) else []
    return list(dict.fromkeys(found))


def main_reference(scores: xr.Dataset) -> str:
    """The reference of the scorecard: the stored one, else the first of `references`, else none ("")."""
    found = references(scores)
    return found[0] if found else ""


def periods(scores: xr.Dataset) -> dict[str, list[int]]:
    """The groups of leads a summary names: the first eight (where there are more) and all."""
    leads = [int(lead) for lead in scores["lead_time"].values]
    groups = {f"{leads[0]}-{leads[7]}": leads[:8]} if len(leads) > 8 else {}
    return groups | {f"{leads[0]}-{leads[-1]}" if len(leads) > 1 else str(leads[0]): leads}


def significant(scores: xr.Dataset, method: str, reference: str, *, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Map of the CRPSS of `method` over all leads, and where its sign is sure: `value`, `sure` (y, x).

    `sure` marks cells whose central 95 % interval excludes zero, by the paired bootstrap over blocks of runs;
    nowhere with fewer than `SURE_RUNS` of them.
    """
    maps = scores["crps_map"].sel({"method": [method, reference]}).mean("lead_time") * scores["fluid_cases"]
    sums = maps.transpose("method", "block", "y", "x").values
    total = np.nan_to_num(sums).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(np.isnan(sums).all((0, 1)), np.nan, 1 - total[0] / total[1])
    blocks = scores.sizes["block"]
    sure = np.zeros(value.shape, bool)
    if blocks >= SURE_RUNS:
        gain = np.nan_to_num(sums[1] - sums[0])
        draws = resampling_counts(blocks, resamples, seed).astype(float)
        tail = (1 - expanded_level(0.95, blocks)) / 2
        low, high = np.quantile(np.tensordot(draws, gain, 1), [tail, 1 - tail], axis=0)
        sure = ((low > 0) | (high < 0)) & np.isfinite(value)
    return xr.Dataset({"value": (("y", "x"), value), "sure": (("y", "x"), sure)})


def rank_frequencies(scores: xr.Dataset, method: str, leads: Sequence[int]) -> xr.Dataset:
    """Rank histogram over `leads`, with its 95 % band for flatness: `observed`, `low`, `high` (rank).

    Relative frequency times the number of ranks, so that 1 is flat. Rank r counts the members below the truth.
    The band is that of `scoring.exchanged_ranks`: what a truth that is one more member would give.
    """
    ranks = int(scores["members"].sel({"method": method})) + 1
    pick = scores[["rank_count", "rank_null"]].sel({"method": method, "lead_time": list(leads)}).isel(rank=slice(ranks))
    counts = pick["rank_count"].sum(["trajectory", "lead_time"])
    null = pick["rank_null"].sum("lead_time")
    null = null / null.sum("rank") * ranks
    low, high = (null.quantile(q, dim="replicate", skipna=False).drop_vars("quantile") for q in (0.025, 0.975))
    return xr.Dataset({"observed": counts / counts.sum() * ranks, "low": low, "high": high})


def listed(scores: xr.Dataset) -> list[str]:
    """The metrics that these scores can give, in the order of `metrics.METRICS`."""
    return [n for n in METRICS if metrics.available(scores, n) and (n not in SKILL or references(scores))]


def table(scores: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Every number there is, with its interval, one dict each: what `csv_text` writes.

    Keys: method, lead_time (a lead, or a period such as "1-16": leads averaged first), metric, at (threshold, window
    ... it holds for), reference (of a skill), value, low, high, units. What does not apply is left out.
    """
    for name in listed(scores):
        units = metrics.units_of(name, scores.attrs["units"])
        for reference in references(scores) if name in SKILL else [""]:
            curve = metric(scores, name, reference=reference or None)
            parts = [(str(lead), curve.sel(lead_time=lead)) for lead in scores["lead_time"].values]
            for label, leads in periods(scores).items():
                parts.append((label, metric(scores, name, reference=reference or None, leads=leads)))
            for label, part in parts:
                about = {"lead_time": label, "metric": name, "reference": reference, "units": units}
                yield from ({**about, **row} for row in _numbers(part) if row["method"] != reference)


def _numbers(part: xr.Dataset) -> Iterator[dict[str, Any]]:
    further = [str(d) for d in part["value"].dims if d != "method"]
    arrays = {key: part[key].transpose("method", *further).values for key in ("value", "low", "high")}
    for index in np.argwhere(np.isfinite(arrays["value"])):
        where = tuple(index)
        at = "; ".join(f"{d}={_short(part[d].values[i])}" for d, i in zip(further, where[1:], strict=True))
        yield {
            "method": str(part["method"].values[where[0]]),
            "at": at,
            **{k: float(a[where]) for k, a in arrays.items()},
        }


def _short(coordinate: Any) -> str:
    return f"{coordinate:.6g}" if isinstance(coordinate, float | np.floating) else str(coordinate)


def csv_text(scores: xr.Dataset) -> str:
    """`table` as CSV with a heading; an empty field where there is no interval."""
    text = io.StringIO(newline="")
    columns = ["method", "lead_time", "metric", "at", "reference", "value", "low", "high", "units"]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in table(scores):
        numbers = {k: "" if np.isnan(row[k]) else f"{row[k]:.8g}" for k in ("value", "low", "high")}
        writer.writerow(row | numbers)
    return text.getvalue()


def protocol(scores: xr.Dataset) -> dict[str, dict[str, Any]]:
    """What each forecast says of how it was made: {method: {members, seed, sampler, ...}}."""
    return json.loads(scores.attrs.get("protocol", "{}"))
