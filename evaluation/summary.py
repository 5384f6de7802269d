"""Metrics of scored methods, with intervals: what `verify` stored becomes what a reader wants to know.

    statistic (per case and lead)  --sum over cases of a run-->  per-run sums  --average, then divide-->  metric

    crps                fair CRPS (absolute error for a method with one member)             lower is better
    crpss               1 - crps / crps of the reference                                    1 is perfect, 0 no gain
    rmse                sqrt(mean squared error of the ensemble mean)                       lower is better
    spread              sqrt((M + 1)/M * mean variance of the members)                      should equal rmse
    spread_skill_ratio  spread / rmse; the factor (M + 1)/M makes 1 the value of a reliable ensemble of M members
                        (Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1)
    bias                mean of ensemble mean minus truth                                   0 is best

Intervals come from a paired bootstrap over runs (trajectories): whole runs are drawn with replacement, the same
draw for every method, since windows of one run are too alike to count as independent. Sums are resampled, never
fields, so a thousand resamples cost milliseconds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from evaluation.errors import EvaluationError
from evaluation.resampling import bootstrap, resampled_means, resampling_counts
from evaluation.skill import skill_score, spread_skill

MINIMUM_RUNS = 3  # fewer runs cannot be resampled to an interval that means anything
USES = {
    "crps": ("crps",),
    "crpss": ("crps",),
    "rmse": ("squared_error",),
    "spread": ("variance",),
    "spread_skill_ratio": ("variance", "squared_error"),
    "bias": ("bias",),
}
DIMENSIONLESS = ("crpss", "spread_skill_ratio")


def metric(
    scores: xr.Dataset,
    name: str,
    *,
    reference: str | None = None,
    leads: Sequence[int] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Metric `name` of every method as `value`, `low`, `high` (method, lead_time).

    With `leads` these leads are averaged first and lead_time is gone from the result. `crpss` needs a
    `reference` (default: the one stored in `scores`). `low` and `high` bound the central `level` interval of a
    paired bootstrap over runs, NaN with fewer than three runs. NaN where a metric does not apply.
    Units: those of the variable; `crpss` and `spread_skill_ratio` have none.
    """
    if name not in USES:
        raise EvaluationError(f"unknown metric {name!r}; known: {', '.join(USES)}")
    formula = _formula(scores, name, reference)
    means, cases = run_means(scores, USES[name], leads)
    if scores.sizes["trajectory"] < MINIMUM_RUNS:
        known = _whole(means, cases, formula)
        low = high = xr.full_like(known, np.nan)
    else:
        found = bootstrap(means, formula, weights=cases, resamples=resamples, level=level, seed=seed)
        known, low, high = found["estimate"], found["lower"], found["upper"]
    return xr.Dataset({"value": known, "low": low, "high": high})


def value(
    scores: xr.Dataset, name: str, *, reference: str | None = None, leads: Sequence[int] | None = None
) -> xr.DataArray:
    """The `value` of `metric` alone, without the work of an interval."""
    return _whole(*run_means(scores, USES[name], leads), _formula(scores, name, reference))


def run_means(
    scores: xr.Dataset, names: Sequence[str], leads: Sequence[int] | None = None
) -> tuple[xr.Dataset, xr.DataArray]:
    """Statistics averaged over the cases of each run (method, trajectory, lead_time), and the cases of each run.

    With `leads` these are averaged too, and lead_time is gone.
    """
    means = scores[list(names)].reset_coords(drop=True).mean("init_time")
    cases = scores["truth_mean"].notnull().any("lead_time").sum("init_time").reset_coords(drop=True)
    if leads is not None:
        missing = sorted(set(leads) - set(scores["lead_time"].values.tolist()))
        if missing:
            raise EvaluationError(f"leads {missing} were not scored; scored: {scores['lead_time'].values.tolist()}")
        means = means.sel(lead_time=list(leads)).mean("lead_time", skipna=False)
    return means, cases


def _whole(means: xr.Dataset, cases: xr.DataArray, formula: Callable[[xr.Dataset], xr.DataArray]) -> xr.DataArray:
    once = np.ones((1, cases.size), np.int64)
    return formula(resampled_means(means, once, weights=cases)).isel(resample=0)


