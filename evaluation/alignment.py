"""The truth that belongs to a forecast: each lead time meets the frame it was made for.

    forecast (trajectory, init_time, member, lead_time, [channel,] y, x)
    truth    (trajectory, time, [channel,] y, x)
    aligned  (trajectory, init_time, lead_time, [channel,] y, x), truth at valid_time = init_time + lead_time

Frames are matched by whole numbers, never to the nearest one. Where the truth is clips of unequal length it has a
variable `length` (trajectory): frames beyond a clip's length do not exist, whatever the array holds there.
"""

import numpy as np
import xarray as xr

from .colour import DIM, Channels
from .dims import ALIASES, match
from .errors import DimensionError, EvaluationError


def align(
    forecast: xr.Dataset, truth: xr.Dataset, variable: str, *, mask_walls: bool = True
) -> tuple[xr.DataArray, xr.DataArray]:
    """One variable of a forecast, and the truth at its valid times: what the functions of this package compare.

    `valid_time` (init_time, lead_time) is taken from the forecast, or is init_time + lead_time; `trajectory` is
    looked up in the truth. Where `truth.solid` marks a wall and `mask_walls` is set, the truth becomes NaN (float32
    or float64): the point drops out of every score under nan_policy="omit", and no copy is made of the forecast.
    Lazy input stays lazy, and a part of the result needs only its own frames.

    Raises EvaluationError for a variable that is not in both, or in different units, a valid time or trajectory that
    the truth lacks, a case of the forecast (of those that `cases_written` marks, else any) that goes beyond the length
    of its clip, times that are not whole numbers; DimensionError if the grids or the channels differ.
    """
    values, frames = _variable(forecast, variable, "forecast"), _variable(truth, variable, "truth")
    _same_units(values, frames, variable)
    for dim, array, name in (
        ("init_time", values, "forecast"),
        ("lead_time", values, "forecast"),
        ("time", frames, "truth"),
    ):
        if dim not in array.dims:
            raise DimensionError(f'{variable} of the {name} has no dimension "{dim}", only {array.dims}')
    _same_channels(values, frames, variable)
    grid = [d for d in frames.dims if d not in ("trajectory", "time")]
    missing = [d for d in grid if d not in values.dims]
    if missing or ("trajectory" in values.dims) != ("trajectory" in frames.dims):
        raise DimensionError(f"{variable} is on {values.dims} in the forecast and {frames.dims} in the truth")
    match(values, frames, grid, "the forecast", "the truth")
    if "trajectory" in values.dims:
        runs = _positions(frames, "trajectory", _labels(values, "trajectory"), "trajectory")
        _within_lengths(forecast, truth, values, frames, runs)
        frames = frames.isel(trajectory=runs).assign_coords(trajectory=_labels(values, "trajectory"))
    frames = _at_valid_time(frames, values)
    if mask_walls and "solid" in truth:
        frames = _without_walls(frames, _renamed(truth)["solid"], values)
    order = [d for d in values.dims if d in frames.dims]
    return values, frames.transpose(*order)


def valid_time(forecast: xr.Dataset | xr.DataArray) -> np.ndarray:
    """Frame numbers (init_time, lead_time) that a forecast is for. EvaluationError if they are not whole numbers."""
    if "valid_time" in forecast.coords:
        times = forecast["valid_time"].transpose("init_time", "lead_time").values
    else:
        times = _labels(forecast, "init_time")[:, None] + _labels(forecast, "lead_time")[None, :]
    return _whole(times, "valid_time")


def lighter(frames: xr.DataArray) -> xr.DataArray:
    """The same lazy array with a dask graph of its own chunks alone.

    Each read of an array goes through its whole graph: of some clips out of 40 000 that takes ten times as long.
    """
    if frames.chunks is None:
        return frames
    import dask

    return dask.optimize(frames)[0]


def lengths(truth: xr.Dataset) -> np.ndarray | None:
    """How many frames each trajectory of the truth has, from its variable `length`; None where it has none."""
    if "length" not in truth or truth["length"].dims != ("trajectory",) or truth["length"].dtype.kind not in "iu":
        return None
    return truth["length"].values.astype(np.int64)


def _within_lengths(
    forecast: xr.Dataset, truth: xr.Dataset, values: xr.DataArray, frames: xr.DataArray, runs: np.ndarray
) -> None:
    known = lengths(truth)
    if known is None:
        return
    times = valid_time(values)
    last = _positions(frames, "time", times.ravel(), "valid time").reshape(times.shape).max(1)
    claimed = np.ones((len(runs), len(last)), bool)
    if "cases_written" in forecast:
        claimed = _renamed(forecast)["cases_written"].transpose("trajectory", "init_time").values > 0
    beyond = np.argwhere(claimed & (last >= known[runs][:, None]))
    if len(beyond):
        k, i = beyond[0]
        raise EvaluationError(
            f"trajectory {_labels(values, 'trajectory')[k]} has {known[runs[k]]} frames; its forecast after init time "
            f"{_labels(values, 'init_time')[i]} goes on to frame {times[i].max()} ({len(beyond)} of {claimed.sum()} "
            "cases end beyond their clip): forecast fewer leads, or only clips that are long enough"
        )


