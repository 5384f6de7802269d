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
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from evaluation.align import align
from evaluation.errors import EvaluationError
from evaluation.statistics import ensemble_statistics

SCHEMA_VERSION = 1
MAP_BLOCKS = 16  # maps keep at most this many groups of runs apart: memory stays bounded for any number of runs
NULL_CELLS = 1024  # cells per frame that the flatness band of the rank histogram is drawn from
CASE_STATISTICS = {
    "crps": "continuous ranked probability score, fair estimator",
    "crps_classical": "continuous ranked probability score, classical estimator",
    "variance": "variance of the members",
    "squared_error": "squared error of the ensemble mean",
    "absolute_error": "absolute error of the ensemble mean",
    "bias": "ensemble mean minus truth",
}
MAPS = ("variance", "squared_error")
NOT_PROTOCOL = (  # attributes of a forecast that say nothing about how it was made, or say it at length
    "title source history config schema_version complete manifest coordinates frame_interval frame_interval_units"
).split()

Case = tuple[int, int]


@dataclass
class _Method:
    """A forecast made ready for scoring, and the sums that grow while cases stream by."""

    name: str
    values: xr.DataArray  # (trajectory, init_time, member, lead_time, y, x), lazy
    truth: xr.DataArray  # (trajectory, init_time, lead_time, y, x), lazy
    attrs: dict[str, Any]
    sums: dict[str, np.ndarray] = field(default_factory=dict)

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
    `exchanged_ranks`; `crps_map` (method, block, lead_time, y, x), `block` (trajectory) and `variance_map`,
    `squared_error_map` (method, lead_time, y, x). A method with a single member has no distribution: its CRPS
    is the absolute error (the CRPS of a step function), its variance and ranks do not exist.

    Raises `EvaluationError` when the methods have no case, lead or variable in common, when `reference` is not
    among them, or when a forecast contains NaN in a fluid cell.
    """
    if not forecasts:
        raise EvaluationError("no forecast to verify: give at least one")
    variable = _choose_variable(truth, forecasts, variable)
    if reference is not None and reference not in forecasts:
        raise EvaluationError(f"reference {reference!r} is not among the forecasts ({', '.join(forecasts)})")
    cases, leads = common_cases(forecasts)
    methods = []
    for name, forecast in forecasts.items():
        values, aligned = align(forecast.sel(lead_time=leads), truth, variable)
        order = ("trajectory", "init_time", "lead_time", "y", "x")
        values = values.transpose("trajectory", "init_time", "member", *order[2:])
        methods.append(_Method(name, values, aligned.transpose(*order), dict(forecast.attrs)))
    solid = truth["solid"] if mask_walls and "solid" in truth else None
    scores = _allocate(methods, cases, leads, replicates)
    work = [(case, method) for case in cases for method in range(len(methods))]
    for done, ((case, m), (members, observed)) in enumerate(_prefetch(work, methods), start=1):
        fluid = _fluid(solid, case, observed.shape[-2:])
        _score(scores, methods[m], m, case, members, observed, fluid, seed)
        if on_case is not None and m == len(methods) - 1:
            on_case(done // len(methods), len(cases))
    _maps(scores, methods)
    reference = reference or default_reference(forecasts)
    return _describe(scores, truth, variable, methods, len(cases), reference, seed)


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


def _allocate(methods: list[_Method], cases: list[Case], leads: list[int], replicates: int) -> xr.Dataset:
    runs = sorted({run for run, _ in cases})
    inits = sorted({init for _, init in cases})
    like = methods[0].values
    blocks = min(len(runs), MAP_BLOCKS)
    ranks = max(m.members for m in methods) + 1
    case_dims, sizes = ("method", "trajectory", "init_time", "lead_time"), (len(runs), len(inits), len(leads))
    image = (len(leads), like.sizes["y"], like.sizes["x"])
    count = len(methods)
    data: dict[str, Any] = {name: (case_dims, np.full((count, *sizes), np.nan)) for name in CASE_STATISTICS}
    for name in ("truth_mean", "truth_mean_square"):
        data[name] = (case_dims[1:], np.full(sizes, np.nan))
    data["rank_count"] = (
        ("method", "trajectory", "lead_time", "rank"),
        np.zeros((count, len(runs), len(leads), ranks), np.int64),
    )
    data["rank_null"] = (
        ("method", "replicate", "lead_time", "rank"),
        np.zeros((count, replicates, len(leads), ranks), np.int64),
    )
    map_dims = ("method", "block", "lead_time", "y", "x")
    data["crps_map"] = (map_dims, np.zeros((count, blocks, *image)))
    for name in MAPS:
        data[f"{name}_map"] = (map_dims[:1] + map_dims[2:], np.zeros((count, *image)))
    data["fluid_cases"] = (("block", "y", "x"), np.zeros((blocks, *image[1:]), np.int64))
    data["members"] = (("method",), np.array([m.members for m in methods]))
    coords = {
        "method": np.array([m.name for m in methods], object),
        "trajectory": runs,
        "init_time": inits,
        "lead_time": leads,
        "rank": np.arange(ranks),
        "block": ("trajectory", np.arange(len(runs)) * blocks // len(runs)),
    }
    coords |= {axis: like[axis].values for axis in ("y", "x") if axis in like.coords}
    return xr.Dataset(data, coords=coords)


def _score(
    scores: xr.Dataset,
    method: _Method,
    m: int,
    case: Case,
    members: np.ndarray,
    truth: np.ndarray,
    fluid: np.ndarray,
    seed: int,
) -> None:
    """Add one case of one method to `scores`."""
    where = f"method {method.name!r}, trajectory {case[0]}, init time {case[1]}"
    _finite(members[..., fluid], where)
    _finite(truth[..., fluid], f"truth of trajectory {case[0]} after init time {case[1]}")
    i = scores.indexes["trajectory"].get_loc(case[0])
    j = scores.indexes["init_time"].get_loc(case[1])
    block = int(scores["block"].values[i])
    fields = case_statistics(members, truth)
    rank = fields.pop("rank", None)
    for name, values in fields.items():
        scores[name].values[m, i, j] = values[:, fluid].mean(-1)
    scores["crps_map"].values[m, block] += fields["crps"]
    for name in MAPS:
        scores[f"{name}_map"].values[m] += fields[name]
    if m == 0:
        observed = truth[:, fluid].astype(np.float64)
        scores["truth_mean"].values[i, j] = observed.mean(-1)
        scores["truth_mean_square"].values[i, j] = np.square(observed).mean(-1)
        scores["fluid_cases"].values[block] += fluid
    if rank is not None:
        ranks = method.members + 1
        for lead, picture in enumerate(rank):
            counts = np.bincount(picture[fluid].astype(np.int64), minlength=ranks)
            scores["rank_count"].values[m, i, lead, :ranks] += counts
        rng = np.random.default_rng([seed, case[0], case[1]])
        cells = rng.permutation(np.flatnonzero(fluid))[:NULL_CELLS]
        pool = np.concatenate([members, truth[None]]).reshape(ranks, len(truth), -1)[..., cells]
        table = exchanged_ranks(pool, rng)
        null = scores["rank_null"].values
        null[m, :, :, :ranks] += table[rng.integers(ranks, size=null.shape[1])]


def _finite(values: np.ndarray, where: str) -> None:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise EvaluationError(
            f"{where}: {bad} of {values.size} values are NaN or infinite; a forecast that broke down is not scored "
            "(leaving such values out would flatter the method): forecast this case again or leave it out"
        )


def case_statistics(members: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Pointwise statistics (lead_time, y, x) of members (member, lead_time, y, x) against truth (lead_time, y, x)."""
    image = ("lead_time", "y", "x")
    mean = members.mean(0, dtype=np.float64)
    if len(members) == 1:
        error = mean - truth
        size = np.abs(error)
        nothing = np.full(size.shape, np.nan)
        fields = {"crps": size, "crps_classical": size, "absolute_error": size, "squared_error": error**2}
        return fields | {"variance": nothing, "bias": error}
    found = ensemble_statistics(xr.DataArray(members, dims=("member", *image)), xr.DataArray(truth, dims=image))
    fields = {name: found[name].transpose(*image).values for name in ("variance", "squared_error", "rank")}
    fields["crps"] = found["crps_fair"].transpose(*image).values
    fields["crps_classical"] = found["crps"].transpose(*image).values
    fields["bias"] = mean - truth
    fields["absolute_error"] = np.abs(fields["bias"])
    return fields


