"""Forecasts and truths from elsewhere, brought to the layout of this package.

    truth     (time, y, x)                    ->  (trajectory, time, y, x)
    forecast  (time, step, number, lat, lon)  ->  (trajectory, init_time, member, lead_time, y, x)
    forecast  (member, time, y, x)            ->  one case, which begins one frame before its first time
    times     dates, hours, seconds           ->  whole frames of the truth

Names are those of `evaluation.dims.ALIASES`; what they do not cover is renamed by the caller. Nothing is
interpolated and nothing guessed from values: what does not fit raises EvaluationError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from evaluation.dims import ALIASES
from evaluation.errors import EvaluationError

ROUNDING = 1e-6  # of a frame: how far a time may be from a frame


def open_any(path: str | Path, *, rename: Mapping[str, str] | None = None) -> xr.Dataset:
    """A netCDF file or Zarr store of any origin, lazily, with names (`rename`: old -> new) replaced.

    Raises FileNotFoundError where there is nothing, EvaluationError for what is neither or lacks a name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    is_zarr = path.is_dir()
    try:
        if is_zarr:
            data = xr.open_zarr(path, consolidated=(path / ".zmetadata").exists(), chunks={})
        else:
            data = xr.open_dataset(path, engine="netcdf4", chunks={})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        kind = "Zarr store" if is_zarr else "netCDF file"
        raise EvaluationError(
            f"{path} is not a {kind} that can be read ({str(error).splitlines()[0][:120]})"
        ) from error
    return renamed(data, rename or {}, str(path))


def renamed(data: xr.Dataset, rename: Mapping[str, str], name: str) -> xr.Dataset:
    """`data` with those of the names in `rename` that it has replaced; EvaluationError where a new name is taken."""
    here = {old: new for old, new in rename.items() if old in data.variables or old in data.dims}
    taken = [new for new in here.values() if (new in data.variables or new in data.dims) and new not in here]
    if taken:
        raise EvaluationError(f'{name} has "{taken[0]}" already: nothing else can be renamed to it')
    return data.rename(here)