def _formula(scores: xr.Dataset, name: str, reference: str | None) -> Callable[[xr.Dataset], xr.DataArray]:
    inflation = (scores["members"] + 1) / scores["members"]
    if name == "crpss":
        against = reference or scores.attrs.get("reference", "")
        if against not in scores["method"].values:
            methods = ", ".join(scores["method"].values)
            raise EvaluationError(f"reference {against!r} is not among the methods ({methods})")
        return lambda m: skill_score(m["crps"], m["crps"].sel({"method": against}, drop=True).broadcast_like(m["crps"]))
    if name == "rmse":
        return lambda m: m["squared_error"] ** 0.5
    if name == "spread":
        return lambda m: (inflation * m["variance"]) ** 0.5
    if name == "spread_skill_ratio":
        return lambda m: spread_skill(inflation * m["variance"], m["squared_error"])
    return lambda m: m[name]


def truth_deviation(scores: xr.Dataset) -> float:
    """Standard deviation of the truth over all scored cases, leads and fluid cells: the natural unit of errors."""
    return float(np.sqrt(scores["truth_mean_square"].mean() - scores["truth_mean"].mean() ** 2))


def ensembles(scores: xr.Dataset) -> list[str]:
    """The methods that have more than one member."""
    return [str(m) for m in scores["method"].values if int(scores["members"].sel({"method": m})) > 1]


def candidates(scores: xr.Dataset) -> list[str]:
    """The methods to be judged: all but persistence and climatology, or all where there is nothing else."""
    names = [str(m) for m in scores["method"].values]
    return [n for n in names if n not in ("persistence", "climatology")] or names


def references(scores: xr.Dataset) -> list[str]:
    """The methods skill is shown against: climatology and persistence where present, else the stored reference."""
    names = [str(m) for m in scores["method"].values]
    return [n for n in ("climatology", "persistence") if n in names] or [
        r for r in [scores.attrs.get("reference")] if r
    ]


def periods(scores: xr.Dataset) -> dict[str, list[int]]:
    """The groups of leads a summary names: the first eight (where there are more) and all."""
    leads = [int(lead) for lead in scores["lead_time"].values]
    groups = {f"{leads[0]}-{leads[7]}": leads[:8]} if len(leads) > 8 else {}
    return groups | {f"{leads[0]}-{leads[-1]}" if len(leads) > 1 else str(leads[0]): leads}


def significant(scores: xr.Dataset, method: str, reference: str, *, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Map of the CRPSS of `method` over all leads, and where its sign is sure: `value`, `sure` (y, x).

    `sure` marks cells whose central 95 % interval excludes zero, by the paired bootstrap over blocks of runs;
    nowhere with fewer than three blocks.
    """
    maps = scores["crps_map"].sel({"method": [method, reference]}).mean("lead_time") * scores["fluid_cases"]
    sums = maps.transpose("method", "block", "y", "x").values
    total = np.nan_to_num(sums).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(np.isnan(sums).all((0, 1)), np.nan, 1 - total[0] / total[1])
    blocks = scores.sizes["block"]
    sure = np.zeros(value.shape, bool)
    if blocks >= MINIMUM_RUNS:
        gain = np.nan_to_num(sums[1] - sums[0])
        draws = resampling_counts(blocks, resamples, seed).astype(float)
        low, high = np.quantile(np.tensordot(draws, gain, 1), [0.025, 0.975], axis=0)
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


def csv_text(scores: xr.Dataset) -> str:
    """All metrics as CSV rows: method, lead_time, metric, reference, value, low, high, units; pooled leads too."""
    rows: list[list[Any]] = []
    for name in USES:
        for reference in references(scores) if name == "crpss" else [""]:
            units = "1" if name in DIMENSIONLESS else scores.attrs["units"]
            curve = metric(scores, name, reference=reference)
            for lead in scores["lead_time"].values:
                rows += _rows(curve.sel(lead_time=lead), str(lead), name, reference, units)
            for label, leads in periods(scores).items():
                rows += _rows(metric(scores, name, reference=reference, leads=leads), label, name, reference, units)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["method", "lead_time", "metric", "reference", "value", "low", "high", "units"])
    writer.writerows(rows)
    return text.getvalue()


def _rows(estimate: xr.Dataset, lead: str, name: str, reference: str, units: str) -> list[list[Any]]:
    rows = []
    for method in estimate["method"].values:
        numbers = [float(estimate[k].sel({"method": method})) for k in ("value", "low", "high")]
        if method != reference and np.isfinite(numbers[0]):
            texts = ["" if np.isnan(x) else f"{x:.8g}" for x in numbers]
            rows.append([method, lead, name, reference, *texts, units])
    return rows


def protocol(scores: xr.Dataset) -> dict[str, dict[str, Any]]:
    """What each forecast says of how it was made: {method: {members, seed, sampler, ...}}."""
    return json.loads(scores.attrs.get("protocol", "{}"))
