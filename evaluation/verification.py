"""Score any number of forecast methods against one truth in a single streamed pass.

    truth    (trajectory, time, y, x)                              + solid (trajectory, y, x)
    forecast (trajectory, init_time, member, lead_time, y, x)      one dataset per method
    scores   (method, trajectory, init_time, lead_time)            spatial means over fluid cells

What is stored are *statistics*: quantities whose average means something (CRPS, variance, squared error, rank
counts). Metrics (RMSE, CRPSS, spread-skill ratio, intervals) are functions of averages and are derived from the
result afterwards, by `evaluation.summary`: aggregate first, divide last.

One case, a pair (trajectory, init_time), is in memory at a time, plus the next one being read; a whole forecast
never is. A case is scored only if every method has it, so that all methods answer the same questions.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation.alignment import align
from evaluation.dims import ALIASES
from evaluation.errors import EvaluationError
from evaluation.scoring import CASE_STATISTICS, Case, add_case, allocate, finish

SCHEMA_VERSION = 1
NOT_PROTOCOL = (  # attributes of a forecast that say nothing about how it was made, or say it at length
    *("title", "source", "history", "config", "schema_version", "complete", "manifest", "coordinates"),
    *("frame_interval", "frame_interval_units"),
)


@dataclass
class _Method:
    """A forecast and the truth it is for, aligned, lazy."""

    name: str
    values: xr.DataArray  # (trajectory, init_time, member, lead_time, y, x), lazy
    truth: xr.DataArray  # (trajectory, init_time, lead_time, y, x), lazy
    attrs: dict[str, Any]

    @property
    def members(self) -> int:
        return self.values.sizes["member"]

    def load(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Members (member, lead_time, y, x) and truth (lead_time, y, x) of one case."""
        pick = {"trajectory": case[0], "init_time": case[1]}
        return self.values.sel(pick).values, self.truth.sel(pick).values