def conform(truth: xr.Dataset, forecasts: Mapping[str, xr.Dataset]) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Truth and forecasts in the layout above, their times in whole frames; lazy data stay lazy."""
    truth = _aliased(truth)
    truth = truth.rename({"init_time": "time"}) if "init_time" in truth.dims and "time" not in truth.dims else truth
    if "time" not in truth.dims:
        raise EvaluationError(f'the truth has no dimension "time", only ({", ".join(map(str, truth.dims))})')
    truth, runs = _with_runs(truth, None, "the truth")
    axis = _TimeAxis(truth)
    truth = truth.assign_coords(time=axis.frames(truth["time"].values, "the truth"))
    return truth, {name: _forecast(data, name, axis, runs) for name, data in forecasts.items()}


def _aliased(data: xr.Dataset) -> xr.Dataset:
    names = {a: n for a, n in ALIASES.items() if a in data.dims and n not in data.dims and n not in data.variables}
    twice = [n for n in names.values() if list(names.values()).count(n) > 1]
    if twice:
        both = " and ".join(a for a, n in names.items() if n == twice[0])
        raise EvaluationError(f"dimensions {both} both mean {twice[0]}: rename one of them")
    return data.rename(names)


def _forecast(data: xr.Dataset, name: str, axis: _TimeAxis, runs: dict[Any, int] | None) -> xr.Dataset:
    data, where = _aliased(data), f"the forecast of {name}"
    if "lead_time" in data.dims and "init_time" not in data.dims:
        if "time" in data.dims:
            data = data.rename(time="init_time")
        elif "init_time" in data.coords or "time" in data.coords:
            scalar = "init_time" if "init_time" in data.coords else "time"
            data = data.rename({scalar: "init_time"} if scalar == "time" else {}).expand_dims("init_time")
        else:
            raise EvaluationError(f'{where} has no dimension or coordinate "init_time": when does it begin?')
    elif "lead_time" not in data.dims:
        if "time" not in data.dims:
            raise EvaluationError(f'{where} has no dimension "lead_time", only ({", ".join(map(str, data.dims))})')
        frames = axis.frames(data["time"].values, where)
        data = data.drop_vars("time").rename(time="lead_time").expand_dims("init_time")
        data = data.assign_coords(init_time=[frames[0] - 1], lead_time=frames - frames[0] + 1)
        return _whole(data, where, axis, runs)
    data = data.assign_coords(
        init_time=axis.frames(data["init_time"].values, where),
        lead_time=axis.intervals(data["lead_time"].values, where),
    )
    return _whole(data, where, axis, runs)


def _whole(data: xr.Dataset, where: str, axis: _TimeAxis, runs: dict[Any, int] | None) -> xr.Dataset:
    if "valid_time" in data.variables and data["valid_time"].dtype.kind not in "iu":
        data = data.drop_vars("valid_time")  # in other units: it follows from the other two
    if "member" not in data.dims:
        data = data.drop_vars("member", errors="ignore").expand_dims("member")
    return _with_runs(data, runs, where)[0]


def _with_runs(data: xr.Dataset, runs: dict[Any, int] | None, where: str) -> tuple[xr.Dataset, dict[Any, int] | None]:
    """`trajectory` as numbers, and what they are of: labels that are not numbers become those of the truth."""
    if "trajectory" not in data.dims:
        label = data["trajectory"].item() if "trajectory" in data.coords else 0  # one that was selected keeps its name
        data = data.drop_vars("trajectory", errors="ignore")
        dynamic = [n for n, v in data.data_vars.items() if {"time", "lead_time"} & set(v.dims)]
        return data.drop_vars(dynamic).merge(data[dynamic].expand_dims(trajectory=[label])), runs
    labels = data["trajectory"].values
    if labels.dtype.kind in "iuf":
        return data, runs
    if runs is None:
        runs = {label: k for k, label in enumerate(labels.tolist())}
    unknown = [label for label in labels.tolist() if label not in runs]
    if unknown:
        raise EvaluationError(f"{where} has trajectory {unknown[0]!r}, which the truth has not")
    return data.assign_coords(trajectory=[runs[label] for label in labels.tolist()]), runs


class _TimeAxis:
    """Frames of the truth: whole numbers as they are, dates and other times counted in its steps from the first."""

    def __init__(self, truth: xr.Dataset):
        times = truth["time"].values
        self.counted = times.dtype.kind in "iu"
        spacing: tuple[Any, Any] = (0, 1) if self.counted else self._spacing(times)
        self.first, self.step = spacing

    def _spacing(self, times: np.ndarray) -> tuple[Any, Any]:
        if len(times) < 2:
            raise EvaluationError("the truth has a single time: the length of a frame cannot be told")
        steps = np.diff(times)
        if times.dtype.kind not in "Mmf":
            raise EvaluationError(f"the times of the truth are {times.dtype}: numbers or dates are needed")
        uneven = abs((steps - steps[0]) / steps[0]).max() if times.dtype.kind == "f" else (steps != steps[0]).any()
        if uneven > ROUNDING or steps[0] <= np.zeros((), steps.dtype):
            raise EvaluationError("the times of the truth are not evenly spaced and growing: select such a part of it")
        return times[0], steps[0]

    def frames(self, times: np.ndarray, where: str) -> np.ndarray:
        """Moments as numbers of frames."""
        if self.counted:
            return self._rounded(self._numbers(times, where), where, "time")
        if times.dtype.kind != np.asarray(self.first).dtype.kind:
            raise EvaluationError(
                f"times of {where} are {times.dtype}, those of the truth {np.asarray(self.first).dtype}"
            )
        return self._rounded((times - self.first) / self.step, where, "time")

    def intervals(self, leads: np.ndarray, where: str) -> np.ndarray:
        """Lead times as numbers of frames."""
        if leads.dtype.kind in "iu":
            return leads.astype(np.int64)
        step = np.asarray(self.step)
        if leads.dtype.kind == "m" and step.dtype.kind != "m":
            raise EvaluationError(f"lead times of {where} are durations, but the times of the truth are numbers")
        return self._rounded(self._numbers(leads, where) if leads.dtype.kind == "f" and step.dtype.kind == "m"
                             else leads / step, where, "lead time")  # fmt: skip

    @staticmethod
    def _numbers(values: np.ndarray, where: str) -> np.ndarray:
        if values.dtype.kind not in "iuf":
            raise EvaluationError(f"times of {where} are {values.dtype}, those of the truth whole numbers")
        return values.astype(np.float64)

    @staticmethod
    def _rounded(values: np.ndarray, where: str, what: str) -> np.ndarray:
        whole = np.rint(values)
        if not (abs(values - whole) <= ROUNDING).all():
            bad = values[abs(values - whole) > ROUNDING].flat[0]
            raise EvaluationError(f"{what} {bad:g} of {where} is between two frames of the truth")
        return whole.astype(np.int64)
