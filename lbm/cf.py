"""What the CF conventions (version 1.11) say about a dataset of ours: attributes and coordinates, nothing written.

UDUNITS knows no cells and ticks: in lattice units both are 1, so units become "1" and `lattice_units` keeps
"cells/tick". For the same reason `time`, the number of the frame, is a plain dimensionless coordinate, which no reader
takes for a date. x and y are the centres of the pixels, in cells, with cell centres at whole numbers.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

CONVENTIONS = "CF-1.11"
LATTICE_UNITS = re.compile(r"\b(cells?|ticks?|frames?|pixels?)\b")
STANDARD_NAMES = {"member": "realization"}  # the table has none for flow in lattice units
MEANINGS = {"solid": "fluid solid"}  # of False and True
PROGRESS = ("frames_written", "cases_written", "clips_written")  # of a store; a file that exists is complete
NOT_CARRIED = ("schema_version", "complete", "coordinates", "Conventions")  # attributes that speak of the store
REFERENCES = "Krueger et al., The Lattice Boltzmann Method, Springer (2017), doi:10.1007/978-3-319-44649-3"


def with_axes(data: xr.Dataset) -> xr.Dataset:
    """With coordinates x and y where it has none: centres of the pixels, in cells where their size is known."""
    cells = data.attrs.get("cells_per_pixel")
    along = {"x": "streamwise", "y": "transverse"}
    for axis, way in along.items():
        if axis in data.dims and axis not in data.coords:
            pixels = np.arange(data.sizes[axis])
            values = pixels if cells is None else pixels * float(cells) + (cells - 1) / 2
            units = "pixels" if cells is None else "cells"
            data = data.assign_coords({axis: (axis, values, {"long_name": f"{way} distance", "units": units})})
    return data


def global_attributes(opened: xr.Dataset) -> dict[str, Any]:
    ours = {str(k): _legal(v) for k, v in opened.attrs.items() if k not in NOT_CARRIED and v is not None}
    history = ours.pop("history", None)
    if "lattice-Boltzmann" in str(ours.get("source")):
        ours.setdefault("references", REFERENCES)
    steps = [*([str(history)] if history else []), "exported to netCDF by lbm export"]
    return {"Conventions": CONVENTIONS, **ours, "history": "\n".join(steps)}


def _legal(value: Any) -> Any:
    """A value as a netCDF attribute can hold it: no booleans, no tables."""
    if isinstance(value, bool | np.bool_):
        return np.int8(value)
    if isinstance(value, str | int | float | np.number):
        return value
    array = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else None
    if array is not None and array.ndim == 1 and array.dtype.kind in "iuf" and array.size:
        return array
    return json.dumps(value, default=str)


def attributes(data: xr.Dataset, name: str) -> dict[str, Any]:
    """CF attributes of one variable."""
    variable = data[name]
    attrs = {str(k): _legal(v) for k, v in variable.attrs.items() if v is not None and k not in NOT_CARRIED}
    attrs.setdefault("long_name", name.replace("_", " "))
    units = str(attrs.pop("units", "1"))
    if variable.dtype.kind == "b":
        meanings = MEANINGS.get(name, "false true")
        # `dtype` is what xarray itself writes: it reads True and False back.
        attrs |= {"flag_values": np.array([0, 1], np.int8), "flag_meanings": meanings, "dtype": "bool"}
    elif variable.dtype.kind in "iuf":
        if LATTICE_UNITS.search(units):
            attrs["lattice_units"], units = units, "1"
        attrs["units"] = units
    if name in STANDARD_NAMES:
        attrs["standard_name"] = STANDARD_NAMES[name]
    if name in ("x", "y"):
        attrs["axis"] = name.upper()
    if name in data.data_vars:
        attrs |= _relations(data, name)
    return attrs


def _relations(data: xr.Dataset, name: str) -> dict[str, str]:
    """What else in the file belongs to a data variable, and what its values mean within a pixel and a frame."""
    dims = set(data[name].dims)
    found = {}
    auxiliary = sorted(str(c) for c, v in data.coords.items() if c not in data.dims and set(v.dims) <= dims)
    if auxiliary:
        found["coordinates"] = " ".join(auxiliary)
    moment = "time" if "time" in dims else "lead_time"
    if {moment, "y", "x"} <= dims and "method" not in dims:
        if "solid" in data and set(data["solid"].dims) <= dims:
            found["ancillary_variables"] = "solid"
        filtered = data.attrs.get("cells_per_pixel", 1) > 1
        found["cell_methods"] = f"{moment}: point" + (" y: x: mean" if filtered else "")
    return found
