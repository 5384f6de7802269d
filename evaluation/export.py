"""The numbers and figures of a report as files for other programs.

scores.csv     metrics with intervals, one per row (`summary.csv_text`)
curves.csv     statistics averaged over cases, by lead time and whatever else they depend on, one number per row
scores.nc      everything that was stored, as netCDF-4: attributes are text or numbers, nothing is pickled
figures/*      every figure as PNG and as SVG
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from evaluation import layout

CASES = ("trajectory", "init_time")
NOT_CURVES = ("y", "x", "replicate", "block")


def curves_csv(scores: xr.Dataset) -> str:
    """Statistics as tidy CSV: statistic, method, lead_time, further coordinates as `name=value`, value, units.

    Averaged over cases and runs, counts and sums added up over them; fields and random replicates are left out, and
    so is what is NaN. `method` is empty for statistics of the truth.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["statistic", "method", "lead_time", "coordinates", "value", "units"])
    for name, values in scores.data_vars.items():
        if values.dtype.kind not in "fiu" or set(NOT_CURVES) & set(values.dims):
            continue
        curve = _over_cases(scores, str(name))
        others = [d for d in curve.dims if d not in ("method", "lead_time")]
        units = str(values.attrs.get("units", ""))
        labels = [curve[d].values.tolist() for d in curve.dims]
        array = curve.values
        for at in zip(*np.nonzero(np.isfinite(array)), strict=True) if array.ndim else [()]:
            place = {d: labels[i][at[i]] for i, d in enumerate(curve.dims)}
            rest = ";".join(f"{d}={_number(place[d])}" for d in others)
            row = [name, place.get("method", ""), place.get("lead_time", ""), rest, _number(array[at]), units]
            writer.writerow(row)
    return text.getvalue()


def _over_cases(scores: xr.Dataset, name: str) -> xr.DataArray:
    values = scores[name].reset_coords(drop=True)
    over = [d for d in CASES if d in values.dims]
    if name in layout.MEANS:  # of the cases of each run: runs count by their cases
        cases = scores["truth_mean"].notnull().any("lead_time").sum("init_time").reset_coords(drop=True)
        return values.weighted(cases).mean("trajectory")
    return values.sum(over) if name in layout.LAYOUT and "init_time" not in over else values.mean(over)


def _number(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float | np.floating) else str(value)


def netcdf(scores: xr.Dataset, path: Path) -> None:
    """Write all of `scores` to `path` as netCDF-4 that xarray, ncdump and others open as it is."""
    clean = scores.copy()
    clean.attrs = plain(scores.attrs)
    for name in clean.variables:
        clean[name].attrs = plain(scores[name].attrs)
        clean[name].encoding = {}
    for name in clean.coords:
        if clean[name].dtype.kind == "O":
            clean[name] = clean[name].astype(str)
    packed = {
        name: {"zlib": True, "complevel": 4, "shuffle": True}
        for name, v in clean.data_vars.items()
        if v.dtype.kind in "fiu" and v.ndim
    }
    clean.to_netcdf(path, engine="netcdf4", format="NETCDF4", encoding=packed)


def plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes that any netCDF reader takes: truth values as 0 or 1, nothing left out but None, the rest JSON."""
    result: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, bool | np.bool_):
            result[str(key)] = int(value)
        elif isinstance(value, str | int | float | np.number):
            result[str(key)] = value
        elif isinstance(value, np.ndarray):
            result[str(key)] = value if value.dtype.kind in "fiu" else json.dumps(value.tolist())
        elif value is not None:
            result[str(key)] = json.dumps(value, default=str)
    return result