def verify(
    truth: xr.Dataset,
    forecasts: Mapping[str, xr.Dataset],
    *,
    variable: str | None = None,
    reference: str | None = None,
    mask_walls: bool = True,
    seed: int = 0,
    replicates: int = 200,
    on_case: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Statistics of every method at every case and lead, as an in-memory Dataset (the content of `scores.zarr`).

    `forecasts` maps the name of a method to its forecast. `variable` is needed only where they share more than
    one. `reference` names the method that skill is measured against (default: `default_reference`).
    `mask_walls` leaves out the cells that `truth.solid` marks. `seed` drives the only random part, the replicates
    of the flatness band. `on_case(done, total)` is called after each case.

    Result: the statistics of `CASE_STATISTICS` (method, trajectory, init_time, lead_time), NaN where a case was
    not scored or a statistic does not apply; `truth_mean`, `truth_mean_square` likewise without method;
    `rank_count` (method, trajectory, lead_time, rank); `rank_null` (method, replicate, lead_time, rank), see
    `scoring.exchanged_ranks`; `crps_map` (method, block, lead_time, y, x), `block` (trajectory) and `variance_map`,
    `squared_error_map` (method, lead_time, y, x). A method with a single member has no distribution: its CRPS
    is the absolute error (the CRPS of a step function), its variance and ranks do not exist.

    Raises `EvaluationError` when the methods have no case, lead or variable in common, when `reference` is not
    among them, or when a forecast contains NaN in a fluid cell.
    """
    if not forecasts:
        raise EvaluationError("no forecast to verify: give at least one")
    truth, forecasts = _renamed(truth), {name: _renamed(f) for name, f in forecasts.items()}
    variable = _choose_variable(truth, forecasts, variable)
    if reference is not None and reference not in forecasts:
        raise EvaluationError(f"reference {reference!r} is not among the forecasts ({', '.join(forecasts)})")
    cases, leads = common_cases(forecasts)
    methods = []
    for name, forecast in forecasts.items():
        if forecast["lead_time"].values.tolist() != leads:  # a selection copies: not without need
            forecast = forecast.sel(lead_time=leads)
        values, aligned = align(forecast, truth, variable, mask_walls=False)
        order = ("trajectory", "init_time", "lead_time", "y", "x")
        values = values.transpose("trajectory", "init_time", "member", *order[2:])
        methods.append(_Method(name, values, aligned.transpose(*order), dict(forecast.attrs)))
    solid = truth["solid"] if mask_walls and "solid" in truth else None
    like = methods[0].values
    axes = {axis: like[axis].values for axis in ("y", "x")}
    scores = allocate({m.name: m.members for m in methods}, cases, leads, axes, replicates)
    work = [(case, method) for case in cases for method in range(len(methods))]
    for done, ((case, m), (members, observed)) in enumerate(_prefetch(work, methods), start=1):
        fluid = _fluid(solid, case, observed.shape[-2:])
        add_case(scores, m, case, members, observed, fluid, seed)
        if on_case is not None and m == len(methods) - 1:
            on_case(done // len(methods), len(cases))
    finish(scores)
    reference = reference or default_reference(forecasts)
    return _describe(scores, truth, variable, methods, len(cases), reference, seed)


def _renamed(data: xr.Dataset) -> xr.Dataset:
    return data.rename({alias: name for alias, name in ALIASES.items() if alias in data.dims and name not in data.dims})


def default_reference(methods: Iterable[str]) -> str:
    """The method that skill is measured against when nobody says: climatology, else persistence, else none ("")."""
    names = list(methods)
    return next((name for name in ("climatology", "persistence") if name in names and len(names) > 1), "")


def common_cases(forecasts: Mapping[str, xr.Dataset]) -> tuple[list[Case], list[int]]:
    """The cases (trajectory, init_time) that every method has written, in order, and the leads all of them have."""
    written = [_written(forecast) for forecast in forecasts.values()]
    cases = sorted(set.intersection(*written))
    leads = sorted(set.intersection(*(set(f["lead_time"].values.tolist()) for f in forecasts.values())))
    if not cases or not leads:
        counts = ", ".join(f"{name} {len(w)}" for name, w in zip(forecasts, written, strict=True))
        what = "lead time" if cases else f"case (trajectory, init_time; cases written: {counts})"
        raise EvaluationError(
            f"the forecasts have no {what} in common: make them for the same trajectories, init times and leads"
        )
    return cases, leads


def _written(forecast: xr.Dataset) -> set[Case]:
    grid = np.ones((forecast.sizes["trajectory"], forecast.sizes["init_time"]), bool)
    if "cases_written" in forecast:
        grid = forecast["cases_written"].transpose("trajectory", "init_time").values > 0
    runs, inits = forecast["trajectory"].values, forecast["init_time"].values
    return {(int(runs[i]), int(inits[j])) for i, j in np.argwhere(grid)}


def _choose_variable(truth: xr.Dataset, forecasts: Mapping[str, xr.Dataset], wanted: str | None) -> str:
    shared = {str(n) for n in truth.data_vars if "time" in truth[n].dims and "y" in truth[n].dims}
    for forecast in forecasts.values():
        shared &= {str(n) for n in forecast.data_vars if "lead_time" in forecast[n].dims}
    names = ", ".join(sorted(shared)) or "none"
    if wanted is not None and wanted not in shared:
        raise EvaluationError(f"variable {wanted!r} is not in the truth and every forecast; in all of them: {names}")
    if wanted is None and len(shared) != 1 and "vorticity" not in shared:
        raise EvaluationError(f"which variable is to be verified? In the truth and every forecast: {names}")
    return wanted or (shared.pop() if len(shared) == 1 else "vorticity")


def _prefetch(work: list[tuple[Case, int]], methods: list[_Method]) -> Iterator[tuple[tuple[Case, int], Any]]:
    """Each item of `work` with its arrays, read while the one before is being scored."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(methods[work[0][1]].load, work[0][0])
        for i, item in enumerate(work):
            arrays = ahead.result()
            if i + 1 < len(work):
                case, m = work[i + 1]
                ahead = reader.submit(methods[m].load, case)
            yield item, arrays


def _fluid(solid: xr.DataArray | None, case: Case, shape: tuple[int, ...]) -> np.ndarray:
    if solid is None:
        return np.ones(shape, bool)
    walls = solid.sel(trajectory=case[0]) if "trajectory" in solid.dims else solid
    return ~walls.transpose("y", "x").values.astype(bool)


def _describe(
    scores: xr.Dataset,
    truth: xr.Dataset,
    variable: str,
    methods: list[_Method],
    cases: int,
    reference: str,
    seed: int,
) -> xr.Dataset:
    about = truth[variable].attrs
    units = str(about.get("units", "1"))
    interval = truth.attrs.get("frame_interval")
    squared = {"variance", "squared_error", "truth_mean_square", "variance_map", "squared_error_map"}
    for name in [*CASE_STATISTICS, "truth_mean", "truth_mean_square", "crps_map", "variance_map", "squared_error_map"]:
        scores[name].attrs["units"] = f"({units})^2" if name in squared and units != "1" else units
        if name in CASE_STATISTICS:
            scores[name].attrs["long_name"] = f"{CASE_STATISTICS[name]}, mean over fluid cells"
    protocol = {
        m.name: {k: _plain(v) for k, v in m.attrs.items() if k not in NOT_PROTOCOL and v is not None and str(v)}
        for m in methods
    }
    scores.attrs = {
        "schema_version": SCHEMA_VERSION,
        "title": "Verification statistics of ensemble forecasts",
        "variable": variable,
        "variable_long_name": str(about.get("long_name", variable)),
        "units": units,
        "lead_unit": f"frames of {interval} {truth.attrs.get('frame_interval_units', '')}".strip()
        if interval
        else "frames",
        "cases": cases,
        "runs": scores.sizes["trajectory"],
        "reference": reference,
        "seed": seed,
        "protocol": json.dumps(protocol, sort_keys=True),
        "software": json.dumps(_software()),
    }
    return scores


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("rvdflow", "numpy", "numba", "xarray"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float | bool | dict | list | None) else str(value)