def exchanged_ranks(pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank counts (element, lead_time, rank) that each element of `pool` (element, lead_time, cell) would get as truth.

    In a reliable ensemble the truth is exchangeable with the members: any of them could have been the truth.
    Letting each play that part in turn gives rank histograms that are flat up to sampling, with the correlation
    between neighbouring cells and leads that the fields really have; counting cells as if they were independent
    would give a band many times too narrow. Ties are broken by a random order of the elements.
    """
    elements, leads, _ = pool.shape
    shuffle = rng.permutation(elements)
    order = shuffle[np.argsort(pool[shuffle], axis=0, kind="stable")]  # (rank, lead_time, cell) -> element
    lead = np.arange(leads)[None, :, None]
    rank = np.arange(elements)[:, None, None]
    flat = (order * leads + lead) * elements + rank
    return np.bincount(flat.ravel(), minlength=elements * leads * elements).reshape(elements, leads, elements)


def _maps(scores: xr.Dataset, methods: list[_Method]) -> None:
    """Turn the sums of the maps into means over the cases in which a cell is fluid (NaN where it never is)."""
    cases = scores["fluid_cases"].values.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores["crps_map"] = (scores["crps_map"] / cases[None, :, None]).where(cases[None, :, None] > 0)
        total = cases.sum(0)
        for name in MAPS:
            scores[f"{name}_map"] = (scores[f"{name}_map"] / total).where(total > 0)


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
    protocol = {m.name: {k: _plain(v) for k, v in m.attrs.items() if k not in NOT_PROTOCOL and v not in (None, "")} for m in methods}
    scores.attrs = {
        "schema_version": SCHEMA_VERSION,
        "title": "Verification statistics of ensemble forecasts",
        "variable": variable,
        "variable_long_name": str(about.get("long_name", variable)),
        "units": units,
        "lead_unit": f"frames of {interval} {truth.attrs.get('frame_interval_units', '')}".strip() if interval else "frames",
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


def write_scores(scores: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `scores` as a Zarr store, all or nothing: a temporary folder beside `path`, then renamed.

    Raises `FileExistsError` if `path` exists and is not a Zarr store, or exists and `overwrite` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another name or give --overwrite")
    if path.exists() and not (path / "zarr.json").is_file():
        raise FileExistsError(f"{path} is not a Zarr store and will not be replaced: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        scores.to_zarr(temporary, mode="w", consolidated=False, zarr_format=3)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return path


def read_scores(path: str | Path) -> xr.Dataset:
    """The scores written by `write_scores`, in memory."""
    with xr.open_zarr(path, consolidated=False) as stored:
        return stored.load()