def _same_channels(values: xr.DataArray, frames: xr.DataArray, variable: str) -> None:
    ours, theirs = Channels.of(values), Channels.of(frames)
    if ours != theirs:
        names = [", ".join(c.names) if c is not None else f"none (no dimension {DIM})" for c in (ours, theirs)]
        raise DimensionError(
            f"channels of {variable} in the forecast: {names[0]}; in the truth: {names[1]}. They must be the same, in "
            "the same order: select or reorder them (isel, sel)"
        )


def _at_valid_time(frames: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    times = valid_time(values)
    where = _positions(frames, "time", times.ravel(), "valid time").reshape(times.shape)
    coords = {d: _labels(values, d) for d in ("init_time", "lead_time")}
    bare = frames.drop_vars([c for c in frames.coords if "time" in frames[c].dims])
    if frames.chunks is None:
        picked = bare.isel(time=xr.DataArray(where, dims=("init_time", "lead_time")))
    else:  # one selection for each init time: dask would merge the chunks of a two-dimensional one
        cases = [bare.isel(time=xr.DataArray(row, dims="lead_time")) for row in where]
        picked = xr.concat(cases, "init_time")
    picked = picked.assign_coords(coords)
    return picked.assign_coords(valid_time=(("init_time", "lead_time"), times))


def _without_walls(frames: xr.DataArray, solid: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    if "trajectory" in solid.dims:
        runs = _positions(solid, "trajectory", _labels(values, "trajectory"), "trajectory")
        solid = solid.isel(trajectory=runs).assign_coords(trajectory=_labels(values, "trajectory"))
    extra = [d for d in solid.dims if d not in frames.dims]
    if extra:
        raise DimensionError(f"solid has dimensions {extra}, which the truth, on {frames.dims}, has not")
    match(solid, frames, solid.dims, "solid", "the truth")
    if frames.dtype.kind != "f":
        frames = frames.astype(np.float32 if frames.dtype.itemsize <= 2 else np.float64)
    return frames.where(~solid.astype(bool).reset_coords(drop=True))


def _variable(data: xr.Dataset, variable: str, name: str) -> xr.DataArray:
    if variable not in data.data_vars:
        have = ", ".join(map(str, data.data_vars)) or "none"
        raise EvaluationError(f'the {name} has no variable "{variable}"; it has: {have}')
    return _renamed(data)[variable]


def _renamed(data: xr.Dataset) -> xr.Dataset:
    """The dataset with the names of this package (`evaluation.dims.ALIASES`)."""
    names = {a: n for a, n in ALIASES.items() if a in data.dims and n not in data.dims}
    return data.rename(names)


def _same_units(values: xr.DataArray, frames: xr.DataArray, variable: str) -> None:
    units = [a.attrs.get("units") for a in (values, frames)]
    if None not in units and units[0] != units[1]:
        raise EvaluationError(f'{variable} is in "{units[0]}" in the forecast and in "{units[1]}" in the truth')


def _labels(array: xr.DataArray | xr.Dataset, dim: str) -> np.ndarray:
    """Whole-number coordinate of dim, or 0, 1, 2... where there is none."""
    return _whole(array[dim].values, dim)


def _whole(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        whole = labels.astype(np.int64) if labels.dtype.kind == "f" and np.isfinite(labels).all() else None
        if whole is None or (whole != labels).any():
            raise EvaluationError(f"{name} must be whole numbers (frames), got {labels.dtype}")
        return whole
    return labels.astype(np.int64)


def _positions(array: xr.DataArray, dim: str, wanted: np.ndarray, name: str) -> np.ndarray:
    """Where the labels `wanted` stand along dim."""
    have = _labels(array, dim)
    if len(np.unique(have)) != len(have):
        raise EvaluationError(f'coordinate "{dim}" of the truth has repeated values')
    order = np.argsort(have)
    slot = np.searchsorted(have, wanted, sorter=order)
    found = order[np.minimum(slot, len(have) - 1)] if len(have) else np.zeros(len(wanted), np.int64)
    absent = have[found] != wanted if len(have) else np.ones(len(wanted), bool)
    if absent.any():
        what = wanted[absent]
        span = f"{have.min()} to {have.max()}" if len(have) else "nothing"
        raise EvaluationError(
            f"the truth has no {name} {what[0]} ({absent.sum()} of {len(wanted)} wanted are absent; it covers {span}): "
            "forecast fewer leads or init times, or give the truth that the forecast was made for"
        )
    return found
