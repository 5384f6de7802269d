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

FRAMES = ("", "1", "frame", "frames")  # units of a lead time that is a number of frames
SECONDS = {
    name: seconds
    for names, seconds in (
        (("s", "sec", "second", "seconds"), 1.0),
        (("min", "minute", "minutes"), 60.0),
        (("h", "hr", "hour", "hours"), 3600.0),
        (("d", "day", "days"), 86400.0),
    )
    for name in names
}
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
    for name, data in {"the truth": truth, **{f"the forecast of {n}": f for n, f in forecasts.items()}}.items():
        if not isinstance(data, xr.Dataset):
            kind = type(data).__name__
            raise EvaluationError(f"{name} is a {kind}: a Dataset is needed (DataArray.to_dataset makes one)")
    truth = _aliased(truth)
    truth = truth.rename({"init_time": "time"}) if "init_time" in truth.dims and "time" not in truth.dims else truth
    if "time" not in truth.dims:
        raise EvaluationError(f'the truth has no dimension "time", only ({", ".join(map(str, truth.dims))})')
    runs = _Runs(truth)
    truth = runs.numbered(truth, "the truth")
    axis = _TimeAxis(truth)
    truth = truth.assign_coords(time=axis.frames(truth["time"].values, "the truth"))
    return truth, {name: _forecast(data, name, axis, runs) for name, data in forecasts.items()}


def _aliased(data: xr.Dataset) -> xr.Dataset:
    there = {*data.dims, *(name for name, coord in data.coords.items() if coord.ndim == 0)}
    names = {a: n for a, n in ALIASES.items() if a in there and n not in data.dims and n not in data.variables}
    twice = [n for n in names.values() if list(names.values()).count(n) > 1]
    if twice:
        both = " and ".join(a for a, n in names.items() if n == twice[0])
        raise EvaluationError(f"dimensions {both} both mean {twice[0]}: rename one of them")
    return data.rename(names)


def _forecast(data: xr.Dataset, name: str, axis: _TimeAxis, runs: _Runs) -> xr.Dataset:
    data, where = _aliased(data), f"the forecast of {name}"
    if "lead_time" in data.coords and data["lead_time"].ndim == 0:  # one lead was selected
        data = data.expand_dims("lead_time")
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
        _once(frames, "time", where)
        data = data.drop_vars("time").rename(time="lead_time").expand_dims("init_time")
        data = data.assign_coords(init_time=[frames[0] - 1], lead_time=frames - frames[0] + 1)
        return _whole(data, where, axis, runs)
    data = data.assign_coords(
        init_time=axis.frames(data["init_time"].values, where),
        lead_time=axis.intervals(data["lead_time"], where),
    )
    for dim in ("init_time", "lead_time"):
        _once(data[dim].values, dim, where)
    return _whole(data, where, axis, runs)


def _once(labels: np.ndarray, dim: str, where: str) -> None:
    values, counts = np.unique(labels, return_counts=True)
    if (counts > 1).any():
        raise EvaluationError(f"{where} has {dim} {values[counts > 1][0]} more than once: keep one of each")


def _whole(data: xr.Dataset, where: str, axis: _TimeAxis, runs: _Runs) -> xr.Dataset:
    if "valid_time" in data.variables and data["valid_time"].dtype.kind not in "iu":
        data = data.drop_vars("valid_time")  # in other units: it follows from the other two
    if "member" not in data.dims:
        data = data.drop_vars("member", errors="ignore").expand_dims("member")
    return runs.numbered(data, where)


class _Runs:
    """Trajectories of the truth: numbers as they are, names by their place in the truth."""

    def __init__(self, truth: xr.Dataset):
        labels = np.atleast_1d(truth["trajectory"].values) if "trajectory" in truth.coords else np.zeros(0, int)
        self.count = truth.sizes.get("trajectory", 1)
        self.named = labels.dtype.kind not in "iuf"
        self.numbers = {label: k for k, label in enumerate(labels.tolist())} if self.named else {}

    def numbered(self, data: xr.Dataset, where: str) -> xr.Dataset:
        """`data` with a dimension trajectory of numbers. EvaluationError for a run that the truth has not."""
        data = self._labelled(data, where)
        labels = data["trajectory"].values
        if (labels.dtype.kind not in "iuf") != self.named:
            kinds = ("numbers", "names")
            raise EvaluationError(
                f"trajectories of {where} are {kinds[not self.named]}, those of the truth {kinds[self.named]}: "
                "give both the same labels"
            )
        _once(labels.astype(str) if self.named else labels, "trajectory", where)
        if not self.named:
            return data
        unknown = [label for label in labels.tolist() if label not in self.numbers]
        if unknown:
            raise EvaluationError(f"{where} has trajectory {unknown[0]!r}, which the truth has not")
        return data.assign_coords(trajectory=[self.numbers[label] for label in labels.tolist()])

    def _labelled(self, data: xr.Dataset, where: str) -> xr.Dataset:
        """`data` on trajectory, with labels; of one that is not named only where there is no doubt."""
        if "trajectory" in data.dims:
            if "trajectory" in data.coords:
                return data
            if data.sizes["trajectory"] != self.count:
                count = data.sizes["trajectory"]
                raise EvaluationError(
                    f"{where} has {count} trajectories without a coordinate, the truth {self.count}: "
                    "which are they? assign_coords(trajectory=...) says so"
                )
            return data.assign_coords(trajectory=list(self.numbers) or np.arange(self.count))
        label = data["trajectory"].item() if "trajectory" in data.coords else None  # one that was selected
        if label is None and self.count > 1:
            raise EvaluationError(f"{where} does not say which of the {self.count} trajectories of the truth it is of")
        label = next(iter(self.numbers), 0) if label is None else label
        data = data.drop_vars("trajectory", errors="ignore")
        dynamic = [n for n, v in data.data_vars.items() if {"time", "lead_time"} & set(v.dims)]
        return data.drop_vars(dynamic).merge(data[dynamic].expand_dims(trajectory=[label]))


class _TimeAxis:
    """Frames of the truth: whole numbers as they are, dates and other times counted in its steps from the first."""

    def __init__(self, truth: xr.Dataset):
        times = truth["time"].values
        self.unit = str(truth["time"].attrs.get("units", "")).strip().lower()
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

    def intervals(self, leads: xr.DataArray, where: str) -> np.ndarray:
        """Lead times as numbers of frames: durations, or numbers in the unit they name, else frames of the truth."""
        values, unit = leads.values, str(leads.attrs.get("units", "")).strip().lower()
        step = np.asarray(self.step)
        if values.dtype.kind not in "iufm":
            raise EvaluationError(f"lead times of {where} are {values.dtype}: numbers or durations are needed")
        if values.dtype.kind != "m" and unit not in FRAMES:
            if step.dtype.kind == "m" and unit in SECONDS:
                values = np.rint(values * (SECONDS[unit] * 1e9)).astype("m8[ns]")
            elif unit != self.unit:
                raise EvaluationError(
                    f"lead times of {where} are in {unit!r}, in which the times of the truth are not counted: convert "
                    "them, or give numbers of frames without units"
                )
        if values.dtype.kind == "m" and step.dtype.kind != "m":
            raise EvaluationError(f"lead times of {where} are durations, but the times of the truth are numbers")
        if values.dtype.kind == "m" or (step.dtype.kind == "f" and (values.dtype.kind == "f" or unit not in FRAMES)):
            values = values / step
        return self._rounded(self._numbers(values, where), where, "lead time")

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
